"""Checks of notebook 09: when there is a winner, and a score of the student's own."""

from __future__ import annotations

import torch

from ..masks import prune_mask
from .core import call, done, judge, tensor


def _winner(a, b) -> int:
    return -1 if a.max() < b.min() else int(b.max() < a.min())


def _low(draws):
    return draws.mean() - draws.std(correction=int(len(draws) > 1))


def _high(draws):
    return draws.mean() + draws.std(correction=int(len(draws) > 1))


CLEAR_WINNER = {
    "the sign is swapped: lower perplexity is better, so -1 where all of a are lower.": lambda a, b: -_winner(a, b),
    "you compared the means only. A winner needs ranges that do not touch.": (
        lambda a, b: (a.mean() - b.mean()).sign().int()
    ),
    "you compared the medians only. A winner needs ranges that do not touch.": (
        lambda a, b: (a.median() - b.median()).sign().int()
    ),
    "you compared the best of each. Luck alone makes one good draw; a winner needs ranges that do not touch.": (
        lambda a, b: (a.min() - b.min()).sign().int()
    ),
    "you compared the worst of each. A winner needs ranges that do not touch.": (
        lambda a, b: (a.max() - b.max()).sign().int()
    ),
    "you compared draw by draw. Our rule is about ranges: every draw of one below *every* draw of the other.": (
        lambda a, b: -1 if (a < b).all() else int((b < a).all())
    ),
    "you compared the best of one with the worst of the other, the wrong way round.": (
        lambda a, b: -1 if a.min() < b.max() else int(b.min() < a.max())
    ),
    "ranges with a common end touch, and then there is no winner: < and not <=.": (
        lambda a, b: -1 if a.max() <= b.min() else int(b.max() <= a.min())
    ),
    "you compared means plus and minus a standard deviation. The rule is about all draws, from lowest to highest.": (
        lambda a, b: int(_low(a) > _high(b)) - int(_high(a) < _low(b))
    ),
    "b never wins. If all of b are lower, answer 1.": lambda a, b: min(_winner(a, b), 0),
    "a never wins. If all of a are lower, answer -1.": lambda a, b: max(_winner(a, b), 0),
}


def clear_winner(function, graded: bool = False) -> None:
    """Exercise 09.1: ``function(a, b)``: -1 if every draw of a is lower than every draw of b, 1 the other way, else 0.

    a, b: perplexities (draws,) of two settings. graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 09, "Exercise 09.1".
    """
    pairs = [
        ([32.4, 33.3, 34.5], [33.7, 36.4, 37.0]),  # each seed ahead, and yet they touch
        ([400.0, 451.0, 457.0], [185.0, 203.0, 208.0]),
        ([16.0, 16.1, 16.1], [17.9, 17.8, 18.0]),
        ([30.0, 31.0, 32.0], [32.0, 33.0, 34.0]),  # a common end
        ([30.0, 36.0, 37.0], [31.0, 32.0, 33.0]),
        ([20.0, 20.1, 30.0], [21.0, 21.1, 21.2]),
        ([20.0, 20.0, 24.0], [23.0, 23.5, 23.6]),
        ([10.0, 10.1, 10.0, 10.1, 10.0, 12.0], [11.9, 13.0, 13.1, 13.0, 13.1, 13.0]),
    ]
    if graded:
        pairs += [
            ([34.0, 33.0, 32.0], [32.0, 31.0, 30.0]),
            ([5.0, 5.0], [5.0, 5.0]),
            ([7.26], [7.22]),
            ([99.0, 98.0, 97.0, 96.0], [95.9, 95.0, 20.0, 95.5]),
        ]
    cases = [(torch.tensor(a), torch.tensor(b)) for a, b in pairs]
    judge(function, cases, _winner, CLEAR_WINNER)
    done("09.1", "a winner only where the ranges do not touch", graded)


