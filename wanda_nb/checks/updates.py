"""Checks of notebook 05: the walk by the rows of a triangle, and conjugate gradients for all rows."""

from __future__ import annotations

import torch

from ..updates import inverse_factor
from .core import done, judge


def _related(tokens: int, channels: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    """X (tokens, channels), of channels that have much in common, some loud and some quiet."""
    draw = torch.Generator().manual_seed(seed)
    own, common = (torch.randn(tokens, count, generator=draw) for count in (channels, 1))
    return ((own + common) * (torch.rand(channels, generator=draw) + 0.5)).to(dtype)


def _gram(tokens: int, channels: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    X = _related(tokens, channels, seed, dtype)
    return X.T @ X


def _walk(W, U, mask, *, row=None, length=None, removed=None, carried=True, sign=1, frozen=False):
    """The walk from left to right, every inverse computed; every keyword is a way to get it wrong."""
    H = torch.linalg.inv(U.double().T @ U.double())
    V, gone = W.double(), mask if removed is None else removed(mask)
    start = V
    for j in range(len(U)):
        move = torch.zeros_like(H[0])
        move[j:] = torch.linalg.inv(H[j:, j:])[0]
        move = move if row is None else row(U.double(), j)
        w = (V if carried else start)[:, j] * gone[:, j]
        V = V - sign * (w / (move[j] if length is None else length(U.double(), j)))[:, None] * move
        V = V.masked_fill(gone, 0) if frozen else V
    return V.masked_fill(gone, 0)


def _best(W, U, mask):
    H = torch.linalg.inv(U.double().T @ U.double())
    V = torch.zeros_like(W, dtype=torch.float64)
    for row, gone in enumerate(mask):
        V[row, ~gone] = torch.linalg.solve(H[~gone][:, ~gone], H[~gone] @ W[row].double())
    return V


def _of_the_whole_inverse(U, j):
    return (U.T @ U)[j]


WALK = {
    "the kept weights did not move, or what was removed was 0 before its column moved the others.": (
        lambda W, U, mask: W.masked_fill(mask, 0)
    ),
    "you took row j of UᵀU, the inverse of all of H, in which settled columns are still free, and moved them.": (
        lambda *given: _walk(*given, row=_of_the_whole_inverse)
    ),
    "you took row j of UᵀU, the inverse of all of H. Column j needs that of the free columns alone.": (
        lambda *given: _walk(*given, row=lambda U, j: _of_the_whole_inverse(U, j).where(torch.arange(len(U)) >= j, 0))
    ),
    "you divided by the square of U's diagonal. One factor cancels: the first row of the inverse has it too.": (
        lambda *given: _walk(*given, row=lambda U, j: U[j], length=lambda U, j: U[j, j] ** 2)
    ),
    "you did not divide. The move must take all of w to 0.": (
        lambda *given: _walk(*given, row=lambda U, j: U[j], length=lambda U, j: torch.ones_like(U[j, j]))
    ),
    "you took column j of U, which moves settled columns. Take row j.": (
        lambda *given: _walk(*given, row=lambda U, j: U[:, j])
    ),
    "you moved by the dense weights, or walked from right to left. Take each weight as it is when its column comes.": (
        lambda *given: _walk(*given, carried=False)
    ),
    "you set all removed weights to 0 at once. Until its column comes, each is still there, and moves.": (
        lambda *given: _walk(*given, frozen=True)
    ),
    "you removed every weight. Where the mask is False, the weight stays, and moves nothing.": (
        lambda *given: _walk(*given, removed=torch.ones_like)
    ),
    "the mask is upside down. True marks a weight that is removed.": (
        lambda *given: _walk(*given, removed=torch.logical_not)
    ),
    "the sign is wrong: what a removed weight put out is added to the others, not taken from them.": (
        lambda *given: _walk(*given, sign=-1)
    ),
    "this is least squares: settled weights moved again. In the walk, only those to the right make up.": _best,
}


def walk(function, graded: bool = False) -> None:
    """Exercise 05.1: ``function(W, U, mask)`` -> (out, in): OBS from left to right, by the rows of a triangle.

    W (out, in), U (in, in), upper triangular, UᵀU the inverse Hessian, mask (out, in) bool, True = removed. graded: on
    more cases. AssertionError, naming the mistake. Used in notebook 05, "Exercise 05.1".
    """
    draw = torch.Generator().manual_seed(6 if graded else 5)

    def case(rows, channels, dtype=torch.float32):
        U, _ = inverse_factor(_gram(10 * channels, channels, seed=channels, dtype=torch.float64), damping=0.0)
        W = torch.randn(rows, channels, generator=draw, dtype=dtype)
        mask = torch.rand(rows, channels, generator=draw) < 0.5
        mask[0, :4] = torch.tensor([True, False, True, False])  # a removed weight that was moved, and settled ones
        return W, U.to(dtype), mask

    two = torch.tensor([[2.0, 4]]), torch.tensor([[1.0, -1.5], [0, 0.5]]), torch.tensor([[True, False]])
    cases = [two, case(3, 6)]
    if graded:
        W, U, mask = case(4, 12, torch.float64)
        mask[1], mask[2] = False, True
        cases += [(W, U, mask), case(1, 5)]
    judge(function, cases, _walk, WALK, tolerance=1e-3)
    done("05.1", "each row of the triangle is the next move", graded)


def _in_steps(W, H, mask, steps, *, masked=(True, True), share=None, guarded=True, start=None, sign=1, rows=None):
    """Conjugate gradients on all rows at once; every keyword is a way to get it wrong."""
    W, H, kept = W.double(), H.double(), (~mask).double()
    first, later = (kept if one else torch.ones_like(kept) for one in masked)
    of_row = rows or (lambda M: M.sum(dim=1, keepdim=True))
    share = share or (lambda size, before: size / before)
    V = W * kept if start is None else start(W)
    residual = sign * ((W - V) @ H) * first
    direction, size = residual, of_row(residual * residual)
    for _ in range(steps):
        image = direction @ H * later
        length, before = size / of_row(direction * image), size
        length = length.where(size > 0, 0) if guarded else length
        V, residual = V + length * direction, residual - sign * length * image
        size = of_row(residual * residual)
        ratio = share(size, before)
        direction = residual + (ratio.where(before > 0, 0) if guarded else ratio) * direction
    return V


def _dense(W, H, mask, steps):
    V = torch.zeros_like(W)
    for row, removed in enumerate(mask):
        V[row, ~removed] = torch.linalg.solve(H[~removed][:, ~removed], H[~removed] @ W[row])
    return V


def _from_the_dense_output(W, H, mask, steps):
    alone = W.masked_fill(mask, 0)
    return alone + _in_steps(W, H, mask, steps, start=torch.zeros_like)


CONJUGATE_GRADIENTS = {
    "the kept weights did not move. Update them in each step.": lambda W, H, mask, steps: W.masked_fill(mask, 0),
    "a row that has arrived divides 0 by 0. Give it a step of length 0.": (
        lambda *given: _in_steps(*given, guarded=False)
    ),
    "removed weights came back: you did not mask the residual at all. It must be 0 where the mask is True.": (
        lambda *given: _in_steps(*given, masked=(False, False))
    ),
    "removed weights came back: only your first residual was masked. Mask each product with H as well.": (
        lambda *given: _in_steps(*given, masked=(True, False))
    ),
    "you let the removed weights move and zeroed them in the end. Mask the residual in each step.": (
        lambda W, H, mask, steps: _in_steps(W, H, mask, steps, masked=(False, False)).masked_fill(mask, 0)
    ),
    "the mask is upside down. True marks a weight that is removed.": (
        lambda W, H, mask, steps: _in_steps(W, H, ~mask, steps)
    ),
    "each direction is the residual alone: steepest descent, which zigzags. Add a share of the direction before.": (
        lambda *given: _in_steps(*given, share=lambda size, before: 0 * size)
    ),
    "the share is upside down. Divide the new squared residual by the old one.": (
        lambda *given: _in_steps(*given, share=lambda size, before: before / size)
    ),
    "all of the direction before was added. Add a share of it, so that the two are conjugate.": (
        lambda *given: _in_steps(*given, share=lambda size, before: torch.ones_like(size))
    ),
    "all rows share one step length. Each row is a problem of its own: sum over dim=1.": (
        lambda *given: _in_steps(*given, rows=torch.sum)
    ),
    "uphill: the residual has the wrong sign. It is what is missing, W - V, times H.": (
        lambda *given: _in_steps(*given, sign=-1)
    ),
    "you began at 0. Begin with the kept weights as they are.": lambda *given: _in_steps(
        *given, start=torch.zeros_like
    ),
    "the first residual is that of 0, not of the masked weights. It is (W - V) @ H.": _from_the_dense_output,
    "you solved each row exactly. Take as many steps as you are told, for all rows at once.": _dense,
}


def conjugate_gradients(function, graded: bool = False) -> None:
    """Exercise 05.2: ``function(W, H, mask, steps)`` -> (out, in): least squares under a mask, all rows, in steps.

    W (out, in), H (in, in), positive definite, mask (out, in) bool, True = removed. Preconditioned or not, and in
    whichever form of the two formulas: cases are solved to the end, or have a diagonal of ones. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 05, "Exercise 05.2".
    """
    draw = torch.Generator().manual_seed(8 if graded else 7)

    def case(rows, channels, steps, equal=False):
        H = _gram(10 * channels, channels, seed=channels, dtype=torch.float64)
        size = H.diagonal().sqrt()
        H = H / size / size[:, None] if equal else H
        mask = torch.rand(rows, channels, generator=draw) < 0.5
        mask[0], mask[1:, :2] = False, torch.tensor([True, False])  # nothing to do in row 0, something in all others
        return torch.randn(rows, channels, generator=draw, dtype=torch.float64), H, mask, steps

    two = torch.tensor([[2.0, 4]]), torch.tensor([[10.0, 6], [6, 4]]), torch.tensor([[True, False]]), 1
    cases = [two, case(4, 8, steps=8), case(3, 10, steps=2, equal=True)]
    if graded:
        cases += [case(6, 20, steps=20), case(5, 16, steps=3, equal=True), case(2, 6, steps=0)]
    judge(function, cases, _in_steps, CONJUGATE_GRADIENTS, tolerance=1e-3)
    done("05.2", "every row comes to its least squares, all rows at once", graded)
