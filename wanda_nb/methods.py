"""The methods, and the plan of a run: what happens to a layer, weights and input statistics -> new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import torch

from .capture import InputGrams, InputNorms
from .masks import GROUPS, check_group, check_sparsity, nm_mask, parse_pattern, prune_mask, remove
from .scores import magnitude_score, ria_score, wanda_score
from .selection import by_rows
from .updates import BLOCK, DAMPING, inverse_factor, least_squares, obs_prune, obs_score, output_error

UPDATES = (None, "one-shot", "iterative", "least-squares")


class Method(NamedTuple):
    """How a method scores weights, and the comparison group and update that it was published with."""

    score: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None  # None: OBS, which needs the Hessian
    group: str = "output"
    reads_inputs: bool = True
    update: str | None = None


METHODS = {
    "magnitude": Method(magnitude_score, group="layer", reads_inputs=False),
    "wanda": Method(wanda_score),
    "wanda-variant": Method(wanda_score, group="running-sum"),
    "ria": Method(ria_score, group="layer"),
    "sparsegpt": Method(None, group="layer", update="iterative"),
}


BY_ROW = (magnitude_score, wanda_score)  # scores of a row that read no other row


class Plan(NamedTuple):
    """The checked arguments of a run, and what they do to a layer."""

    name: str
    score: Callable | None
    sparsity: float | tuple[float, ...]
    nm: tuple[int, int] | None
    group: str
    update: str | None
    #: What the capture sums up over a layer's inputs: InputNorms, InputGrams, or None for nothing.
    statistic: type | None
    #: Of an update, as a share of the mean of the diagonal of XᵀX.
    damping: float = DAMPING

    def prune_layer(
        self, W: torch.Tensor, statistic: torch.Tensor | None, block: int, factors: Factors
    ) -> tuple[torch.Tensor | None, dict]:
        """Prune W (out, in), a layer of block number ``block``, in place.

        statistic: norm (in,) or XᵀX (in, in) of its inputs, whichever the method reads, else None. Returns the mask
        (out, in), True where a weight was removed, or None after an update, which gives every weight a new value; and
        further columns for the report.
        """
        if self.update is None:
            mask = self.mask(W, statistic, block)
            remove(W, mask)
            return mask, {}
        if self.update == "least-squares":
            return None, self.solve(W, statistic, block, factors)
        factor, damping = factors(statistic, self.damping)
        W.copy_(self.updated(W, statistic, factor, block))
        return None, {"damping": damping}

    def sparsity_of(self, block: int) -> float:
        """The fraction of weights to remove from a block."""
        return self.sparsity[block] if isinstance(self.sparsity, tuple) else self.sparsity

    @property
    def goes_by_rows(self) -> bool:
        """Whether a weight's score, and then its mask, depend on its own row alone."""
        return self.score in BY_ROW and (self.nm is not None or self.group == "output")

    def mask(self, W, norm, block: int) -> torch.Tensor:
        """The mask (out, in) of a layer; a few rows at a time where each depends on itself alone, the fastest way."""
        if not self.goes_by_rows:
            return self.select(self.scored(W, norm), block)
        mask = torch.empty_like(W, dtype=torch.bool)

        def choose(rows):
            mask[rows] = self.select(self.scored(W[rows], norm), block)

        by_rows(choose, W)
        return mask

    def select(self, score: torch.Tensor, block: int) -> torch.Tensor:
        """The mask (out, in), True where a weight is removed, for a score (out, in)."""
        return nm_mask(score, *self.nm) if self.nm else prune_mask(score, self.sparsity_of(block), self.group)

    def scored(self, W, norm) -> torch.Tensor:
        """The method's scores (out, in). Raises ValueError if your own score function returns anything else."""
        score = self.score(W, norm)
        if not isinstance(score, torch.Tensor) or score.shape != W.shape:
            given = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            shape = tuple(W.shape)
            raise ValueError(f"{self.name} gave {given} for a layer of {shape}: expected one score per weight.")
        return score

    def updated(self, W, gram, factor, block: int) -> torch.Tensor:
        """W (out, in) after pruning, with the kept weights moved to make up for the removed ones."""
        norm = gram.diagonal().sqrt()
        W = W.masked_fill(norm == 0, 0)  # all of a dead channel, as published: no output depends on it

        def choose(w, d, columns):
            return self.select(self.scored(w, norm[columns]) if self.score else obs_score(w.float(), d), block)

        if self.update == "one-shot":
            return obs_prune(W, factor, mask=choose(W, factor.diagonal(), slice(None)))
        return obs_prune(W, factor, choose=choose, step=self.nm[1] if self.nm else BLOCK)

    def solve(self, W, gram, block: int, factors: Factors) -> dict:
        """Give W (out, in), in place, the method's mask and the kept weights of least squares under it."""
        if self.score:
            mask = self.mask(W, gram.diagonal().sqrt(), block)
        else:  # SparseGPT chooses while it updates
            mask = self._replace(update="iterative").updated(W, gram, factors(gram, self.damping)[0], block) == 0
        new, steps = least_squares(W, gram, mask, self.damping)
        errors = {"error before": output_error(W, W.masked_fill(mask, 0), gram), "error": output_error(W, new, gram)}
        W.copy_(new)
        return {**errors, "steps": steps}


