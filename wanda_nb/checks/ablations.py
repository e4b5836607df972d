"""Checks of notebook 09: a report that names winners, to be mended, and a score that beats Wanda's on real layers."""

from __future__ import annotations

import math

import torch

from ..evaluation.uncertainty import mean_interval
from ..masks import prune_mask
from .core import call, done, given_evidence, judge, tensor
from .layers import real_layers


def reported_winner(a, b) -> int:
    """What a report says of two settings by their losses (draws, windows): -1, a wins; 1, b wins; 0, no winner.

    It has two faults, for the reader to find. Used in notebook 09, "Exercise 09.1".
    """
    of_a = a[a.mean(dim=1).argmin()]  # (windows,)
    of_b = b[b.mean(dim=1).argmin()]  # (windows,)
    difference = of_b - of_a  # (windows,): the same windows
    error = difference.std() / len(difference) ** 0.5
    return int(difference.mean() < -2 * error) - int(difference.mean() > 2 * error)


def _beyond(values, neighbours: bool = True) -> int:
    """-1 if values are above 0 by their interval, so that a wins, 1 if they are below, else 0."""
    interval = mean_interval(values, neighbours=neighbours)
    return int(interval.high < 0) - int(interval.low > 0)


def _agreed(a, b) -> int:
    """-1 if every draw is for a, 1 if every draw is for b, else 0."""
    means = (b - a).mean(dim=1)
    return int(bool((means < 0).all())) - int(bool((means > 0).all()))


def _winner(a, b, neighbours: bool = True) -> int:
    side = _beyond((b - a).mean(dim=0), neighbours)
    return side if side == _agreed(a, b) else 0


def _best(a, b):
    return b[b.mean(dim=1).argmin()] - a[a.mean(dim=1).argmin()]


def _apart(a, b) -> int:
    a, b = (mean_interval(x.mean(dim=0), neighbours=True) for x in (a, b))
    return int(b.high < a.low) - int(a.high < b.low)


def _ranges(a, b) -> int:
    a, b = a.mean(dim=1), b.mean(dim=1)
    return int(b.max() < a.min()) - int(a.max() < b.min())


WINNER = {
    "this is the report as it was: neither fault is mended.": reported_winner,
    "the sign is swapped: a low loss is good, so 1 where b's is lower.": lambda a, b: -_winner(a, b),
    "one fault is left: you take the best draw of each. Luck makes one good draw; and draw 0 of a belongs to draw 0 of "
    "b.": lambda a, b: _beyond(_best(a, b)),
    "one fault is left: neighbouring windows are alike, and you count them as independent.": (
        lambda a, b: _winner(a, b, neighbours=False)
    ),
    "neighbouring windows are alike, and you count them as independent; and one draw may say the opposite.": (
        lambda a, b: _beyond((b - a).mean(dim=0), neighbours=False)
    ),
    "the draws are read on the same windows, so that joining them counts each window several times. Take the mean over "
    "draws first.": lambda a, b: _beyond((b - a).flatten()),
    "you joined the draws, and each window counts several times, as if it were new. Take the mean over draws first.": (
        lambda a, b: _beyond((b - a).flatten(), neighbours=False)
    ),
    "the interval knows of the windows only. One draw says the opposite: then there is no winner.": (
        lambda a, b: _beyond((b - a).mean(dim=0))
    ),
    "all draws agree, but on the same few windows. Ask for the interval over windows, too.": _agreed,
    "you compared two intervals. A window that is hard is hard for both: take the interval of the differences.": _apart,
    "you compared the ranges of the draws, unpaired. Draws have seeds, and windows are the same: take differences.": (
        _ranges
    ),
    "you compared the means only. How far could they lie apart by luck?": (
        lambda a, b: int((a.mean() - b.mean()).sign())
    ),
    "a never wins. If a's loss is lower, answer -1.": lambda a, b: max(_winner(a, b), 0),
    "b never wins. If b's loss is lower, answer 1.": lambda a, b: min(_winner(a, b), 0),
}


