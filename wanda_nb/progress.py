"""Watching a run: how far it is, where its seconds go."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import lru_cache

import torch
from tqdm.auto import tqdm


def progress_bar(silent: bool = False, **settings) -> tqdm:
    """A bar that leaves nothing behind, alike in a terminal and a notebook; TQDM_DISABLE=1 silences it in both."""
    return tqdm(leave=False, disable=silent or os.environ.get("TQDM_DISABLE", "0") not in ("", "0"), **settings)


def duration(seconds: float) -> str:
    """Seconds, for people."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Clock:
    """Seconds by phase: ``with clock("capture"): …``. seconds: of an earlier part of the same run."""

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None):
        self.device = device
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # kernels run on behind Python's back
            torch.cuda.synchronize(self.device)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second that a device reaches on a large product: the best seen in 0.2 s."""
    largest = 8192 if device.type == "cuda" else 2048
    size, best = 128, 0.0
    _product_seconds(size, device, dtype)  # the first one waits for libraries to load
    begun = time.perf_counter()
    while True:
        took = min(_product_seconds(size, device, dtype) for _ in range(2))  # the first of a size may be compiled
        best = max(best, 2 * size**3 / took)
        left = 0.2 - (time.perf_counter() - begun)
        if size < largest and 2 * 8 * took < left:  # twice the rows, eight times the work
            size *= 2
        elif 2 * took > left:
            return best


def _product_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a = torch.ones(size, size, device=device, dtype=dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
