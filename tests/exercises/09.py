"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

import wanda_nb as wn
from wanda_nb import checks


def evidence():
    a = torch.linspace(2, 4, 24).repeat(3, 1)
    return a, a + torch.tensor([[0.1], [0.1], [-0.3]])


def five_draws():
    a = np.full((5, 12), 3.0) + np.arange(12) / 10
    return a, a + np.array([0.2, 0.2, 0.1, 0.1, -0.5])[:, None]


def worse_by_far():
    a, b = evidence()
    return a, b + 1


def not_worse():
    a, b = evidence()
    return a, b.flip(0) - 0.2


def one_draw():
    a, b = evidence()
    return a[2], b[2]


def differences(a, b):
    return b - a, (b - a).mean(dim=1)


def by_mean_interval(a, b):
    d, draws = differences(a, b)
    interval = wn.mean_interval(d.mean(dim=0), neighbours=True)
    if interval.low > 0 and draws.min() > 0:
        return -1
    return 1 if interval.high < 0 and draws.max() < 0 else 0


def by_paired_difference(a, b):
    found = wn.paired_difference(a.mean(dim=0), b.mean(dim=0))
    signs = {*(b - a).mean(dim=1).sign().tolist(), float(np.sign(found.low)), float(np.sign(found.high))}
    return -signs.pop() if len(signs) == 1 else 0


