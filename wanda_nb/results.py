"""What a run did, what it cost, and what is needed to run it again."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch


@dataclass
class Report:
    """What a run of prune did; prints as a table."""

    method: str
    pattern: str | None
    group: str
    update: str | None
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
        summary = pd.DataFrame(
            {
                "blocks": by_name.size(),
                "shape": by_name["shape"].first(),
                "asked": by_name["asked"].mean().round(4),
                "reached": by_name["reached"].mean().round(4),
                "select s": by_name["select s"].sum().round(2),
            }
        )
        return summary.rename_axis(None)

    def headline(self) -> str:
        """The run in one line."""
        what = self.pattern or f"{self.layers['asked'].mean():.0%}, compared by {self.group}"
        what += f", {self.update} update" if self.update else ""
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return (
            f"{self.method}, {what}: {self.reached:.2%} zeros in {len(self.layers)} layers"
            f" · {phases} · peak memory {self.peak_memory / 2**30:.2f} GiB"
        )

    def __repr__(self) -> str:
        return f"{self.headline()}\n{self.summary()}"

    def _repr_html_(self) -> str:
        return f"<p>{self.headline()}</p>{self.summary().to_html()}"


def provenance(model) -> dict:
    """Where a number came from, beside the settings of the run: model, dtype, device, versions and date."""
    parameter = next(model.parameters())
    on_gpu = parameter.device.type == "cuda"
    source = Path(model.config._name_or_path)  # a hub id, or a folder whose whereabouts are nobody's business
    return {
        "model": source.name if source.is_dir() else str(source),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(parameter.device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "wanda-nb")},
        "date": datetime.date.today().isoformat(),
    }