def fair_winner(function, evidence, graded: bool = False) -> None:
    """Exercise 09.1: ``evidence()`` shows that ``reported_winner`` is wrong; ``function`` is that, mended.

    evidence gives losses (a, b), (draws, windows) each: in most draws b is higher on every window, yet the report says
    that b wins. function(a, b) -> -1, 0 or 1: a winner if the interval of the mean over draws of b - a, neighbouring
    windows in blocks, lies on one side of 0, and every draw on the same. graded: on more cases. AssertionError, naming
    the mistake. Used in notebook 09, "Exercise 09.1".
    """
    _judge_evidence(evidence)
    judge(function, _cases(graded), _winner, WINNER)
    done("09.1", "paired by window and draw, neighbours in blocks, and every draw on the same side", graded)


def _judge_evidence(evidence) -> None:
    a, b = (torch.as_tensor(losses).double() for losses in given_evidence(evidence, 2, "a pair (a, b) of losses"))
    if a.ndim != 2 or a.shape != b.shape or len(a) < 3 or a.shape[1] < 8:
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)}"
        raise AssertionError(f"evidence: expected two tensors (draws, windows), 3 by 8 or more; got {shapes}.")
    worse = int((b > a).all(dim=1).sum())
    if 2 * worse <= len(a):
        raise AssertionError(
            f"evidence: b is higher on every window in {worse} of {len(a)} draws. Let it be so in more than half."
        )
    said = reported_winner(a, b)
    if said != 1:
        raise AssertionError(f"evidence: the report says {said}, not 1, so it is not caught yet. What does it look at?")


