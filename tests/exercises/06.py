"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch
import torch.nn.functional as F

import wanda_nb as wn
from wanda_nb import checks


def by_log_softmax(logits, tokens):
    log_p = logits.log_softmax(dim=-1)[:, :-1]
    return float((-log_p.gather(-1, tokens[:, 1:].unsqueeze(-1))).mean().exp())


def in_bits(logits, tokens):
    p = torch.softmax(logits[:, :-1], dim=-1).gather(-1, tokens[:, 1:, None])
    return 2 ** (-p.log2().mean())


def window_by_window(logits, tokens):
    losses = [F.cross_entropy(one[:-1], ids[1:]) for one, ids in zip(logits, tokens, strict=True)]
    return np.exp(np.mean([float(loss) for loss in losses]))


def cross(logits, tokens):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1), reduction="none")


def no_shift(logits, tokens):
    return float(cross(logits, tokens).mean().exp())


def backwards(logits, tokens):
    return float(cross(logits[:, 1:], tokens[:, :-1]).mean().exp())


def mean_of_windows(logits, tokens):
    losses = cross(logits[:, :-1], tokens[:, 1:]).view(len(tokens), -1)
    return float(losses.mean(1).exp().mean())


def two_to_nats(logits, tokens):
    return float(2 ** cross(logits[:, :-1], tokens[:, 1:]).mean())


def exp_of_bits(logits, tokens):
    return float(torch.exp(-logits.softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None]).log2().mean()))


def exp_of_sum(logits, tokens):
    return float(cross(logits[:, :-1], tokens[:, 1:]).sum().exp())


def first_counted(logits, tokens):
    return float((cross(logits[:, :-1], tokens[:, 1:]).sum() / tokens.numel()).exp())


def rolled(logits, tokens):
    return float(cross(logits, torch.roll(tokens, -1, dims=1)).mean().exp())


def joined(logits, tokens):
    return float(F.cross_entropy(logits.reshape(-1, logits.shape[-1])[:-1], tokens.reshape(-1)[1:]).exp())


def no_exp(logits, tokens):
    return cross(logits[:, :-1], tokens[:, 1:]).mean()


def overflows(logits, tokens):
    p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return float((-p[:, :-1].gather(2, tokens[:, 1:, None]).log().mean()).exp())


def by_index(differences, draws, generator):
    n = len(differences)
    means = differences[torch.randint(n, (draws, n), generator=generator)].mean(dim=1)
    return tuple(torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist())


def by_loop(differences, draws, generator):
    n, means = len(differences), []
    for _ in range(draws):
        means.append(float(differences[torch.randint(0, n, (n,), generator=generator)].mean()))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def with_numpy(differences, draws, generator):
    draw = np.random.default_rng(generator.initial_seed())
    picked = draw.choice(differences.numpy(), size=(draws, len(differences)))
    return np.percentile(picked.mean(axis=1), [2.5, 97.5])


def by_counts(differences, draws, generator):
    weights = torch.ones(len(differences), dtype=differences.dtype).expand(draws, -1)
    picked = torch.multinomial(weights, len(differences), replacement=True, generator=generator)
    means = differences[picked].mean(1)
    return torch.stack([means.quantile(0.025), means.quantile(0.975)])


def ends(means, low=0.025, high=0.975):
    return tuple(torch.quantile(means, torch.tensor([low, high], dtype=means.dtype)).tolist())


def permuted(differences, draws, generator):
    orders = [torch.randperm(len(differences), generator=generator) for _ in range(draws)]
    return ends(differences[torch.stack(orders)].mean(dim=1))


def single(differences, draws, generator):
    return ends(differences[torch.randint(len(differences), (draws,), generator=generator)])


def ninety(differences, draws, generator):
    n = len(differences)
    return ends(differences[torch.randint(n, (draws, n), generator=generator)].mean(dim=1), 0.05, 0.95)