def by_block_bootstrap(a, b):
    d = (b - a).double().mean(dim=0).numpy()
    starts = np.random.default_rng(0).integers(len(d), size=(2000, len(d) // 6))
    means = d[(starts[:, :, None] + np.arange(6)) % len(d)].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    draws = (b - a).mean(dim=1)
    return np.int64(bool(high < 0 and (draws < 0).all())) - np.int64(bool(low > 0 and (draws > 0).all()))


def swapped(a, b):
    return -by_mean_interval(a, b)


def best_draws(a, b):
    best = [x[x.mean(dim=1).argmin()] for x in (a, b)]
    found = wn.paired_difference(*best)
    return -1 if found.low > 0 else int(found.high < 0)


def independent(a, b):
    found = wn.paired_difference(a.mean(dim=0), b.mean(dim=0), neighbours=False)
    draws = (b - a).mean(dim=1)
    return -1 if found.low > 0 and draws.min() > 0 else int(found.high < 0 and draws.max() < 0)


def joined(a, b):
    found = wn.paired_difference(a.flatten(), b.flatten())
    return -1 if found.low > 0 else int(found.high < 0)


def windows_only(a, b):
    found = wn.paired_difference(a.mean(dim=0), b.mean(dim=0))
    return -1 if found.low > 0 else int(found.high < 0)


def draws_only(a, b):
    draws = (b - a).mean(dim=1)
    return -1 if draws.min() > 0 else int(draws.max() < 0)


def two_intervals(a, b):
    a, b = (wn.perplexity_interval(x.mean(dim=0)) for x in (a, b))
    return -1 if a.high < b.low else int(b.high < a.low)


def ranges(a, b):
    a, b = a.mean(dim=1), b.mean(dim=1)
    return -1 if a.max() < b.min() else int(b.max() < a.min())


def means(a, b):
    return -1 if a.mean() < b.mean() else 1


def only_one_side(a, b):
    return min(by_mean_interval(a, b), 0)


def check_winner(answer, graded=False):
    function, shown = answer if isinstance(answer, tuple) else (answer, evidence)
    checks.fair_winner(function, shown, graded=graded)


def gram(X, trust=1.0):
    """Products of channels (in, in), those of two different ones times ``trust``."""
    H = X.T @ X
    return trust * H + (1 - trust) * H.diag().diag()


def half(score):
    return wn.prune_mask(score, 0.5)


def beside(W, H, gone):
    return W**2 * H.diag() + 2 * W * ((W * gone) @ H - W * gone * H.diag())


def small_steps(W, X):
    H, score = gram(X, 0.3), W**2 * X.square().sum(dim=0)
    for _ in range(20):
        score = 0.9 * score + 0.1 * beside(W, H, half(score))
    return score


def average_mask(W, X):
    H, gone = gram(X, 0.3), half(W.abs() * X.norm(dim=0)).float()
    for _ in range(20):
        gone = 0.9 * gone + 0.1 * half(beside(W, H, gone)).float()
    return -gone.numpy()


def few_at_a_time(W, X, steps=50):
    H, kept = gram(X, 0.2), torch.ones_like(W)
    for step in range(steps):
        cost = beside(W, H, 1 - kept).masked_fill(kept == 0, torch.inf)
        count = W.shape[1] // 2 * (step + 1) // steps - W.shape[1] // 2 * step // steps
        kept.scatter_(1, cost.topk(count, largest=False).indices, 0)
    return kept


def wanda(W, X):
    return (W.abs() * X.norm(dim=0)).log()


def magnitude(W, X):
    return W**2 * X.norm()


def upside_down(W, X):
    return 1 / (1e-9 + W.abs() * X.norm(dim=0))


def signed(W, X):
    return W * X.norm(dim=0)


def quiet_first(W, X):
    return W.abs() / X.norm(dim=0)


def one_a_channel(W, X):
    return W.abs().mean(dim=0) * X.norm(dim=0)


def channel_alone(W, X):
    return 0 * W + X.norm(dim=0)


def roots_of_negatives(W, X):
    return (W * X.mean(dim=0)).sqrt()


def all_at_once(W, X):
    return beside(W, gram(X), half(wanda(W, X)))


def wrong_sign(W, X):
    H, gone = gram(X), W * half(wanda(W, X))
    return W**2 * H.diag() - 2 * W * (gone @ H - gone * H.diag())


def with_all_others(W, X):
    return beside(W, gram(X), torch.ones_like(W))


def sparsegpts(W, X):
    H = gram(X).double()
    return W**2 / torch.linalg.inv(H + 0.01 * H.diag().mean() * torch.eye(len(H))).diag()


def root_of_norm(W, X):
    return W.abs() * X.norm(dim=0).sqrt()


def one_small_step(W, X):
    return beside(W, gram(X, 0.03), half(wanda(W, X)))


def forgot(W, X):
    W.abs() * X.norm(dim=0)


def with_less(few, rest=None):
    """The share of each of 30 blocks: {block: share}, and what is left of the budget on all others."""
    rest = (15 - sum(few.values())) / (30 - len(few)) if rest is None else rest
    return [few.get(block, rest) for block in range(30)]


def first_and_last(loss):
    return with_less({0: 0.3, 29: 0.3})


def three_of_them(loss):
    return torch.tensor(with_less({0: 0.35, 1: 0.35, 29: 0.35}))


def a_few_asked(loss):  # of five blocks, alone at 70%
    alone = {block: loss([0.7 * (block == other) for other in range(30)]) for block in (0, 7, 14, 21, 29)}
    worst = sorted(alone, key=alone.get)[-2:]
    return np.array(with_less(dict.fromkeys(worst, 0.3)))


def all_the_same(loss):
    return [0.5] * 30


def one_a_layer(loss):
    return [0.5] * 210


def too_few(loss):
    return with_less({0: 0.3, 29: 0.3})[1:]


def per_cent(loss):
    return [100 * share for share in first_and_last(loss)]


def below_nothing(loss):
    return with_less({0: -0.1})


def nothing_made_up(loss):
    return with_less({0: 0.3, 29: 0.3}, rest=0.5)


def too_much(loss):
    return with_less({0: 0.3, 29: 0.3}, rest=0.55)


def what_is_kept(loss):
    return [1 - share for share in first_and_last(loss)]


def all_from_one_half(loss):
    return [0.2] * 15 + [0.8] * 15


def last_alone(loss):
    return with_less({29: 0.3})


def noise(loss):
    return [0.45, 0.55] * 15


def by_rank(loss):  # evenly, however little most blocks differ
    order = [
        16,
        7,
        15,
        10,
        18,
        19,
        8,
        9,
        12,
        5,
        6,
        4,
        21,
        17,
        13,
        14,
        3,
        20,
        22,
        24,
        26,
        25,
        28,
        27,
        11,
        23,
        2,
        1,
        29,
        0,
    ]
    return [0.55 - 0.1 * order.index(block) / 29 for block in range(30)]


def forgot_loss(loss):
    loss([0.5] * 30)


def asked_for_a_layer(loss):
    return loss(one_a_layer(loss))


EXERCISES = {
    "ex09a": {
        "check": check_winner,
        "right": [by_mean_interval, by_paired_difference, by_block_bootstrap, (by_mean_interval, five_draws)],
        "wrong": [
            (checks.reported_winner, "neither fault"),
            (swapped, "sign is swapped"),
            (best_draws, "the best draw of each"),
            (independent, "count them as independent"),
            (joined, "counts each window several times"),
            (windows_only, "One draw says the opposite"),
            (draws_only, "on the same few windows"),
            (two_intervals, "two intervals"),
            (ranges, "the ranges of the draws"),
            (means, "means only"),
            (only_one_side, "b never wins"),
            ((by_mean_interval, worse_by_far), "not caught yet"),
            ((by_mean_interval, not_worse), "in more than half"),
            ((by_mean_interval, one_draw), "(draws, windows)"),
        ],
    },
    "ex09b": {
        "check": checks.my_score,
        "right": [small_steps, average_mask, few_at_a_time],
        "wrong": [
            (wanda, "the same weights as Wanda's"),
            (magnitude, "the same weights as magnitude"),
            (upside_down, "upside down"),
            (signed, "negative weights score lowest"),
            (quiet_first, "the louder a channel"),
            (one_a_channel, "one score for each weight"),
            (channel_alone, "Look at W too"),
            (roots_of_negatives, "NaN"),
            (all_at_once, "all weights move at once"),
            (wrong_sign, "the wrong sign"),
            (with_all_others, "only half of them go"),
            (sparsegpts, "after* an update"),
            (root_of_norm, "times that of Wanda's"),
            (one_small_step, "You are on the way"),
            (forgot, "Does it end with a return"),
        ],
    },
    "ex09c": {
        "check": checks.allocated,
        "right": [first_and_last, three_of_them, a_few_asked],
        "wrong": [
            (all_the_same, "where we began"),
            (one_a_layer, "one share for each layer"),
            (too_few, "one share for each block"),
            (per_cent, "per cent"),
            (below_nothing, "in [0, 1)"),
            (nothing_made_up, "others must lose"),
            (too_much, "you remove more than was asked"),
            (what_is_kept, "Upside down"),
            (all_from_one_half, "says little of how much it bears"),
            (last_alone, "The right direction"),
            (noise, "measured noise"),
            (by_rank, "with an interval up to"),
            (asked_for_a_layer, "one share for each layer"),
            (forgot_loss, "Does it end with a return"),
        ],
    },
}
