"""Checks of notebook 05: damping, the price of a weight, and the best that the others can do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..updates import inverse_factor, obs_prune
from .core import done, judge


def _related(tokens: int, channels: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    """X (tokens, channels), of channels that have much in common, some loud and some quiet."""
    draw = torch.Generator().manual_seed(seed)
    own, common = (torch.randn(tokens, count, generator=draw) for count in (channels, 1))
    return ((own + common) * (torch.rand(channels, generator=draw) + 0.5)).to(dtype)


def _gram(tokens: int, channels: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    X = _related(tokens, channels, seed, dtype)
    return X.T @ X


def _on_diagonal(amount: Callable) -> Callable:
    return lambda H, share: H + amount(H, share) * torch.eye(len(H), dtype=H.dtype)


_damped = _on_diagonal(lambda H, share: share * H.diagonal().mean())

DAMPED = {
    "you added to every element. Only the diagonal gets it.": lambda H, share: H + share * H.diagonal().mean(),
    "you added the share itself. Add the share of the mean of the diagonal.": _on_diagonal(lambda H, share: share),
    "you scaled each element of the diagonal by its own size. All get the same number.": (
        lambda H, share: H + share * torch.diag(H.diagonal())
    ),
    "you took the mean over all of H. It is the mean of the diagonal.": _on_diagonal(lambda H, share: share * H.mean()),
    "you took the sum of the diagonal. It is the mean.": _on_diagonal(lambda H, share: share * H.trace()),
    "you took the largest of the diagonal. It is the mean.": (
        _on_diagonal(lambda H, share: share * H.diagonal().max())
    ),
    "this is λ on a diagonal, without H. Add it to H.": (
        lambda H, share: share * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    ),
    "you subtracted. Damping adds, so that no direction is free.": lambda H, share: _damped(H, -share),
    "H is as it was. Return the damped matrix.": lambda H, share: H,
}


def damped(function, graded: bool = False) -> None:
    """Exercise 05.1: ``function(H, share)`` adds share times the mean of the diagonal to each element of the diagonal.

    H (in, in) -> (in, in). graded: on more cases. AssertionError, naming the mistake. Used in notebook 05,
    "Exercise 05.1".
    """
    cases = [(torch.tensor([[10.0, 6], [6, 4]]), 0.5), (_gram(20, 5, seed=0), 0.1)]
    if graded:
        cases += [(_gram(8, 12, seed=1, dtype=torch.float64), 0.01), (_gram(9, 3, seed=2), 0.0)]
        cases += [(torch.tensor([[3.0]]), 2)]
    judge(function, cases, _damped, DAMPED, tolerance=1e-5)
    done("05.1", "the same λ on the whole diagonal, and nowhere else", graded)


def _price(w, H):
    return w.pow(2) / torch.linalg.inv(H.double()).diagonal()


REMOVAL_COST = {
    "you multiplied by the diagonal of H: Wanda's score, squared. First invert the whole H, then take the diagonal.": (
        lambda w, H: w.pow(2) * H.diagonal()
    ),
    "you divided by the diagonal of H. Divide by the diagonal of its inverse.": lambda w, H: w.pow(2) / H.diagonal(),
    "you multiplied by the diagonal of the inverse. Divide by it.": (
        lambda w, H: w.pow(2) * torch.linalg.inv(H).diagonal()
    ),
    "you did not square the weight.": lambda w, H: w / torch.linalg.inv(H).diagonal(),
    "you took the size of the weight, not its square.": lambda w, H: w.abs() / torch.linalg.inv(H).diagonal(),
    "half of it: with H = XᵀX, without the 2 of the second derivative, no 1/2 is left.": lambda w, H: _price(w, H) / 2,
    "twice as much: with H = XᵀX, without the 2 of the second derivative, no 2 is left.": lambda w, H: 2 * _price(w, H),
    "this is the root of the error. Square it.": lambda w, H: _price(w, H).sqrt(),
    "you divided by the squared diagonal of the triangle U. That is right only where all columns to the left are "
    "settled. Take the diagonal of the inverse itself.": (
        lambda w, H: (w / inverse_factor(H, damping=0.0)[0].diagonal()).pow(2)
    ),
}


def removal_cost(function, graded: bool = False) -> None:
    """Exercise 05.2: ``function(w, H)`` -> (in,): the error that removing each weight leaves after the best update.

    w (in,), H = XᵀX (in, in). graded: on more cases. AssertionError, naming the mistake. Used in notebook 05,
    "Exercise 05.2".
    """
    draw = torch.Generator().manual_seed(4 if graded else 3)
    cases = [(torch.tensor([2.0, 4]), torch.tensor([[10.0, 6], [6, 4]]))]
    cases += [(torch.randn(6, generator=draw), _gram(40, 6, seed=3))]
    if graded:
        w = torch.randn(24, generator=draw, dtype=torch.float64)
        cases += [(w, _gram(200, 24, seed=4, dtype=torch.float64)), (torch.tensor([-3.0, 0, 1]), _gram(9, 3, seed=5))]
        cases += [(torch.tensor([3.0]), torch.tensor([[4.0]]))]
    judge(function, cases, _price, REMOVAL_COST, tolerance=1e-3)
    done("05.2", "w², divided by the diagonal of the inverse", graded)


def _least_squares(w, mask, X, target=None):
    new, kept = torch.zeros_like(w, dtype=torch.float64), X[:, ~mask].double()
    new[~mask] = torch.linalg.lstsq(kept, X.double() @ w.double() if target is None else target.double()).solution
    return new


def _single_moves(w, mask, X):  # of all removed weights, as if each went alone
    inverse = torch.linalg.inv(X.T @ X)
    return w - inverse[:, mask] @ (w / inverse.diagonal())[mask]


def _walk(w, mask, X):
    U, _ = inverse_factor(X.T @ X, damping=0.0)
    return obs_prune(w[None], U.float(), mask=mask[None])[0]


BEST_WEIGHTS = {
    "the kept weights did not move, or were fitted to what they put out already. Fit them to the dense output X @ w.": (
        lambda w, mask, X: w.masked_fill(mask, 0)
    ),
    "nothing was removed. Where the mask is True, the weight must be 0.": lambda w, mask, X: w,
    "the mask is upside down. True marks a weight that is removed.": (lambda w, mask, X: _least_squares(w, ~mask, X)),
    "you added up the moves of single removals. The removed weights go together, so solve for all kept ones at once.": (
        lambda w, mask, X: _single_moves(w, mask, X).masked_fill(mask, 0)
    ),
    "you added up the moves of single removals, and the removed weights are not 0.": _single_moves,
    "this is SparseGPT's walk, in which only weights to the right answer. Let all kept weights answer.": _walk,
    "you fitted the kept weights to what the removed ones put out. That is how far they move: add what they were.": (
        lambda w, mask, X: _least_squares(w, mask, X, X[:, mask] @ w[mask])
    ),
    "this is how far the weights move. Return the new weights.": lambda w, mask, X: _least_squares(w, mask, X) - w,
}


def best_weights(function, graded: bool = False) -> None:
    """Exercise 05.3: ``function(w, mask, X)`` -> (in,): the kept weights that come closest to X @ w, the others 0.

    w (in,), mask (in,) bool, True = removed, X (tokens, in) with more tokens than channels. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 05, "Exercise 05.3".
    """
    draw = torch.Generator().manual_seed(6 if graded else 5)
    mask = torch.tensor([False, True, True, False, True, False])
    cases = [(torch.tensor([2.0, 4]), torch.tensor([True, False]), torch.tensor([[2.0, 1], [2, 1], [1, 1], [1, 1]]))]
    cases += [(torch.randn(6, generator=draw), mask, _related(40, 6, seed=6))]
    if graded:
        w, half = torch.randn(20, generator=draw, dtype=torch.float64), torch.rand(20, generator=draw) < 0.5
        cases += [(w, half, _related(90, 20, seed=7, dtype=torch.float64))]
        cases += [(torch.randn(4, generator=draw), torch.arange(4) != one, _related(30, 4, seed=8)) for one in (0, 3)]
        cases += [(torch.randn(5, generator=draw), torch.zeros(5, dtype=torch.bool), _related(30, 5, seed=9))]
    judge(function, cases, _least_squares, BEST_WEIGHTS, tolerance=2e-3)
    done("05.3", "the kept weights make up for all removed ones at once", graded)
