"""What a run of prune did and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd


def gib(size: float) -> str:
    """Bytes as a text for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


@dataclass
class Report:
    """What a run of prune did; prints as a table."""

    method: str
    pattern: str | None
    group: str
    update: str | None
    tokens: tuple[int, ...]
    #: One row per layer: block, name, shape, sparsity asked and reached, seconds to score and select.
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    #: Seconds by phase: prepare, capture, select, propagate.
    seconds: dict[str, float] = field(default_factory=dict)
    #: Bytes: of GPU memory allocated if the run was on a GPU, else of the process.
    peak_memory: int = 0
    #: Bytes read from disk and written to it; 0 if the model was in memory.
    read: int = 0
    written: int = 0
    #: Floating-point operations of the matrix products in capture and propagate, as loop_flops counts them.
    flops: float = 0.0
    #: Floating-point operations per second that this machine reaches on a large product, in the model's dtype.
    rate: float = 0.0
    #: Whether every calibration window began with the model's BOS token; None if that is not known.
    bos: bool | None = None
    #: Whose activations were read: "sequential" or "norms of the dense model"; None if the method reads none.
    activations: str | None = None
    #: For a run from a calibration: what is known of its texts.
    calibration: list[dict] | None = None
    #: What was left as it is: name, kind, weights, share of all weights, why; like names in all blocks make one row.
    left: pd.DataFrame = field(default_factory=pd.DataFrame)
    #: Experts' layers that saw too few tokens: (block, layer, tokens); and what they were pruned by instead.
    rare_experts: list[tuple[int, str, int]] = field(default_factory=list)
    rare_by: str = "magnitude"
    #: Of the update, as asked; None without one.
    damping: float | None = None

    @property
    def reached(self) -> float:
        """The fraction of zeros in all layers together."""
        size = self.layers["shape"].map(lambda shape: shape[0] * shape[1])
        return float((self.layers["reached"] * size).sum() / size.sum())

    def summary(self) -> pd.DataFrame:
        """One row per kind of layer, over all blocks; what was asked and reached if that is not the same everywhere."""
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
        if len(set(summary["asked"]) | set(summary["reached"])) == 1:  # the headline says it
            summary = summary.drop(columns=["asked", "reached"])
        return summary.rename_axis(None)

    def headline(self) -> str:
        """The run in one line."""
        settings = self.pattern or f"{self.layers['asked'].mean():.0%}, compared by {self.group}"
        settings += f", {self.update} update, damping {self.damping:g}" if self.update else ""
        settings += ", each window with BOS" if self.bos else ""
        activations = f" · {self.activations}" if self.activations else ""
        by = "magnitude" if self.rare_by == "magnitude" else "what all experts read"
        activations += f" · {len(self.rare_experts)} of rare experts by {by}" if self.rare_experts else ""
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return (
            f"{self.method}, {settings}: {self.reached:.2%} zeros in {len(self.layers)} layers"
            f"{activations} · {phases} · peak memory {self.peak_memory / 2**30:.2f} GiB"
        )

    def timing(self) -> str:
        """Where the time went, against the least time that the arithmetic can take on this machine."""
        total = sum(self.seconds.values())
        parts = [f"{math.prod(self.tokens) / total:,.0f} tokens/s"] if self.tokens and total else []
        if self.read or self.written:
            parts.append(f"read {gib(self.read)}, written {gib(self.written)}")
        if self.flops:
            floor = self.flops / self.rate
            parts.append(
                f"matrix products, at the {self.rate / 1e9:,.0f} GFLOP/s measured here: {floor:.1f} s, "
                f"{floor / total:.0%} of the {total:.1f} s taken"
            )
        return " · ".join(parts)

    def remainder(self) -> str:
        """How much was left as it is, by kind, in one line."""
        if self.left.empty:
            return ""
        shares = self.left.groupby("kind")["share"].sum().sort_values(ascending=False)
        kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in shares[shares >= 0.0005].items())
        return f"left as they are: {shares.sum():.1%} of all weights ({kinds}); report.left says why"

    def __repr__(self) -> str:
        parts = self.headline(), self.timing(), str(self.summary()), self.remainder()
        return "\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        lines = f"<p>{self.headline()}</p><p>{self.timing()}</p>"
        return f"{lines}{self.summary().to_html()}<p>{self.remainder()}</p>"
