"""Watching a run: how far it is, where its seconds go, how much memory it takes."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import psutil
import torch
from tqdm.auto import tqdm


def progress_bar(**settings) -> tqdm:
    """A bar that leaves nothing behind, alike in a terminal and a notebook; TQDM_DISABLE=1 silences it in both."""
    return tqdm(leave=False, disable=os.environ.get("TQDM_DISABLE", "0") not in ("", "0"), **settings)


class Clock:
    """Seconds by phase: ``with clock("capture"): …``."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # kernels run on behind Python's back
            torch.cuda.synchronize(self.device)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class PeakMemory:
    """The most memory in use while open: of the GPU where there is one, else of this process, sampled."""

    def __init__(self, device: torch.device):
        self.device = device
        self.peak = 0
        self._done = threading.Event()

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self):
        process = psutil.Process()
        while not self._done.wait(0.05):
            self.peak = max(self.peak, process.memory_info().rss)

    def __exit__(self, *error):
        self._done.set()
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._thread.join()
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
