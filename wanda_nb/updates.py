"""Optimal brain surgeon: what the kept weights can do to make up for the removed ones.

The output error of a row w of W is (w' - w) XᵀX (w' - w)ᵀ. Its inverse Hessian says which weight is cheapest to remove,
and how the weights to its right, not yet visited, must move. This is SparseGPT (Frantar and Alistarh, 2023,
arXiv 2301.00774), with which Wanda's paper compares, and whose update it also applies to its own masks. For a mask that
is given, least squares moves all kept weights at once, and so goes the whole way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 128  # columns whose update is applied at once, as published
DAMPING = 0.01  # as published


def inverse_factor(gram: torch.Tensor, damping: float = DAMPING) -> tuple[torch.Tensor, float]:
    """Upper Cholesky factor U of the damped inverse Hessian, UᵀU = (XᵀX + λI)⁻¹: (in, in) -> (in, in), damping used.

    λ is the damping times the mean of the diagonal over channels that are not dead (all zero); a dead channel's own
    entry becomes that mean. If the matrix is still not positive definite, the damping is raised tenfold, up to 1.
    Raises ValueError if that fails too.
    Introduced in notebook 05, "The Hessian".
    """
    dead, mean = _dead_and_mean(gram)
    used = damping
    while used <= max(1.0, damping):
        damped = gram.clone()
        damped.diagonal().add_(used * mean)
        damped.diagonal()[dead] = mean  # a dead channel stands alone
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and bool(upper.isfinite().all()):
                return upper, used
        used = max(10 * used, 1e-6)  # from zero damping too
    raise ValueError(
        f"The Hessian {tuple(gram.shape)} is not positive definite even with damping near 1: expected finite "
        "inputs from more tokens. Use more calibration text, or a method without weight updates, such as Wanda."
    )


def obs_prune(
    W: torch.Tensor,
    factor: torch.Tensor,
    mask: torch.Tensor | None = None,
    choose: Callable | None = None,
    step: int = BLOCK,
) -> torch.Tensor:
    """Remove weights column by column, moving the columns to the right to make up: (out, in) -> (out, in) float32.

    factor: U (in, in) of ``inverse_factor``.
    mask: (out, in), True where a weight is removed, if that is decided beforehand (one-shot).
    choose: otherwise called every ``step`` columns as ``choose(W, d, columns)`` with the weights as updated so far
    W (out, step), the diagonal d (step,) of U and the slice of columns; returns the mask (out, step) (iterative).
    Introduced in notebook 05, "The update"; the paper's section 5, on weight updates.
    """
    V = W.float().T.clone(memory_format=torch.contiguous_format)  # (in, out): each column of W in one piece
    mask = torch.zeros_like(W, dtype=torch.bool) if mask is None else mask
    removed = mask.T.contiguous()
    width = max(step, BLOCK // step * step) if choose else BLOCK  # no group of M may straddle two blocks
    for start in range(0, len(V), width):
        columns = slice(start, min(start + width, len(V)))
        block, U = V[columns], factor[columns, columns]
        errors = torch.empty_like(block)
        divisor = _divisor(U.diagonal(), removed[columns])
        each = list(zip(block.unbind(), divisor.unbind(), errors.unbind(), strict=True))
        for j, (column, by, error) in enumerate(each):
            if choose and j % step == 0:
                here, group = slice(j, j + step), slice(start + j, min(start + j + step, columns.stop))
                removed[group] = choose(block[here].T, U.diagonal()[here], group).T
                divisor[here] = _divisor(U.diagonal()[here], removed[group])
            torch.div(column, by, out=error)
            block[j:].addr_(U[j, j:], error, alpha=-1)
        V[columns.stop :].addmm_(factor[columns, columns.stop :].T, errors, alpha=-1)
    return V.masked_fill_(removed, 0).T


def _divisor(d: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """What a weight is divided by to get its error: d (columns,) where it is removed (columns, out), elsewhere inf."""
    return torch.where(removed, d[:, None], torch.inf)


def obs_score(W: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """w² / d², the error that removing each weight leaves after the update: (out, in), d (in,) -> (out, in)."""
    return (W / d).pow(2)


def least_squares(
    W: torch.Tensor,
    gram: torch.Tensor,
    mask: torch.Tensor,
    damping: float = DAMPING,
    tolerance: float = 1e-2,
    steps: int = 100,
) -> tuple[torch.Tensor, int]:
    """The kept weights V (out, in) float32 that minimise the output error under a mask, and how many steps that took.

    Minimises ‖(V - W)X‖² + λ‖V - W‖² for each row, with zeros where mask (out, in) is True, by conjugate gradients on
    all rows at once, preconditioned by the diagonal: a step is one product with gram, XᵀX (in, in). λ is the damping
    times the mean of gram's diagonal over channels that are not dead; the kept weights of a dead channel stay as they
    are. Every step lowers the error; a row is done once its residual has shrunk to the tolerance, or after ``steps``.
    Meng et al., *ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models*, NeurIPS
    2024, finish their masks in this way.
    Introduced in notebook 05, "All kept weights at once"; the paper's section 5, on weight updates.
    """
    _, mean = _dead_and_mean(gram)
    H, W = gram.clone(), W.float()
    H.diagonal().add_(damping * mean)
    weight = 1 / H.diagonal()
    V = W.masked_fill(mask, 0)
    residual = ((W - V) @ H).masked_fill_(mask, 0)
    direction = residual * weight
    size = (residual * direction).sum(dim=1, keepdim=True)
    enough = tolerance**2 * size
    for step in range(steps):
        if not bool((size > enough).any()):
            return V, step
        image = (direction @ H).masked_fill_(mask, 0)
        length = (size / (direction * image).sum(dim=1, keepdim=True)).where(size > enough, 0)  # 0: the row is done
        V += length * direction
        residual -= length * image
        before, size = size, (residual * residual).mul_(weight).sum(dim=1, keepdim=True)
        direction.mul_((size / before).where(before > 0, 0)).add_(residual * weight)
    return V, steps


def output_error(W: torch.Tensor, V: torch.Tensor, gram: torch.Tensor) -> float:
    """‖(V - W)X‖ / ‖WX‖ over all rows, from gram, XᵀX (in, in): what V (out, in) in place of W changes in the output.

    Introduced in notebook 05, "All kept weights at once".
    """
    W, change = W.float(), V.float() - W.float()
    before, after = (float(((M @ gram) * M).sum().clamp_min(0)) for M in (W, change))
    return (after / before) ** 0.5 if before else 0.0


def _dead_and_mean(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which channels are zero throughout, (in,) bool, and the mean of the others' diagonal: 1 if there are none."""
    diagonal = gram.diagonal()
    dead = diagonal == 0
    return dead, diagonal.new_ones(()) if bool(dead.all()) else diagonal[~dead].mean()
