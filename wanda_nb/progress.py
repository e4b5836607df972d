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
    """Floating-point operations a second that a device reaches on a large product: the best of some."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begun < 0.3 and len(times) < 100):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
