"""What a run did, what it cost, and what is needed to run it again."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

REPOSITORY = "https://github.com/wanda-nb/wanda-nb"  # notebooks/fork.py changes it
HUB_CACHE = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]([^/\\]+)$")


def gib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


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
    #: Bytes read from disk and written to it; nothing where the model was in memory.
    read: int = 0
    written: int = 0
    #: Floating-point operations of the linear layers in two passes; one pass through the last block.
    flops: float = 0.0
    #: Floating-point operations a second that this machine reaches on a large product, in the model's dtype.
    rate: float = 0.0
    #: Whether every calibration window began with the model's BOS token; None where that is not known.
    bos: bool | None = None

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
        what += ", each window with BOS" if self.bos else ""
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return (
            f"{self.method}, {what}: {self.reached:.2%} zeros in {len(self.layers)} layers"
            f" · {phases} · peak memory {self.peak_memory / 2**30:.2f} GiB"
        )

    def timing(self) -> str:
        """Where the time went, against the least that the arithmetic could take on this machine."""
        total = sum(self.seconds.values())
        parts = [f"{math.prod(self.tokens) / total:,.0f} tokens/s"] if self.tokens and total else []
        if self.read or self.written:
            parts.append(f"read {gib(self.read)}, written {gib(self.written)}")
        if self.flops:
            floor = self.flops / self.rate
            parts.append(
                f"matrix products of two passes, at the {self.rate / 1e9:,.0f} GFLOP/s measured here: {floor:.1f} s, "
                f"{floor / total:.0%} of the {total:.1f} s taken"
            )
        return " · ".join(parts)

    def __repr__(self) -> str:
        return "\n".join(part for part in (self.headline(), self.timing(), str(self.summary())) if part)

    def _repr_html_(self) -> str:
        return f"<p>{self.headline()}</p><p>{self.timing()}</p>{self.summary().to_html()}"


def provenance(model, device=None) -> dict:
    """Where a number came from, beside the settings of the run: model, dtype, device, versions and date.

    device: where it was computed, by default where the model is.
    """
    parameter = next(model.parameters())
    device = device or parameter.device
    on_gpu = device.type == "cuda"
    source = Path(model.config._name_or_path)  # a hub id, or a folder whose whereabouts are nobody's business
    return {
        "model": source.name if source.is_dir() else str(source),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "wanda-nb")},
        "date": datetime.date.today().isoformat(),
    }


def begin_with_bos(model, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> bool | None:
    """Whether every window (samples, length) begins with the model's BOS, after any padding; None if it has none."""
    configs = (model.config.get_text_config(), getattr(model, "generation_config", None))
    bos = next((found for config in configs if (found := getattr(config, "bos_token_id", None)) is not None), None)
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(tokens.device).int()
    first = tokens.gather(1, mask.argmax(dim=1, keepdim=True))
    return None if bos is None else bool((first == bos).all())


def measured(name: str) -> dict:
    """A record in data/results, with all that is needed to measure it again.

    Raises FileNotFoundError for a name that is not there. Introduced in notebook 03, "A 7B model in little memory".
    """
    return json.loads(_recorded(f"results/{name}.json").read_text(encoding="utf-8"))


def published(name: str) -> pd.DataFrame:
    """A table in data/paper of numbers that others published; each row names its source and how sure we are of it.

    grade: A, the authors' own words or repository; B, another research repository; C, secondary notes. What is not
    known is missing. Raises FileNotFoundError for a name that is not there.
    Introduced in notebook 09, "What was published".
    """
    counts = {"context": "Int64", "samples": "Int64"}
    return pd.read_csv(_recorded(f"paper/{name}.csv"), dtype=counts)


def repository() -> str:
    """Where this package lives on the web, as in pyproject.toml."""
    return REPOSITORY


def version(name: str) -> str:
    """The version of an installed package; "unknown" if it is imported from a folder that was never installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def model_name(path_or_id) -> str:
    """What a model is called: its hub id, also where the path is a hub's cache; else its folder, not whereabouts."""
    if not (Path(path_or_id).is_dir() or Path(path_or_id).is_absolute()):
        return str(path_or_id)
    path = os.path.abspath(path_or_id)
    cached = HUB_CACHE.search(path)
    return cached[1].replace("--", "/") if cached else os.path.basename(path)


def revision(path_or_id) -> str | None:
    """The commit of a model in a hub's cache; None for other folders and ids."""
    cached = HUB_CACHE.search(os.path.abspath(path_or_id))
    return cached[2] if cached else None


def _recorded(path: str) -> Path:
    """A file of the repository's data folder, which a built package carries inside."""
    for folder in (Path(__file__).parents[1] / "data", Path(__file__).parent / "data"):
        if (folder / path).is_file():
            return folder / path
    raise FileNotFoundError(f"There is no data/{path}: expected one of the files that data/README.md names.")
