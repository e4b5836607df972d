"""Check of notebook 05: the damping of an update, chosen on tokens that it has not seen."""

from __future__ import annotations

import torch

from ..masks import prune_mask
from ..scores import wanda_score
from ..updates import least_squares
from .core import done, judge


def _documents(tokens: int, channels: int, kinds: int, noise: float, seed: int, shares: tuple) -> tuple:
    """W, X, mask, shares: X of documents of eight tokens, which are alike, in channels that have much in common."""
    draw = torch.Generator().manual_seed(seed)
    topics, X = torch.randn(tokens // 8, kinds, generator=draw), torch.randn(kinds, channels, generator=draw)
    X = topics.repeat_interleave(8, dim=0) @ X + noise * torch.randn(tokens, channels, generator=draw)
    W = torch.randn(6, channels, generator=draw)
    return W, X, prune_mask(wanda_score(W, X.norm(dim=0))), shares


def _errors(W, X, mask, shares, parts=lambda X: X.chunk(2)) -> torch.Tensor:
    """The output error of each damping: fitted to one part of the tokens, judged on another."""
    fitted, judged = parts(X)
    gram = fitted.T @ fitted
    found = [least_squares(W, gram, mask, damping=share)[0] for share in shares]
    return torch.stack([(judged @ (new - W).T).norm() for new in found])


def _chosen(W, X, mask, shares, **how):
    return shares[int(_errors(W, X, mask, shares, **how).argmin())]


CHOSEN = {
    "on tokens of the fit, the least damping always looks best. Fit to the first half, judge on the second.": (
        lambda W, X, mask, shares: min(shares)
    ),
    "this is always the largest: no weight moves far, but how far is not the question. Judge by the output error.": (
        lambda W, X, mask, shares: max(shares)
    ),
    "the tokens that you judge on hold those of the fit. Judge on the second half alone.": (
        lambda *given: _chosen(*given, parts=lambda X: (X.chunk(2)[0], X))
    ),
    "you fitted to all tokens, so none is unseen. Fit to the first half alone.": (
        lambda *given: _chosen(*given, parts=lambda X: (X, X.chunk(2)[1]))
    ),
    "the halves are swapped. Fit to the first, judge on the second.": (
        lambda *given: _chosen(*given, parts=lambda X: X.chunk(2)[::-1])
    ),
    "you took every second token. Neighbours are alike, so these are hardly unseen: divide X in the middle.": (
        lambda *given: _chosen(*given, parts=lambda X: (X[::2], X[1::2]))
    ),
    "the first of the shares, always. Does the damping reach the fit, as damping=share?": (
        lambda W, X, mask, shares: shares[0]
    ),
    "this is the share with the largest error.": lambda *given: given[3][int(_errors(*given).argmax())],
    "this is the place in the list. Return the share itself.": lambda *given: int(_errors(*given).argmin()),
    "this is the error. Return the share that has it.": lambda *given: float(_errors(*given).min()),
}


# (tokens, channels, kinds of documents, noise, seed, shares): the best is ahead of the others by 6% or more.
SHOWN = [
    (96, 12, 8, 0.5, 13, (0.1, 10, 0.001, 1, 0.01)),
    (64, 12, 4, 0.5, 11, (2, 0.02, 0.2, 20, 0.002)),
    (48, 16, 4, 0.3, 13, (0.05, 0.5, 5, 50, 0.005)),
]
GRADED = [
    (160, 16, 8, 0.3, 10, (2, 0.02, 0.2, 20, 0.002)),
    (96, 16, 6, 0.2, 4, (0.05, 0.5, 5, 50, 0.005)),
]


def chosen_damping(function, graded: bool = False) -> None:
    """Exercise 05.3: ``function(W, X, mask, shares)`` -> the share whose update errs least on tokens it has not seen.

    W (out, in), X (tokens, in), mask (out, in) bool, True = removed: fitted by least squares to the first half of the
    tokens, judged on the second. graded: on more cases. AssertionError, naming the mistake. Used in notebook 05,
    "Exercise 05.3".
    """
    cases = [_documents(*case) for case in SHOWN + (GRADED if graded else [])]
    judge(function, cases, _chosen, CHOSEN)
    done("05.3", "fitted to one half, judged on the other", graded)