class Factors:
    """Calls inverse_factor, once for neighbouring layers that read the same input."""

    def __init__(self):
        self.gram, self.result = None, None

    def __call__(self, gram: torch.Tensor, damping: float) -> tuple[torch.Tensor, float]:
        if self.gram is None or not torch.equal(gram, self.gram):
            self.gram, self.result = gram, inverse_factor(gram, damping)
        return self.result


def make_plan(blocks, method="wanda", sparsity=None, *, pattern=None, group=None, update=None, damping=None) -> Plan:
    """The plan for a model of so many blocks, from the arguments of ``prune``, which documents them.

    Raises ValueError if they are invalid or contradict one another.
    """
    name, method = _method(method)
    if update not in UPDATES:
        raise ValueError(f"update={update!r}: expected None, 'one-shot', 'iterative' or 'least-squares'.")
    update = update or method.update
    damping = _checked_damping(damping, update)
    if group is not None:
        check_group(group)
    iterative = update == "iterative" or (update == "least-squares" and method.score is None)
    if iterative and group is not None:
        raise ValueError(
            f"group={group!r} with an iterative update: it compares {BLOCK} columns at a time, over all rows. Leave "
            "group out, or use update='one-shot'."
        )
    statistic = InputGrams if update else InputNorms if method.reads_inputs else None
    if pattern is None:
        sparsity = _checked_sparsity(sparsity, blocks)
        group = group or ("layer" if iterative else method.group)
        return Plan(name, method.score, sparsity, None, group, update, statistic, damping)
    n, m = _checked_pattern(pattern, name, method, sparsity, group)
    return Plan(name, method.score, 1 - n / m, (n, m), f"{m} neighbours", update, statistic, damping)


def _method(method) -> tuple[str, Method]:
    if callable(method):
        return getattr(method, "__name__", "your score"), Method(method)
    if method in METHODS:
        return method, METHODS[method]
    raise ValueError(
        f"method={method!r}: expected one of {', '.join(METHODS)}, or a function score(W, norm) -> (out, in)."
    )


def _checked_damping(damping, update) -> float:
    if damping is None:
        return DAMPING
    if update is None:
        raise ValueError(f"damping={damping!r} with no update: expected one, such as update='least-squares'.")
    number = float(damping) if isinstance(damping, Real) and not isinstance(damping, bool) else math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"damping={damping!r}: expected a finite number of 0 or more, such as {DAMPING}, the default.")
    return number


def _checked_pattern(pattern, name: str, method: Method, sparsity, group) -> tuple[int, int]:
    n, m = parse_pattern(pattern)
    if sparsity is not None and (not isinstance(sparsity, Real) or abs(float(sparsity) - (1 - n / m)) > 1e-9):
        raise ValueError(
            f"sparsity={sparsity} with pattern={pattern!r}: keeping {n} of every {m} removes {1 - n / m:g}. "
            "Leave sparsity out, or make them agree."
        )
    if group not in (None, "output"):
        raise ValueError(
            f"group={group!r} with pattern={pattern!r}: N:M compares the {m} neighbours of a group in one row. "
            f"Leave group out; {', '.join(GROUPS)} are for unstructured sparsity."
        )
    if method.group == "running-sum":
        raise ValueError(f"{name} with pattern={pattern!r}: a running sum has no fixed count to keep. Use wanda.")
    return n, m


def _checked_sparsity(sparsity, blocks: int) -> float | tuple[float, ...]:
    if sparsity is None:
        return 0.5
    if not isinstance(sparsity, Sequence) or isinstance(sparsity, str):
        check_sparsity(sparsity)
        return float(sparsity)  # type: ignore[arg-type]  # a string has not passed the check
    for block_sparsity in sparsity:
        check_sparsity(block_sparsity)
    if len(sparsity) != blocks:
        raise ValueError(f"{len(sparsity)} sparsities for {blocks} blocks: expected one each, or one number for all.")
    return tuple(map(float, sparsity))
