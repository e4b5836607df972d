"""From scores to masks: comparison groups and N:M.

score (out, in) -> mask (out, in) bool, True where a weight is removed. Among equal scores the earlier
column goes first, as a stable sort would have it.
"""

from __future__ import annotations

import math
from numbers import Real

import torch

GROUPS = ("output", "input", "layer")


def prune_mask(score: torch.Tensor, sparsity: float = 0.5, group: str = "output") -> torch.Tensor:
    """Remove the lowest scores within each comparison group: (out, in) -> mask (out, in) bool.

    sparsity: in [0, 1); exactly ``floor(size * sparsity)`` go from each group.
    group: ``"output"``, each row by itself (Wanda); ``"input"``, each column; ``"layer"``, all at
    once (magnitude as published), ties to the earlier row, then column.
    Raises ValueError for anything else, and for scores that are NaN.
    Introduced in notebook 02, "Comparison groups"; section 3 of the paper.
    """
    check_sparsity(sparsity)
    check_group(group)
    _check_score(score)
    if group == "output":
        return _smallest(score, math.floor(score.shape[1] * sparsity))
    if group == "input":
        return _smallest(score.T, math.floor(score.shape[0] * sparsity)).T.contiguous()
    return _smallest(score.reshape(1, -1), math.floor(score.numel() * sparsity)).reshape(score.shape)


def nm_mask(score: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Keep the n highest scores of every m along the input dimension: (out, in) -> mask (out, in) bool.

    Raises ValueError unless 1 <= n < m, m divides the number of columns and no score is NaN.
    Introduced in notebook 02, "Masks side by side"; notebook 04; section 3 of the paper.
    """
    check_pattern((n, m))
    _check_score(score)
    check_width(score.shape[1], (n, m))
    return _smallest(score.reshape(-1, m), m - n).reshape(score.shape)


def _smallest(score: torch.Tensor, count: int) -> torch.Tensor:
    """The count lowest of each row, ties to the earlier column: (rows, columns) -> bool."""
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = score.kthvalue(count, dim=1, keepdim=True).values
    below, tied = score < threshold, score == threshold
    missing = count - below.sum(dim=1, keepdim=True)
    return below | (tied & (tied.cumsum(dim=1) <= missing))


def parse_pattern(pattern: str) -> tuple[int, int]:
    """``"2:4"`` -> (2, 4), as hardware reads it: 2 weights stay of every 4. Raises ValueError."""
    kept, _, of = str(pattern).partition(":")
    if not (kept.isdecimal() and of.isdecimal()):
        raise ValueError(f"pattern={pattern!r}: expected N:M, such as '2:4', which keeps 2 of every 4 weights.")
    check_pattern((int(kept), int(of)))
    return int(kept), int(of)


def check_sparsity(sparsity) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        hint = f" Did you mean {sparsity / 100:g}?" if isinstance(sparsity, Real) and 1 < sparsity < 100 else ""
        raise ValueError(f"sparsity={sparsity!r}: expected the fraction of weights to remove, in [0, 1).{hint}")


def check_group(group) -> None:
    if group not in GROUPS:
        raise ValueError(f"group={group!r}: expected one of {', '.join(GROUPS)}, the scores compared with one another.")


def check_pattern(pattern: tuple[int, int]) -> None:
    n, m = pattern
    if not (isinstance(n, int) and isinstance(m, int) and 1 <= n < m):
        raise ValueError(
            f"{n}:{m} makes no sense: N:M keeps N of every M weights, so expected whole numbers with 1 <= N < M."
        )


def check_width(width: int, pattern: tuple[int, int], name: str = "score") -> None:
    n, m = pattern
    if width % m:
        raise ValueError(
            f"{name} has {width} input channels, which {m} does not divide (remainder {width % m}): "
            f"{n}:{m} needs whole groups. Choose an M that divides the width, or unstructured sparsity."
        )


def _check_score(score: torch.Tensor) -> None:
    if score.ndim != 2 or not score.is_floating_point():
        raise ValueError(f"score is {score.dtype} {tuple(score.shape)}: expected floating-point numbers (out, in).")
    if bool(score.isnan().any()):
        raise ValueError(
            f"{int(score.isnan().sum())} scores are NaN: they cannot be ranked. Look for NaN in W or norm."
        )
