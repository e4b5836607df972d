"""What a run did and what it cost."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
import psutil
import torch


@dataclass
class Report:
    """What a run of prune did; prints as a table."""

    method: str
    sparsity: float
    pattern: str | None
    group: str
    tokens: tuple[int, ...]
    #: A row a layer: block, name, shape, sparsity asked and reached, seconds to score it and select.
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    #: Seconds by phase: prepare, capture, select, propagate.
    seconds: dict[str, float] = field(default_factory=dict)
    #: Bytes: of GPU memory allocated where the run was on one, else of the process.
    peak_memory: int = 0

    @property
    def reached(self) -> float:
        """The fraction of zeros in all layers together."""
        size = self.layers["shape"].map(lambda shape: shape[0] * shape[1])
        return float((self.layers["reached"] * size).sum() / size.sum())

    def summary(self) -> pd.DataFrame:
        """One row a kind of layer, over all blocks."""
        by_name = self.layers.groupby("name", sort=False)
        return pd.DataFrame(
            {
                "blocks": by_name.size(),
                "shape": by_name["shape"].first(),
                "asked": by_name["asked"].first(),
                "reached": by_name["reached"].mean(),
                "select s": by_name["select s"].sum().round(2),
            }
        )

    def headline(self) -> str:
        """The run in one line."""
        what = self.pattern or f"{self.sparsity:.0%}, compared by {self.group}"
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return (
            f"{self.method}, {what}: {self.reached:.2%} zeros in {len(self.layers)} layers"
            f" · {phases} · peak memory {self.peak_memory / 2**30:.2f} GiB"
        )

    def __repr__(self) -> str:
        return f"{self.headline()}\n{self.summary()}"

    def _repr_html_(self) -> str:
        return f"<p>{self.headline()}</p>{self.summary().to_html()}"


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
