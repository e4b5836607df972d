"""How sure we are: bootstrap intervals, and the difference of two models on the same items."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest, norm, t

DRAWS = 9999
SLAB = 2**22  # numbers drawn at once; 64 MiB with the values they pick
FEWEST_WINDOWS = 8  # if they are neighbours: with 4 to 7, intervals are too wide to be of use, or (6) cover too seldom


class Interval(NamedTuple):
    """A measured value and its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Difference(NamedTuple):
    """The difference from model a to model b on the same items, with its confidence interval."""

    value: float  # mean of b minus a
    low: float
    high: float
    #: Items on which b is higher, and on which it is lower; all others are ties. Higher is better if values are right
    #: (1) or wrong (0), and worse if they are losses.
    higher: int
    lower: int
    #: McNemar's exact test: the probability that fair coins divide the items at least as unevenly. None for losses.
    p: float | None

    def __str__(self) -> str:
        text = f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}], {self.higher} higher, {self.lower} lower"
        return text if self.p is None else f"{text}, p = {self.p:.2g}"


def mean_interval(values, level: float = 0.95, seed: int = 0, *, neighbours: bool = False) -> Interval:
    """The mean of values (items,) with its bootstrap interval.

    Items are drawn with replacement, as if others of their kind had been asked. The interval says nothing of other
    text, other prompts or another calibration draw. level: of confidence. neighbours: values are of windows that follow
    one another in a text. These are alike, so circular blocks of floor(n^0.6) neighbours are drawn, as many as hold n.
    A resample of few blocks varies too little, so each end is moved away from the mean: by Student's t over the normal
    quantile, times sqrt(blocks drawn / (k - 1)), where k = n / block length.
    In simulations, "95%" covers 93 to 97% for two independent normal items or more, and for eight windows or more whose
    loss has a correlation of 0.5 with the next; 88 to 93% for few and very skewed values (log-normal, sigma 0.7).
    Raises ValueError for fewer than two items, or fewer than eight neighbouring windows.
    Introduced in notebook 06, "How sure are we?".
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a fraction between 0 and 1, such as 0.95.")
    values = _array(values)
    n = len(values)
    if neighbours and n < FEWEST_WINDOWS:
        raise ValueError(
            f"{n} neighbouring windows are too few for an interval: expected {FEWEST_WINDOWS} or more. Read more, "
            "or shorter ones. For independent items, or windows spread over the text, give neighbours=False."
        )
    if np.ptp(values) == 0:  # nothing to resample
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    length = int(n**0.6 + 1e-9) if neighbours else 1  # 32 ** 0.6 may be 7.999...
    blocks, tail, mean = -(-n // length), (1 + level) / 2, values.mean()
    ends = np.quantile(resampled_means(values, length, blocks, seed), [1 - tail, tail])
    wider = t.ppf(tail, n / length - 1) / norm.ppf(tail) * math.sqrt(blocks / (n / length - 1))
    low, high = mean + wider * (ends - mean)
    return Interval(float(mean), float(low), float(high))


def ratio_interval(part, whole, level: float = 0.95, seed: int = 0, *, neighbours: bool = True) -> Interval:
    """The ratio of two means, part (items,) over whole (items,) on the same items, with its bootstrap interval.

    To first order the ratio is the mean of ratio + (part - ratio * whole) / mean(whole), one value an item, and these
    are resampled. level, seed, neighbours, errors: as for ``mean_interval``; ValueError also for different numbers of
    items, and if the mean of whole is 0. Introduced in notebook 08, "How sure?".
    """
    part, whole = _array(part), _array(whole)
    if part.shape != whole.shape or not whole.mean():
        raise ValueError(f"{len(part)} over {len(whole)} items: expected the same items, and a whole that is not 0.")
    ratio = part.mean() / whole.mean()
    return mean_interval(ratio + (part - ratio * whole) / whole.mean(), level, seed, neighbours=neighbours)


def resampled_means(values: np.ndarray, length: int, blocks: int, seed: int) -> np.ndarray:
    """The means of DRAWS resamples, (DRAWS,), each of ``blocks`` circular blocks; SLAB changes none of them."""
    circle = np.concatenate([values, values[: length - 1]])
    block_means = np.lib.stride_tricks.sliding_window_view(circle, length).mean(axis=-1)  # (n,), by first value
    draw, rows = np.random.default_rng(seed), max(1, SLAB // blocks)
    sizes = (min(rows, DRAWS - start) for start in range(0, DRAWS, rows))
    return np.concatenate([block_means[draw.integers(len(values), size=(size, blocks))].mean(axis=1) for size in sizes])


def perplexity_interval(
    losses: torch.Tensor, level: float = 0.95, seed: int = 0, *, neighbours: bool = True
) -> Interval:
    """Perplexity with its bootstrap interval over windows.

    losses: (windows,), nats per token, of ``window_losses``. neighbours: whether the windows follow one another, as
    those of ``evaluation_tokens`` do, or are spread over the text. level, seed, errors: as for ``mean_interval``.
    Introduced in notebook 06, "How sure are we?".
    """
    return Interval(*(math.exp(loss) for loss in mean_interval(losses, level, seed, neighbours=neighbours)))


def paired_difference(a, b, level: float = 0.95, seed: int = 0, *, neighbours: bool | None = None) -> Difference:
    """How b differs from a, both (items,) on the same items in the same order: right (1) or wrong (0), or losses.

    Pairing removes what makes an item hard for both, so that far fewer items tell two models apart. neighbours: as for
    ``mean_interval``; by default True for losses and False for right or wrong. Raises ValueError for different numbers
    of items, for fewer than two, and for fewer than eight neighbouring windows.
    Introduced in notebook 06, "The same items".
    """
    a, b = _array(a), _array(b)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} items: expected the same items in the same order for both models.")
    higher, lower = int((b > a).sum()), int((b < a).sum())
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    p = (binomtest(higher, higher + lower).pvalue if higher + lower else 1.0) if binary else None
    neighbours = not binary if neighbours is None else neighbours
    return Difference(*mean_interval(b - a, level, seed, neighbours=neighbours), higher, lower, p)


def _array(values) -> np.ndarray:
    """Values (items,) in float64. Raises ValueError unless they are two or more finite numbers."""
    values = np.array(values.tolist() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values {values.shape}: expected two finite numbers or more, one for each item.")
    return values