def _cases(graded: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Losses of three draws and 24 windows or more, none near a border."""
    draw = torch.Generator().manual_seed(1 if graded else 0)

    def pair(by_draw, by_window=0.0, noise=0.01, windows=24):
        hard = 3 + 0.5 * torch.randn(windows, generator=draw)  # windows differ far more than settings
        a = hard + 0.02 * torch.randn(len(by_draw), 1, generator=draw)
        noise = noise * torch.randn(len(by_draw), windows, generator=draw)
        return a, a + torch.tensor(by_draw)[:, None] + by_window + noise

    stretch = torch.cat([torch.full((10,), 0.06), torch.full((14,), -0.005)])  # neighbours are alike
    cases = [
        pair([0.05, 0.06, 0.05]),
        pair([-0.04, -0.05, -0.06]),
        pair([0.2, 0.2, -0.1], noise=0.005),  # one lucky draw
        pair([0.0, 0.0, 0.0], torch.tensor([0.1, -0.05]).repeat(12), noise=0.002),  # a neighbour makes up for it
        pair([0.0, 0.0, 0.0], stretch, noise=0.004),
        pair([-0.02, -0.02, -0.02], -stretch / 2, noise=0.004),
        pair([-0.06, -0.05, 0.02], noise=0.002),  # a draw that says the opposite
        pair([0.004, 0.005, 0.006], stretch - 0.022, noise=0.004),
        pair([0.0, 0.001, -0.001], noise=0.02),
    ]
    if graded:
        cases += [
            tuple(-losses for losses in pair([0.0, 0.0, 0.0], stretch, noise=0.004)),
            tuple(losses.double() for losses in pair([0.05] * 5, windows=40)),
            pair([0.03, 0.04, 0.03, -0.4], noise=0.005),
            pair([-0.03, -0.04], noise=0.005, windows=32),
        ]
    return cases


BAR = 0.95  # the geometric mean of the layers' errors over Wanda's


def _crossing(W, X, others):
    """What a weight costs beside removed ``others`` (out, in): its own square, and twice its products with them."""
    H = X.T @ X
    alone = W**2 * H.diag()
    return alone, 2 * W * (others @ H - others * H.diag())


def _beside_wandas(W, X, sign: int = 1):
    own, crossed = _crossing(W, X, W * prune_mask(W.abs() * X.norm(dim=0), 0.5))
    return own + sign * crossed


def _after_update(W, X):  # 0.01 as SparseGPT's damping
    H = (X.T @ X).double()
    return W**2 / torch.linalg.inv(H + 0.01 * H.diag().mean() * torch.eye(len(H), dtype=H.dtype)).diag()


MY_SCORE = {
    "your score removes the same weights as Wanda's: each is weighed as if it went alone. What do others do to it?": (
        lambda W, X: W.abs() * X.norm(dim=0)
    ),
    "your score removes the same weights as magnitude. Use X so that it changes the order within a row.": (
        lambda W, X: W.abs()
    ),
    "upside down: you remove what Wanda keeps. The lowest scores go, so what matters more must score higher.": (
        lambda W, X: -W.abs() * X.norm(dim=0)
    ),
    "negative weights score lowest. They matter as much as positive ones.": lambda W, X: W * X.norm(dim=0),
    "the louder a channel, the lower your score. Its weights matter more, not less.": (
        lambda W, X: W.abs() / X.norm(dim=0)
    ),
    "all weights of a channel score the same. Look at W too.": lambda W, X: X.norm(dim=0).expand(W.shape).clone(),
    "the products are right, but all weights move at once: what was cheap beside Wanda's choice is dear beside the new "
    "one. Go there in small steps.": _beside_wandas,
    "the products have the wrong sign: a weight whose part of the output has the sign of what is lost already makes it "
    "worse, and must score higher.": lambda W, X: _beside_wandas(W, X, -1),
    "you multiply with *all* other weights, but only half of them go. Take those that are removed.": (
        lambda W, X: sum(_crossing(W, X, W))
    ),
    "this is SparseGPT's score. It says what is left *after* an update of the weights that stay; here nothing is "
    "updated.": _after_update,
}


def my_score(function, graded: bool = False) -> None:
    """Exercise 09.2: ``function(W, X)``: at 50% of each output, less output error than Wanda's score on real layers.

    W (out, in), X (tokens, in) -> score (out, in); the lowest go, and nothing is updated. Judged on held-out tokens:
    less error on every layer, and 5% less in the geometric mean. Layers of block 2, and of 14; graded: of 27, too.
    AssertionError, naming the mistake. Used in notebook 09, "Exercise 09.2".
    """
    layers = {name: layer for name, layer in real_layers().items() if graded or not name.startswith("27.")}
    masks = {name: prune_mask(_scored(function, W, X), 0.5) for name, (W, X, _) in layers.items()}
    ratios = {}
    for name, (W, X, heldout) in layers.items():
        mine, wanda = (_error(W, heldout, mask) for mask in (masks[name], prune_mask(W.abs() * X.norm(dim=0), 0.5)))
        ratios[name] = mine / wanda
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    if max(ratios.values()) < 1 and mean <= BAR:
        return done("09.2", "less output error than Wanda's on every layer, by 5% or more in the mean", graded)
    for said, score in MY_SCORE.items():
        if all(torch.equal(masks[name], prune_mask(score(W, X), 0.5)) for name, (W, X, _) in layers.items()):
            raise AssertionError(said)
    for name, ratio in ratios.items():
        if ratio >= 1:
            raise AssertionError(
                f"{name}: on held-out text the error of the output is {ratio:.3f} times that of Wanda's. If yours is "
                "ahead on X itself, it trusts too much in products estimated from 1024 tokens: give them less weight."
            )
    raise AssertionError(
        f"less error than Wanda's on every layer, but by {1 - mean:.1%} in the mean, and the bar is {1 - BAR:.0%}. You "
        "are on the way: more steps, or smaller ones?"
    )


def _scored(function, W, X) -> torch.Tensor:
    score = tensor(call(function, W, X), W.shape, "one score for each weight").double()
    if bool(score.isnan().any()):
        raise AssertionError(
            "some scores are NaN, and NaN has no place in an order. Did you divide zero by zero, or take a root or "
            "logarithm of a negative number?"
        )
    return score


def _error(W, X, mask) -> float:
    """What is lost of the output, as a fraction of its norm."""
    return float((X @ (W * mask).T).norm() / (X @ W.T).norm())
