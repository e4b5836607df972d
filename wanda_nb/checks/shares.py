"""Checks of notebook 11: norms that several processes took of their shares of the windows, put together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .core import done, judge

# How often each of four processes went into the norms that a run used.
COUNTED = {"A": (1, 1, 1, 0), "B": (0.25, 0.25, 0.25, 0.25), "C": (1, 1, 1, 1), "D": (1, 2, 0, 1), "E": (1, 1, 3, 1)}


def shared_runs(norms: torch.Tensor) -> dict[str, torch.Tensor]:
    """The norms (in,) that five runs of four processes used, by letter; norms (4, in) are what each process found.

    Which of them counted all windows once is for the reader to find out. Used in notebook 11, "Exercise 11.3".
    """
    return {letter: _used(norms, counts) for letter, counts in COUNTED.items()}


def _used(norms: torch.Tensor, counts) -> torch.Tensor:
    counts = torch.tensor(counts, dtype=torch.float64)
    return (counts @ norms.double().pow(2)).sqrt().to(norms)


def _solved(of_parts: int = 2, of_used: int = 2, then: Callable = lambda counts: counts) -> Callable:
    """The counts, or, by other powers or with what is done to them then, a mistake."""

    def times_counted(norms, used):
        return then(torch.linalg.lstsq(norms.pow(of_parts).T, used.pow(of_used)[:, None]).solution[:, 0])

    return times_counted


TIMES_COUNTED = {
    "you solved for norms, and norms do not add up. Their squares do.": _solved(1, 1),
    "you squared the norms of the processes, but not those that the run used.": _solved(2, 1),
    "you squared the norms that the run used, but not those of the processes.": _solved(1, 2),
    "you said whether each process was counted. Say how often: twice is a fault, too.": (
        _solved(then=lambda counts: (counts > 1e-6).to(counts))
    ),
    "you rounded to whole numbers. A mean in place of a sum counts each process by a fraction.": (
        _solved(then=torch.round)
    ),
    "you gave shares of the whole. Say how often each process was counted: 1 where all is well.": (
        _solved(then=lambda counts: counts / counts.sum())
    ),
    "this is how far each count is from 1. Give the counts.": _solved(then=lambda counts: counts - 1),
    "these are roots of the counts. It is the squares that are counted.": (
        _solved(then=lambda counts: counts.clamp(min=0).sqrt())
    ),
    "you took it that every process was counted once. Solve for how often.": (
        lambda norms, used: torch.ones(len(norms), dtype=norms.dtype)
    ),
    "you compared each process alone with the run. All of them together make up what it used: solve for all at once.": (
        lambda norms, used: (used / norms).pow(2).mean(dim=1)
    ),
}


def times_counted(function, graded: bool = False) -> None:
    """Exercise 11.3: ``function(norms, used)`` -> (processes,): how often a run counted the windows of each process.

    norms: (processes, in), what each found over its own tokens; used: (in,), what the run pruned by. graded: on more
    cases. AssertionError, naming the mistake. Used in notebook 11, "Exercise 11.3".
    """
    draw = torch.Generator().manual_seed(1)
    counted: list[tuple[float, ...]] = [(1, 2, 0, 1), (0.25,) * 4]
    if graded:
        counted += [(1, 1, 1), (0, 1, 3, 1, 1), (2,), (0, 0, 1), (0.2,) * 5]
    cases = []
    for counts in counted:
        norms = torch.rand(len(counts), 4 * len(counts), generator=draw, dtype=torch.float64) * 5 + 0.5
        cases.append((norms, _used(norms, counts)))
    judge(function, cases, _solved(), TIMES_COUNTED)
    done("11.3", "squares add up, so how often each process was counted solves a linear system", graded)
