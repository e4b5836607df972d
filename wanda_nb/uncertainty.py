"""How sure we are: intervals by resampling, and the difference of two models on the same items."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap

DRAWS = 9999


class Interval(NamedTuple):
    """A measured value and the range that resampling gives it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Difference(NamedTuple):
    """What changes from model a to model b, on the same items."""

    value: float  # mean of b minus a
    low: float
    high: float
    #: Items on which b is higher, and on which it is lower; the rest are ties. Higher is right where a and b are right
    #: or wrong, and worse where they are losses.
    higher: int
    lower: int
    #: McNemar's exact test: how often a fair coin would divide higher and lower at least as unevenly. None for losses.
    p: float | None

    def __str__(self) -> str:
        text = f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}], {self.higher} higher, {self.lower} lower"
        return text if self.p is None else f"{text}, p = {self.p:.2g}"


def mean_interval(values, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of values (items,) with its bootstrap interval.

    Items are drawn with replacement, as if others of their kind had been asked; what the interval cannot know is other
    text, other prompts or another calibration draw. level: of confidence. Raises ValueError for fewer than two items.
    Introduced in notebook 06, "How sure are we?".
    """
    values = _array(values)
    if np.ptp(values) == 0:  # nothing to resample
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=DRAWS,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(values.mean()), float(found.low), float(found.high))


def perplexity_interval(losses: torch.Tensor, level: float = 0.95, seed: int = 0) -> Interval:
    """Perplexity with its bootstrap interval over windows: losses (windows,) nats a token, of ``window_losses``.

    Raises ValueError for fewer than two windows. Introduced in notebook 06, "How sure are we?".
    """
    return Interval(*(math.exp(loss) for loss in mean_interval(losses, level, seed)))


def paired_difference(a, b, level: float = 0.95, seed: int = 0) -> Difference:
    """How b differs from a, both (items,) measured on the same items in the same order: right or wrong, or losses.

    Pairing takes out what makes an item hard for both, so that far fewer items tell two models apart. Raises
    ValueError where the two do not have the same number of items, at least two.
    Introduced in notebook 06, "The same items".
    """
    a, b = _array(a), _array(b)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} items: expected the same items in the same order for both models.")
    higher, lower = int((b > a).sum()), int((b < a).sum())
    binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
    p = (binomtest(higher, higher + lower).pvalue if higher + lower else 1.0) if binary else None
    return Difference(*mean_interval(b - a, level, seed), higher, lower, p)


def _array(values) -> np.ndarray:
    values = np.array(values.tolist() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values {values.shape}: expected two finite numbers or more, one for each item.")
    return values
