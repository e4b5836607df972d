"""Figures of notebook 01: what goes into each layer."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, REMOVED


def channel_norms(norms):
    """Every input channel's norm over its layer's median: a dict {(block, layer name): norm (in,)}, a row a block.

    Used in notebook 01, "Outlier features".
    """
    depths = sorted({block for block, _ in norms})
    names = list(dict.fromkeys(name for _, name in norms))
    figure, grid = plt.subplots(len(depths), len(names), figsize=(7, 4.6), sharey=True, sharex="col", squeeze=False)
    for (block, name), norm in norms.items():
        axes = grid[depths.index(block), names.index(name)]
        times = (norm / norm.median()).cpu()
        axes.vlines(range(len(times)), 0, times, color=COLORS["wanda"], linewidth=1.4)
        axes.text(0.97, 0.95, f"{times.max():.0f}×", transform=axes.transAxes, ha="right", va="top", color=REMOVED)
        axes.set_xlim(-0.03 * len(times), 1.03 * len(times))
        axes.set_xticks([0, len(times) - 1])
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name.rpartition(".")[2])
    for axes, block in zip(grid[:, 0], depths, strict=True):
        axes.set_ylabel(f"block {block}")
    figure.supxlabel("input channel", fontsize=12)
    figure.supylabel("norm, as a multiple of the layer's median", fontsize=12)
    return figure


def loudness_by_depth(ratios):
    """Loudest channel over median for every layer: a DataFrame, a row a layer name, a column a block.

    Used in notebook 01, "Outlier features".
    """
    figure, axes = plt.subplots(figsize=(7, 2.5))
    shown = axes.imshow(ratios.to_numpy(float), norm="log", cmap="magma", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(ratios)), [name.rpartition(".")[2] for name in ratios.index])
    _to_the_last_block(axes.xaxis, ratios.shape[1])
    axes.set_xlabel("block")
    axes.set_title("Loudest input channel, as a multiple of the median channel")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_ticks([3, 10, 30, 100, 300, 1000], labels=["3×", "10×", "30×", "100×", "300×", "1000×"])
    bar.minorticks_off()
    return figure


def outlier_channels(norms, factor=5):
    """Where the channels are that are louder than factor times their layer's median: a panel for each layer name.

    norms: a dict {(block, layer name): norm (in,)}. Used in notebook 01, "The file, opened".
    """
    names = list(dict.fromkeys(name for _, name in norms))
    figure, panels = plt.subplots(1, len(names), figsize=(7, 3.6), sharey=True, squeeze=False)
    for (block, name), norm in norms.items():
        axes, loud = panels[0][names.index(name)], (norm > factor * norm.median()).nonzero().flatten().cpu()
        axes.scatter(loud, [block] * len(loud), s=9, color=COLORS["wanda"], linewidth=0)
        axes.set_xlim(-0.03 * len(norm), 1.03 * len(norm))
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(f"what {name.rpartition('.')[2]} reads")
    panels[0][0].set_ylabel("block")
    _to_the_last_block(panels[0][0].yaxis, 1 + max(block for block, _ in norms))
    figure.supxlabel(f"input channel: a dot where its norm is above {factor} times the median", fontsize=12)
    return figure


def massive_activations(first, others, with_first, without_first):
    """How the first token stands out, by depth: four sequences with one number a block.

    first, others: max |x| leaving the block, at the first token and at all others. with_first, without_first:
    loudest channel over median in the input of down_proj, all tokens counted or all but the first.
    Used in notebook 01, "Where the loudest channel comes from".
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    above.plot(first, marker="o", markersize=5, color=COLORS["wanda"], label="at the first token")
    above.plot(others, marker="o", markersize=5, color=COLORS["dense"], label="at the loudest other token")
    above.set_ylabel("max |x|")
    above.set_title("What leaves each block: the largest |x|")
    below.plot(with_first, marker="o", markersize=5, color=COLORS["wanda"], label="all tokens")
    below.plot(without_first, marker="o", markersize=5, color=COLORS["dense"], label="without the first token")
    below.set_ylabel("times the median")
    below.set_title("What down_proj reads: the loudest channel")
    below.set_xlabel("block")
    above.legend(loc="center right", bbox_to_anchor=(0.95, 0.62))
    below.legend(loc="upper right", bbox_to_anchor=(0.9, 1.05))
    for axes in (above, below):
        axes.set_yscale("log")
        _to_the_last_block(axes.xaxis, len(first))
    return figure


def _to_the_last_block(axis, blocks: int) -> None:
    """Every fifth block, counted from 0, and the last one."""
    axis.set_ticks([*range(0, blocks - 2, 5), blocks - 1])
