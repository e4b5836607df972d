"""Figures of notebook 02: what a weight is worth."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, KEPT, REMOVED


def worked_example(W, norm, magnitude_mask, wanda_mask):
    """A small layer by hand: the weights, then what each score removes, with the numbers in the cells.

    W: (out, in). norm: (in,), written above the columns that it belongs to. Both masks: (out, in) bool, True where
    a weight is removed. Used in notebook 02, "What is a weight worth?".
    """
    figure, panels = plt.subplots(1, 3, figsize=(7, 3.3))
    nothing = magnitude_mask & ~magnitude_mask
    _numbers(panels[0], W, nothing, "W: the weights", pad=26)  # room for the norms
    _numbers(panels[1], W.abs(), magnitude_mask, "|W|: magnitude", pad=26)
    _numbers(panels[2], W.abs() * norm, wanda_mask, "|W| · norm: Wanda", pad=26)
    for axes in panels:
        axes.set_xlabel("input channel")
    for column, value in enumerate(norm.tolist()):
        for axes in panels[[0, 2]]:
            axes.text(column, -0.8, f"{value:g}", ha="center", va="center", color=COLORS["wanda"], weight="bold")
    panels[0].text(-0.75, -0.8, "norm", ha="right", va="center", color=COLORS["wanda"])
    panels[0].set_ylabel("output")
    figure.suptitle("red: removed", fontsize=13)
    return figure


def comparison_groups(score, masks):
    """Which scores compete: one panel a grouping, a frame around each group, what it removes in red.

    score: (out, in), small. masks: {"output": (out, in) bool, "input": …, "layer": …}.
    Used in notebook 02, "Comparison groups".
    """
    rows, columns = score.shape
    frames = {"output": (columns, 1), "input": (1, rows), "layer": (columns, rows)}
    titles = {"output": "output: by row", "input": "input: by column", "layer": "layer: all at once"}
    figure, panels = plt.subplots(1, len(masks), figsize=(7, 3.0))
    for axes, (group, mask) in zip(panels, masks.items(), strict=True):
        _numbers(axes, score, mask, titles[group])
        width, height = frames[group]
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                corner = (left - 0.44, top - 0.44)
                axes.add_patch(plt.Rectangle(corner, width - 0.12, height - 0.12, fill=False, lw=2.5, ec="#222222"))
        axes.set_xlabel("input channel")
    panels[0].set_ylabel("output")
    figure.suptitle("Weights in one frame compete; half of each frame goes", fontsize=13)
    return figure


def row_sparsity(masks):
    """How much of each output is removed: a histogram a mask, {label: (out, in) bool}.

    Used in notebook 02, "Comparison groups".
    """
    figure, axes = plt.subplots(figsize=(7, 2.9))
    bins = [number / 40 for number in range(41)]
    for label, mask in masks.items():
        color = next((c for name, c in reversed(COLORS.items()) if name in label.lower()), "#666666")
        axes.hist(mask.float().mean(dim=1).tolist(), bins=bins, histtype="step", lw=2, color=color, label=label)
    axes.axvline(0.5, color="#222222", lw=1.5, ls="--", label="grouped by output: every row here")
    axes.set_xlim(0, 1)
    axes.set_xlabel("fraction of the row's weights removed")
    axes.set_ylabel("rows (outputs)")
    axes.set_title("How much of each output goes, grouped by layer")
    axes.legend(fontsize=11, loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    return figure


def score_plane(w, norm, removed_by_magnitude, removed_by_wanda):
    """One row of a layer: a point a weight at (norm, |w|), with the boundary of each score.

    w and norm: (in,). Both masks: (in,) bool, True where the weight is removed. On log scales magnitude's boundary
    lies flat and Wanda's, |w| · norm = constant, falls with slope -1. Weights under a hundredth of the largest are
    below the lower edge.
    Used in notebook 02, "Score against |w| and norm".
    """
    w, by_magnitude, by_wanda = w.abs(), removed_by_magnitude, removed_by_wanda
    kinds = {
        "both keep": (~by_magnitude & ~by_wanda, "#a9b7bc", "o"),
        "both remove": (by_magnitude & by_wanda, "#444444", "x"),
        "only magnitude removes": (by_magnitude & ~by_wanda, COLORS["magnitude"], "s"),
        "only Wanda removes": (~by_magnitude & by_wanda, COLORS["wanda"], "^"),
    }
    figure, axes = plt.subplots(figsize=(7, 4.4))
    for label, (mask, color, marker) in kinds.items():
        axes.scatter(norm[mask], w[mask], s=22, color=color, marker=marker, lw=1, label=f"{label}: {int(mask.sum())}")
    low, high = float(norm.min()) * 0.8, float(norm.max()) * 1.25
    flat, falling = float(w[by_magnitude].max()), float((w * norm)[by_wanda].max())
    axes.plot([low, high], [flat, flat], color=COLORS["magnitude"], lw=2)
    axes.plot([low, high], [falling / low, falling / high], color=COLORS["wanda"], lw=2)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(float(w.max()) / 100, float(w.max()) * 1.4))
    axes.text(high, flat * 1.05, "|w| = constant ", ha="right", color=COLORS["magnitude"])
    axes.text(high / 4, falling / (high / 4) * 1.1, "|w| · norm = constant", color=COLORS["wanda"])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(which="minor", labelbottom=False, labelleft=False)
    axes.set_xlabel("norm of the input channel, ‖X_j‖₂")
    axes.set_ylabel("size of the weight, |w_ij|")
    axes.set_title("The weights of one output, and where each method cuts")
    axes.legend(fontsize=11, loc="upper right", handletextpad=0.2)
    return figure


def masks_side_by_side(masks, norm, rows: int = 48, columns: int = 96, first: int = 0):
    """A crop of several masks one below the other, under the norms of the channels that they cut.

    masks: {title: (out, in) bool}, True (red) where a weight is removed; the last panel shows where the first two
    differ. norm: (in,). The crop is the first ``rows`` outputs and ``columns`` input channels from number ``first``.
    Used in notebook 02, "Masks side by side", by the explorer.
    """
    from matplotlib.colors import ListedColormap

    one, two = list(masks)[:2]
    crop = (slice(rows), slice(first, first + columns))
    pictures = {title: (mask[crop].int(), [KEPT, REMOVED]) for title, mask in masks.items()}
    difference = masks[one][crop].int() - masks[two][crop].int() + 1
    title = f"where they differ: only {one} removes (red), only {two} (blue-green)"
    pictures[title] = (difference, [COLORS["wanda"], "white", COLORS["magnitude"]])
    heights = [0.6] + [1] * len(pictures)
    figure, panels = plt.subplots(len(heights), 1, figsize=(7, 7.6), sharex=True, height_ratios=heights)
    panels[0].bar(range(first, first + columns), norm[crop[1]].tolist(), width=0.8, color=COLORS["wanda"])
    panels[0].set_ylabel("norm")
    panels[0].set_title("the norms of the input channels", fontsize=11.5)
    edges = (first - 0.5, first + columns - 0.5, rows - 0.5, -0.5)
    for axes, (title, (picture, colors)) in zip(panels[1:], pictures.items(), strict=True):
        limits = {"vmin": -0.5, "vmax": len(colors) - 0.5}
        axes.imshow(
            picture.numpy(), cmap=ListedColormap(colors), **limits, aspect="auto", interpolation="nearest", extent=edges
        )
        axes.set_title(title, fontsize=11.5)
        axes.set_ylabel("output")
    panels[-1].set_xlabel("input channel")
    figure.align_ylabels(panels)
    return figure


def error_ratios(ratios, marked=()):
    """Magnitude's error over Wanda's in every layer: a DataFrame, a row a layer name, a column a block.

    marked: pairs (layer name, block) to frame. One colour for where each method's error is the smaller, white where
    they are equal; beyond four times, the colour stays. Used in notebook 02, "All layers".
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    values = ratios.to_numpy(float)
    most = max(values.max(), 1 / values.min())
    top = min(most, 4)  # so that one layer does not take all colours
    low, ends = 1 / top, [COLORS["magnitude"], "white", COLORS["wanda"]]
    if values.min() >= 1:  # no colour for what does not occur
        low, ends = 1, ends[1:]
    colors = LinearSegmentedColormap.from_list("who", ends)
    figure, axes = plt.subplots(figsize=(7, 3.2))
    shown = axes.imshow(values, norm=LogNorm(low, top), cmap=colors, aspect="auto", interpolation="nearest")
    for name, block in marked:
        corner = (list(ratios.columns).index(block) - 0.5, list(ratios.index).index(name) - 0.5)
        axes.add_patch(plt.Rectangle(corner, 1, 1, fill=False, lw=2, ec="#222222"))
    axes.set_yticks(range(len(ratios)), [name.rpartition(".")[2] for name in ratios.index])
    count = ratios.shape[1]
    places = [*range(0, count - 2, 5), count - 1]
    axes.set_xticks(places, [str(ratios.columns[place]) for place in places])
    axes.set_xlabel("block")
    axes.set_title("Error of the layer's output: magnitude's over Wanda's")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, pad=0.02, extend="neither" if most <= top else "both" if low < 1 else "max")
    ticks = [tick for tick in (1 / 4, 1 / 2, 1, 2, 4) if low <= tick <= top]
    bar.set_ticks(ticks, labels=[f"{tick:g}×" for tick in ticks])
    bar.minorticks_off()
    return figure


def _numbers(axes, values, removed, title, pad=6):
    """Draw a small matrix with its numbers; those removed stand white on red."""
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            gone = bool(removed[row, column])
            axes.add_patch(
                plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fc=REMOVED if gone else KEPT, ec="white", lw=2)
            )
            axes.text(column, row, f"{value:g}", ha="center", va="center", color="white" if gone else "#222222")
    rows, columns = values.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    axes.set_title(title, pad=pad)
    axes.set_xticks(range(columns))
    axes.set_yticks(range(rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