MY_SCORE = {
    "your score removes the same weights as magnitude. Use norm so that it changes the order within a row.": (
        lambda W, norm: W.abs()
    ),
    "upside down: you remove what Wanda keeps. The lowest scores go, so what matters more must score higher.": (
        lambda W, norm: -W.abs() * norm
    ),
    "upside down: you remove the largest weights. The lowest scores go, so what matters more must score higher.": (
        lambda W, norm: -W.abs()
    ),
    "the louder a channel, the lower your score. Its weights matter more, not less.": lambda W, norm: W.abs() / norm,
    "negative weights score lowest. They matter as much as positive ones: take W.abs().": lambda W, norm: W * norm,
    "negative weights score lowest, and norm changes nothing. Take W.abs(), and let norm have its say.": (
        lambda W, norm: W
    ),
    "all weights of a channel score the same. Look at W too.": lambda W, norm: norm.expand(W.shape).clone(),
}


def my_score(function, graded: bool = False) -> None:
    """Exercise 09.2: ``function(W, norm)``: at 50% of each output, less output error than magnitude on every layer.

    W (out, in), norm (in,) -> score (out, in); the lowest go. The layers are made up: correlated inputs, a few of them
    loud. graded: on more layers, one with a column of zeros and a silent channel. AssertionError, naming the mistake.
    Used in notebook 09, "Exercise 09.2".
    """
    draw = torch.Generator().manual_seed(0)
    layers = [_layer(draw, spread, loud) for spread, loud in ((0.4, 4), (0.6, 0), (1.0, 2))]
    if graded:
        draw.manual_seed(1)
        layers += [_layer(draw, 0.5, 3, out=48, width=31), _layer(draw, 0.6, 3)]
        W, X = layers[-1]
        W[:, 7], X[:, 5] = 0, 0
    norms = [X.norm(dim=0) for _, X in layers]
    masks = [prune_mask(_scored(function, W, norm), 0.5) for (W, _), norm in zip(layers, norms, strict=True)]
    for said, score in MY_SCORE.items():
        theirs = [prune_mask(score(W, norm).nan_to_num(), 0.5) for (W, _), norm in zip(layers, norms, strict=True)]
        if all(map(torch.equal, masks, theirs)):
            raise AssertionError(said)
    for number, ((W, X), mask) in enumerate(zip(layers, masks, strict=True), 1):
        mine, magnitude = _error(W, X, mask), _error(W, X, prune_mask(W.abs(), 0.5))
        if not mine < magnitude:
            raise AssertionError(
                f"layer {number} of {len(layers)}: your score loses {mine:.1%} of the output, magnitude "
                f"{magnitude:.1%}. The lowest scores of each row go; a weight should score high if it is large *and* "
                "its channel is loud."
            )
    done("09.2", "less output error than magnitude, on every layer", graded)


def _layer(draw, spread: float, loud: int, out: int = 24, width: int = 64, tokens: int = 256):
    """W (out, in) and X (tokens, in): correlated channels of different loudness, some 15 times louder still."""
    mix = torch.eye(width) + 0.5 * torch.randn(width, width, generator=draw) / width**0.5
    loudness = (spread * torch.randn(width, generator=draw)).exp()
    loudness[torch.randperm(width, generator=draw)[:loud]] *= 15
    return torch.randn(out, width, generator=draw), torch.randn(tokens, width, generator=draw) @ mix * loudness


def _scored(function, W, norm) -> torch.Tensor:
    score = tensor(call(function, W, norm), W.shape, "one score for each weight").double()
    if bool(score.isnan().any()):
        raise AssertionError(
            "some scores are NaN, and NaN has no place in an order. Did you divide zero by zero (a silent channel, a "
            "column of zeros), or take a root or logarithm of a negative weight?"
        )
    return score


def _error(W, X, mask) -> float:
    """What is lost of the output, as a fraction of its norm."""
    return float((X @ (W * mask).T).norm() / (X @ W.T).norm())
