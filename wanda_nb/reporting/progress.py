"""Watching a run: how far it has come, and where its time goes."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from ..device import wait_for


def progress_bar(silent: bool = False, **settings) -> tqdm:
    """A bar that leaves nothing behind, in a terminal as in a notebook; TQDM_DISABLE=1 silences it in both."""
    return tqdm(leave=False, disable=silent or os.environ.get("TQDM_DISABLE", "0") not in ("", "0"), **settings)


def duration(seconds: float) -> str:
    """Seconds as a text for people."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Clock:
    """Adds up seconds by phase: ``with clock("capture"): …``. seconds: those of an earlier part of the same run."""

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None):
        self.device = device
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        yield
        wait_for(self.device)  # kernels run on after Python has returned; other streams are others' time
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