def half(differences, draws, generator):
    n = len(differences)
    return ends(differences[torch.randint(n, (draws, n // 2), generator=generator)].mean(dim=1))


def five(differences, draws, generator):
    return ends(differences[torch.randint(len(differences), (draws, 5), generator=generator)].mean(dim=1))


def too_many(differences, draws, generator):
    n = len(differences)
    return ends(differences[torch.randint(n, (draws, 4 * n), generator=generator)].mean(dim=1))


def deviations(differences, draws, generator):
    return float(differences.mean() - 2 * differences.std()), float(differences.mean() + 2 * differences.std())


def by_formula(differences, draws, generator):
    error = differences.std() / len(differences) ** 0.5
    return float(differences.mean() - 1.96 * error), float(differences.mean() + 1.96 * error)


def per_cent(differences, draws, generator):
    n = len(differences)
    means = differences[torch.randint(n, (draws, n), generator=generator)].mean(dim=1).numpy()
    return tuple(np.percentile(means, [0.025, 0.975]))


def packaged(differences, draws, generator):
    return wn.mean_interval(differences)[1:]


def swapped(differences, draws, generator):
    return by_index(differences, draws, generator)[::-1]


def own_luck(differences, draws, generator):
    return by_index(differences, draws, None)


def own_draws(differences, draws, generator):
    return by_index(differences, 5000, generator)


def losses(gap=0.01, n=8, spread=1.0):
    a = 3 + spread * torch.arange(float(n)).sin()
    return a, a + gap


def as_arrays():
    a, b = losses(n=100)
    return [a.numpy(), b.numpy().astype(np.float64)]


def paired(interval):
    return lambda a, b, draws, generator: interval(b - a, draws, generator)


def of_both(a, b, draws, generator):  # the same windows, drawn once, and each mean by itself
    picked = torch.randint(len(a), (draws, len(a)), generator=generator)
    return ends(b[picked].mean(dim=1) - a[picked].mean(dim=1))


def apart(a, b, draws, generator, low=0.025, high=0.975):
    n = len(a)
    of_a = a[torch.randint(n, (draws, n), generator=generator)].mean(dim=1)
    of_b = b[torch.randint(n, (draws, n), generator=generator)].mean(dim=1)
    return ends(of_b - of_a, low, high)


def other_sign(a, b, draws, generator):
    return by_index(a - b, draws, generator)


def check_bootstrap(answer, graded=False):  # what is not given is right
    mended, evidence = answer if isinstance(answer, tuple) else (answer, losses)
    checks.bootstrap(mended, evidence, graded=graded)


EXERCISES = {
    "ex06a": {
        "check": checks.perplexity_from_logits,
        "right": [by_log_softmax, in_bits, window_by_window],
        "wrong": [
            (no_shift, "forgot the shift"),
            (backwards, "the wrong way"),
            (mean_of_windows, "the windows' perplexities"),
            (two_to_nats, "base 2 does not fit"),
            (exp_of_bits, "exp does not fit"),
            (exp_of_sum, "exp of the sum"),
            (first_counted, "number of all tokens"),
            (rolled, "from the last position"),
            (joined, "joined the windows"),
            (no_exp, "this is the mean loss"),
            (overflows, "not finite"),
        ],
    },
    "ex06b": {
        "check": check_bootstrap,
        "right": [*map(paired, (by_index, by_loop, with_numpy, by_counts)), of_both, (of_both, as_arrays)],
        "wrong": [
            (checks.reported_interval, "neither fault"),
            (apart, "other windows for a than for b"),
            (paired(ninety), "a 90% interval"),
            (other_sign, "The difference is b - a"),
            (paired(swapped), "swapped"),
            (paired(permuted), "no width"),
            (paired(single), "single values"),
            (paired(half), "half as many"),
            (paired(five), "times as wide"),
            (paired(too_many), "times as wide"),
            (paired(deviations), "two standard deviations"),
            (paired(by_formula), "a formula"),
            (paired(packaged), "widened for few items"),
            (paired(per_cent), "both ends are below the mean"),
            (paired(own_luck), "from generator"),
            (paired(own_draws), "Do you use draws"),
            ((of_both, lambda: losses(gap=0)), "higher than a on 0 of 8 windows"),
            ((of_both, lambda: losses(spread=0.001)), "without 0, and that is no fault"),
            ((of_both, lambda: losses(n=7)), "n 8 or more"),
            ((of_both, lambda: losses()[0]), "expected a pair"),
        ],
    },
}
