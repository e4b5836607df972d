"""What prune was asked for, and what it therefore does to a layer: weights and input statistics -> new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import torch

from .capture import InputGrams, InputNorms
from .masks import GROUPS, check_group, check_sparsity, nm_mask, parse_pattern, prune_mask
from .scores import magnitude_score, ria_score, wanda_score
from .updates import BLOCK, inverse_factor, obs_prune, obs_score

UPDATES = (None, "one-shot", "iterative")


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


class Plan(NamedTuple):
    """What was asked for, checked."""

    name: str
    score: Callable | None
    sparsity: float | tuple[float, ...]
    nm: tuple[int, int] | None
    group: str
    update: str | None
    #: What the capture sums up over a layer's inputs: InputNorms, InputGrams, or None for nothing.
    statistic: type | None

    def pruner(self, block: int) -> Callable:
        """A function (W, statistic) -> (sparsity asked, columns for the report, mask) that prunes W (out, in) in place.

        The mask (out, in) is True where a weight went; None after an update, which gives every weight a new value.
        """
        sparsity = self.sparsity[block] if isinstance(self.sparsity, tuple) else self.sparsity
        factors = _Factors()

        def select(score: torch.Tensor) -> torch.Tensor:
            return nm_mask(score, *self.nm) if self.nm else prune_mask(score, sparsity, self.group)

        def prune_layer(W: torch.Tensor, statistic: torch.Tensor | None) -> tuple[float, dict, torch.Tensor | None]:
            if self.update is None:
                mask = select(self._score(W, statistic))
                W.masked_fill_(mask, 0)
                return sparsity, {}, mask
            factor, damping = factors(statistic)
            W.copy_(self._updated(W, statistic, factor, select))
            return sparsity, {"damping": damping}, None

        return prune_layer

    def _score(self, W, norm) -> torch.Tensor:
        score = self.score(W, norm)
        if not isinstance(score, torch.Tensor) or score.shape != W.shape:
            given = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise ValueError(f"{self.name} gave {given} for a layer of {tuple(W.shape)}: expected one score a weight.")
        return score

    def _updated(self, W, gram, factor, select) -> torch.Tensor:
        norm = gram.diagonal().sqrt()
        W = W.masked_fill(norm == 0, 0)  # dead channels go first, all of them, as published: nothing rests on them

        def choose(w, d, columns):
            return select(self._score(w, norm[columns]) if self.score else obs_score(w.float(), d))

        if self.update == "one-shot":
            return obs_prune(W, factor, mask=choose(W, factor.diagonal(), slice(None)))
        return obs_prune(W, factor, choose=choose, step=self.nm[1] if self.nm else BLOCK)


class _Factors:
    """inverse_factor, once for neighbouring layers that read the same input."""

    def __init__(self):
        self.gram, self.answer = None, None

    def __call__(self, gram: torch.Tensor) -> tuple[torch.Tensor, float]:
        if self.gram is None or not torch.equal(gram, self.gram):
            self.gram, self.answer = gram, inverse_factor(gram)
        return self.answer


def make_plan(method, sparsity, pattern, group, update, blocks: int) -> Plan:
    """The arguments of prune, checked. Raises ValueError: what was wrong, what was expected, what to do."""
    if callable(method):
        name, method = getattr(method, "__name__", "your score"), Method(method)
    elif method in METHODS:
        name, method = method, METHODS[method]
    else:
        raise ValueError(
            f"method={method!r}: expected one of {', '.join(METHODS)}, or a function score(W, norm) -> (out, in)."
        )
    if update not in UPDATES:
        raise ValueError(f"update={update!r}: expected None, 'one-shot' or 'iterative'.")
    update = update or method.update
    if group is not None:
        check_group(group)
    if update == "iterative" and group is not None:
        raise ValueError(
            f"group={group!r} with an iterative update: it compares {BLOCK} columns at a time, over all rows. Leave "
            "group out, or use update='one-shot'."
        )
    statistic = InputGrams if update else InputNorms if method.reads_inputs else None
    if pattern is None:
        sparsity = _checked(sparsity, blocks)
        group = group or ("layer" if update == "iterative" else method.group)
        return Plan(name, method.score, sparsity, None, group, update, statistic)
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
    return Plan(name, method.score, 1 - n / m, (n, m), f"{m} neighbours", update, statistic)


def _checked(sparsity, blocks: int) -> float | tuple[float, ...]:
    if sparsity is None:
        return 0.5
    if not isinstance(sparsity, Sequence) or isinstance(sparsity, str):
        check_sparsity(sparsity)
        return float(sparsity)  # type: ignore[arg-type]  # a string has not passed the check
    for one in sparsity:
        check_sparsity(one)
    if len(sparsity) != blocks:
        raise ValueError(f"{len(sparsity)} sparsities for {blocks} blocks: expected one each, or one number for all.")
    return tuple(float(one) for one in sparsity)
