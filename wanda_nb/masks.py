"""From scores to masks: comparison groups and N:M.

score (out, in) -> mask (out, in) bool, True where a weight is removed. Among equal scores the earlier
column goes first, as a stable sort would have it.
"""

from __future__ import annotations

import math
from numbers import Real

import torch

from .selection import by_rows, lowest_of_all, lowest_of_rows, refuse_nan

GROUPS = ("output", "input", "layer", "running-sum")


def prune_mask(score: torch.Tensor, sparsity: float = 0.5, group: str = "output") -> torch.Tensor:
    """Remove the lowest scores within each comparison group: (out, in) -> mask (out, in) bool.

    sparsity: in [0, 1); exactly ``floor(size * sparsity)`` are removed from each group.
    group: ``"output"``, each row by itself (Wanda); ``"input"``, each column; ``"layer"``, all at
    once (magnitude as published), ties to the earlier row, then column; ``"running-sum"``, the variant of the
    paper's appendix: from each row the lowest scores that add up to the same share of its sum, so many
    that the layer meets the sparsity to 0.001.
    Raises ValueError for any other sparsity or group, for NaN scores, and for a running sum of negative or infinite
    scores.
    Introduced in notebook 02, "Comparison groups"; section 3 of the paper.
    """
    check_sparsity(sparsity)
    check_group(group)
    _check_score(score)
    if group == "output":
        return lowest_of_rows(score, math.floor(score.shape[1] * sparsity))
    if group == "input":
        return lowest_of_rows(score.T, math.floor(score.shape[0] * sparsity)).T.contiguous()
    if group == "running-sum":
        return _running_sum(score, sparsity)
    return lowest_of_all(score.reshape(-1), math.floor(score.numel() * sparsity)).reshape(score.shape)


def nm_mask(score: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Keep the n highest scores of every m along the input dimension: (out, in) -> mask (out, in) bool.

    Raises ValueError unless 1 <= n < m, m divides the number of columns and no score is NaN.
    Introduced in notebook 02, "Masks side by side"; notebook 04; section 3 of the paper.
    """
    check_pattern((n, m))
    _check_score(score)
    check_width(score.shape[1], (n, m))
    return lowest_of_rows(score.reshape(-1, m), m - n).reshape(score.shape)


def _running_sum(score: torch.Tensor, sparsity: float, tolerance: float = 0.001) -> torch.Tensor:
    """Remove from each row the lowest scores whose running sum stays within alpha times the row's sum.

    One alpha for the layer is found by bisection, as published: from 0.4 within [0, 0.8], or up to 1 where a high
    sparsity needs it, until the sparsity is met to the tolerance or ties make that impossible.
    """
    refuse_nan(score, score)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    total = score.sum(dim=1, keepdim=True)
    _check_shares(score, total)
    if sparsity == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    ordered, order = score.sort(stable=True)
    running = ordered.cumsum(dim=1)
    low, alpha, high = 0.0, 0.4, 0.8
    if float((running <= high * total).float().mean()) + tolerance < sparsity:
        low, alpha, high = 0.8, 0.9, 1.0
    while True:
        within = running <= alpha * total  # (out, in), in the order of the scores
        reached = float(within.float().mean())
        if abs(reached - sparsity) <= tolerance or high - low < 1e-7:
            return torch.zeros_like(within).scatter_(1, order, within)
        low, high = (low, alpha) if reached > sparsity else (alpha, high)
        alpha = (low + high) / 2


def parse_pattern(pattern: str) -> tuple[int, int]:
    """``"2:4"`` -> (2, 4), as hardware reads it: 2 of every 4 weights stay. Raises ValueError for anything else."""
    n, _, m = str(pattern).partition(":")
    if not (n.isdecimal() and m.isdecimal()):
        raise ValueError(f"pattern={pattern!r}: expected N:M, such as '2:4', which keeps 2 of every 4 weights.")
    check_pattern((int(n), int(m)))
    return int(n), int(m)


def check_sparsity(sparsity) -> None:
    """Raise ValueError unless sparsity is a number in [0, 1)."""
    number = float(sparsity) if isinstance(sparsity, Real) and not isinstance(sparsity, bool) else math.nan
    if not 0 <= number < 1:
        hint = f" Did you mean {number / 100:g}?" if 1 < number < 100 else ""
        raise ValueError(f"sparsity={sparsity!r}: expected the fraction of weights to remove, in [0, 1).{hint}")


def check_group(group) -> None:
    """Raise ValueError unless group is one of GROUPS."""
    if group not in GROUPS:
        raise ValueError(f"group={group!r}: expected one of {', '.join(GROUPS)} (which scores are compared).")


def check_pattern(pattern: tuple[int, int]) -> None:
    """Raise ValueError unless pattern is (n, m) with 1 <= n < m."""
    n, m = pattern
    if not (isinstance(n, int) and isinstance(m, int) and 1 <= n < m):
        raise ValueError(
            f"{n}:{m} makes no sense: N:M keeps N of every M weights, so expected whole numbers with 1 <= N < M."
        )


def check_width(width: int, pattern: tuple[int, int], name: str = "score") -> None:
    """Raise ValueError, with the name, unless m of the pattern (n, m) divides the width."""
    n, m = pattern
    if width % m:
        raise ValueError(
            f"{name} has {width} input channels, which {m} does not divide (remainder {width % m}): "
            f"{n}:{m} needs whole groups. Choose an M that divides the width, or unstructured sparsity."
        )


def _check_score(score: torch.Tensor) -> None:
    if score.ndim != 2 or not score.is_floating_point():
        raise ValueError(f"score is {score.dtype} {tuple(score.shape)}: expected floating-point numbers (out, in).")


def _check_shares(score: torch.Tensor, total: torch.Tensor) -> None:
    """Raise ValueError unless every score is a share, from 0 to 1, of its row's sum, total (out, 1)."""
    problem = ""
    if not bool(total.isfinite().all()):
        problem = (
            f"{int((~total.isfinite()).sum())} of {len(total)} rows hold an infinite score, or their sum is infinite"
        )
    if score.numel() and float(score.min()) < 0:
        problem = f"the lowest score is {float(score.min()):g}"
    if problem:
        raise ValueError(
            f"group='running-sum': {problem}. A share of a row's sum needs finite scores of 0 or more. Choose "
            "group='output', which only ranks them, or pass other scores, such as their absolute values."
        )


def is_nm(W: torch.Tensor, n: int, m: int) -> bool:
    """Whether W (out, in) keeps at most n of every m weights along its input."""
    return W.shape[1] % m == 0 and bool(((W != 0).reshape(len(W), -1, m).sum(dim=-1) <= n).all())


def remove(W: torch.Tensor, mask: torch.Tensor) -> None:
    """``W.masked_fill_(mask, 0)``, many times faster: bits times 0 or 1, where that guesses at every weight."""
    bits = W.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[W.element_size()])
    by_rows(lambda rows: bits[rows].mul_(~mask[rows]), W)
