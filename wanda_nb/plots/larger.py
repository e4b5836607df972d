"""Figures of notebook 11: a model that is pruned from disk to disk."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


def pipeline(blocks: int = 4):
    """Which thread has which block at a time, as a drawing: needs no data.

    Used in notebook 11, "Where the blocks wait".
    """
    figure, axes = plt.subplots(figsize=(7, 2.6))
    lanes = {"reads": ("#e8e3f6", 0), "computes": ("#cfe6ea", 1), "writes": ("#fbeed9", 2)}
    for lane, (color, delay) in lanes.items():
        for block in range(blocks):
            axes.barh(lane, 1, left=block + delay, height=0.8, color=color, edgecolor="white", linewidth=3)
            axes.text(block + delay + 0.5, lane, f"block {block}", ha="center", va="center", fontsize=11)
    red = COLORS["magnitude"]
    axes.add_patch(plt.Rectangle((2, -0.47), 1, 2.94, facecolor="none", edgecolor=red, linewidth=2, zorder=3))
    axes.text(3.1, 2.62, "three blocks at once", ha="center", va="top", fontsize=11, color=red)
    axes.set(ylim=(3.05, -0.5), xlim=(-0.05, blocks + 2.05), xticks=(), xlabel="time →")
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def streamed_memory(checkpoint: float, predicted: float, measured: float):
    """The size of a checkpoint beside the memory that pruning it took, in bytes.

    Used in notebook 11, "A 7B model in little memory".
    """
    figure, axes = plt.subplots(figsize=(7, 2.2))
    sizes = {"the checkpoint": checkpoint, "memory, predicted": predicted, "memory, measured": measured}
    colors = ["#b9c3c8", "#7fb8c2", COLORS["wanda"]]
    bars = axes.barh(list(sizes), [size / 1e9 for size in sizes.values()], color=colors, height=0.7)
    axes.bar_label(bars, [f"{size / 1e9:.1f} GB" for size in sizes.values()], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="GB", xlim=(0, 1.15 * checkpoint / 1e9))
    axes.tick_params(axis="y", length=0)
    return figure


def formats(table):
    """Perplexity against bytes, a line for each method and a dot for each number of bits.

    table: a DataFrame with method, bits, bytes, value, low and high of perplexity.
    Used in notebook 11, "Prune, then quantise".
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values("bytes")
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        look = {"color": COLORS[method], "label": method if method == "dense" else f"{method} 50%"}
        axes.errorbar(rows["bytes"] / 1e6, rows["value"], errors, fmt="o-", markersize=5, capsize=4, **look)
        for row in rows.itertuples():
            place = {"xytext": (7, 7), "textcoords": "offset points"}
            axes.annotate(f"{row.bits} bits", (row.bytes / 1e6, row.value), color=COLORS[method], fontsize=11, **place)
    axes.set_yscale("log")
    axes.set_yticks([20, 30, 50, 100])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(0, 1.12 * table["bytes"].max() / 1e6)
    axes.set(xlabel="the model in a file, MB", ylabel="perplexity (log scale)")
    axes.legend(loc="upper right")
    return figure
