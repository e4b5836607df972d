"""One function a figure, one style. Each draws, names its axes and returns the Figure."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

COLORS = {"dense": "#666666", "magnitude": "#d1495b", "wanda": "#1d7a8c", "2:4": "#e59f3c"}
REMOVED, KEPT = "#d1495b", "#dfe7ea"


def style() -> None:
    """The look of every figure: legible at half size."""
    plt.rcParams.update(
        {
            "figure.figsize": (7, 3.6),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "legend.frameon": False,
        }
    )


def perplexity_bars(table):
    """Perplexity of each model, on a log scale with its value: a DataFrame with columns model and perplexity.

    Used in notebook 00, "Perplexity".
    """
    figure, axes = plt.subplots(figsize=(7, 2.8))
    color = [next((c for name, c in reversed(COLORS.items()) if name in model), "#666666") for model in table["model"]]
    bars = axes.barh(table["model"], table["perplexity"], color=color, height=0.65)
    axes.bar_label(bars, [f"{value:.3g}" for value in table["perplexity"]], padding=4)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(10, table["perplexity"].max() * 2)
    axes.set_xticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.set_xlabel("perplexity on held-out Wikipedia text (lower is better)")
    return figure


def removed_weights(W, masks):
    """How large the removed weights were: W (out, in) and {name: mask (out, in)}, a panel each.

    Used in notebook 00, "Prune".
    """
    figure, panels = plt.subplots(1, len(masks), figsize=(7, 2.9), sharey=True)
    size = W.detach().abs().flatten()
    limit = float(size.quantile(0.99))
    for axes, (name, mask) in zip(panels, masks.items(), strict=True):
        gone = mask.flatten()
        parts = [size[gone].numpy(), size[~gone].numpy()]
        axes.hist(parts, bins=40, range=(0, limit), stacked=True, color=[REMOVED, "#b8c9cf"], label=["removed", "kept"])
        axes.set_title(name)
        axes.set_xlabel("|weight|")
        axes.set_yticks([])
    panels[0].set_ylabel("number of weights")
    panels[-1].legend()
    return figure


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
        axes.set_xticks([0, len(times) // 2])
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name.rpartition(".")[2])
    for axes, block in zip(grid[:, 0], depths, strict=True):
        axes.set_ylabel(f"block {block}")
    figure.supxlabel("input channel", fontsize=12)
    figure.supylabel("norm, in times the layer's median", fontsize=12)
    return figure


def loudness_by_depth(ratios):
    """Loudest channel over median for every layer: a DataFrame, a row a layer name, a column a block.

    Used in notebook 01, "Outlier features".
    """
    figure, axes = plt.subplots(figsize=(7, 2.5))
    shown = axes.imshow(ratios.to_numpy(float), norm="log", cmap="magma", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(ratios)), [name.rpartition(".")[2] for name in ratios.index])
    axes.set_xticks(range(0, ratios.shape[1], 5))
    axes.set_xlabel("block")
    axes.set_title("Loudest input channel, in times the median channel")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_ticks([3, 10, 30, 100, 300, 1000], labels=["3×", "10×", "30×", "100×", "300×", "1000×"])
    bar.minorticks_off()
    return figure


def weights_and_norms(weights, norm, marked: dict):
    """One row of weights |w| (in,) against the norms (in,) of their channels, with lines of equal |w| · norm.

    marked: {label: channel}, the points to name. Used in notebook 01, "Why outlier features make Wanda work".
    """
    weights, norm = weights.abs().cpu(), norm.cpu()
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.scatter(norm, weights, s=14, color="#9fb4ba", linewidth=0)
    x = [float(norm.min()) * 0.8, float(norm.max()) * 2.5]
    for (label, channel), color in zip(marked.items(), [COLORS["wanda"], COLORS["magnitude"]], strict=False):
        worth = float(weights[channel] * norm[channel])
        axes.plot(x, [worth / x[0], worth / x[1]], color=color, linewidth=1, linestyle="--")
        here = (norm[channel], weights[channel])
        axes.scatter(*here, s=70, color=color, zorder=3, label=f"{label}: |w| · norm = {worth:.2g}")
        axes.annotate(label, here, (7, 6), textcoords="offset points", color=color, fontweight="bold")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(x)
    axes.set_ylim(float(weights.max()) / 200, float(weights.max()) * 1.6)
    axes.set_xlabel("norm of the input channel (how loud it is)")
    axes.set_ylabel("|w|")
    axes.legend(loc="upper right", handletextpad=0.1)
    axes.set_title("The smaller weight moves the output more")
    return figure


def massive_activations(first, others, with_first, without_first):
    """How the first token stands out, by depth: four sequences with one number a block.

    first, others: max |x| leaving the block, at the first token and at all others. with_first, without_first:
    loudest channel over median in the input of down_proj, all tokens counted or all but the first.
    Used in notebook 01, "One very loud token".
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    above.plot(first, marker="o", markersize=5, color=COLORS["magnitude"], label="at the first token")
    above.plot(others, marker="o", markersize=5, color=COLORS["dense"], label="at the loudest other token")
    above.set_ylabel("max |x|")
    above.set_title("What leaves each block: the largest |x|")
    below.plot(with_first, marker="o", markersize=5, color=COLORS["magnitude"], label="all tokens")
    below.plot(without_first, marker="o", markersize=5, color=COLORS["dense"], label="without the first token")
    below.set_ylabel("times the median")
    below.set_title("What down_proj reads: the loudest channel")
    below.set_xlabel("block")
    above.legend(loc="center right", bbox_to_anchor=(0.95, 0.62))
    below.legend(loc="upper right", bbox_to_anchor=(0.9, 1.05))
    for axes in (above, below):
        axes.set_yscale("log")
    return figure


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
    figure.suptitle("Both remove half of each row (red), but not the same half", fontsize=13)
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
    figure.suptitle("Only weights in one frame compete; half of each frame goes", fontsize=13)
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
    axes.set_title("Grouped by layer, some outputs lose nearly all their weights")
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
    axes.set_title("One output: magnitude cuts flat, Wanda along a slope")
    axes.legend(fontsize=11, loc="upper right", handletextpad=0.2)
    return figure


def masks_side_by_side(masks, norm, rows: int = 48, columns: int = 96, first: int = 0):
    """A crop of several masks one below the other, under the norms of the channels that they cut.

    masks: {title: (out, in) bool}, True (red) where a weight is removed; the last panel shows where the first two
    differ. norm: (in,). The crop is the first ``rows`` outputs and ``columns`` input channels from number ``first``.
    Used in notebook 02, "Masks side by side".
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
    panels[0].bar(range(first, first + columns), norm[crop[1]], width=0.8, color=COLORS["wanda"])
    panels[0].set_ylabel("norm")
    panels[0].set_title(f"{two} keeps the columns of loud channels, {one} does not")
    edges = (first - 0.5, first + columns - 0.5, rows - 0.5, -0.5)
    for axes, (title, (picture, colors)) in zip(panels[1:], pictures.items(), strict=True):
        limits = {"vmin": -0.5, "vmax": len(colors) - 0.5}
        axes.imshow(
            picture, cmap=ListedColormap(colors), **limits, aspect="auto", interpolation="nearest", extent=edges
        )
        axes.set_title(title, fontsize=11.5)
        axes.set_ylabel("output")
    panels[-1].set_xlabel("input channel")
    figure.align_ylabels(panels)
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


def block_loop():
    """The three steps of the loop over the blocks, as a drawing; needs no data.

    Used in notebook 03, "The block loop".
    """
    figure, axes = plt.subplots(figsize=(7, 3.5))
    axes.set(xlim=(0, 100), ylim=(0, 52))
    axes.axis("off")

    def box(x, y, width, height, text, fill, **font):
        axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=fill, edgecolor="#44525a", linewidth=1))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", linespacing=1.4, **font)

    def arrow(start, end, **how):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#44525a", "linewidth": 1.5, **how})

    steps = ("1  capture", "2  select", "3  propagate"), (15, 50, 85)
    for title, middle in zip(*steps, strict=True):
        axes.text(middle, 49.5, title, ha="center", va="center", weight="bold", fontsize=13)
    for left, block, color, output, output_color in (
        (3, "block i\ndense", KEPT, "output\nnot used", "white"),
        (73, "block i\npruned", "#b9dbe0", "hidden\nstates i + 1", "#fbeed9"),
    ):
        box(left, 36, 24, 9.5, "hidden\nstates i", "#fbeed9")
        box(left, 19.5, 24, 11.5, block, color)
        box(left, 5, 24, 9.5, output, output_color, color="#8a969c" if output_color == "white" else "black")
        arrow((left + 12, 36), (left + 12, 31))
        arrow((left + 12, 19.5), (left + 12, 14.5))
    box(38, 36, 24, 9.5, "score\n|W| · norm", "white")
    box(38, 21, 24, 9.5, "mask: lowest\nhalf of a row", "white")
    box(38, 5, 24, 9.5, "W = 0 where\nmask is True", "#f3ccd2")
    arrow((50, 36), (50, 30.5))
    arrow((50, 21), (50, 14.5))
    arrow((27, 25), (38, 40), connectionstyle="arc3,rad=0.15")
    axes.text(31.2, 35.5, "norms", ha="center", va="center", fontsize=11)
    arrow((62, 10), (73, 24), connectionstyle="arc3,rad=0.15")
    axes.text(66.8, 20.5, "new W", ha="center", va="center", fontsize=11)
    axes.plot([85, 85, 0.6, 0.6], [5, 1, 1, 40.5], color=COLORS["wanda"], linewidth=2)
    arrow((0.6, 40.5), (3.4, 40.5), color=COLORS["wanda"], linewidth=2)
    axes.text(50, 2.6, "next block: i + 1", ha="center", va="center", color=COLORS["wanda"], fontsize=11)
    return figure


def input_drift(hidden_error: dict, norm_change: dict):
    """How far the inputs of each block are from the dense model's: hidden states left, input norms right.

    Each {method: (blocks,) fractions}. Used in notebook 03, "Whose inputs does block 2 see?".
    """
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
    data = (hidden_error, norm_change), ("hidden states: far off", "input norms: much less")
    for axes, (series, title) in zip(panels, zip(*data, strict=True), strict=True):
        for method, values in series.items():
            axes.plot(range(1, len(values) + 1), values, "o-", markersize=3.5, color=COLORS[method], label=method)
        axes.set(title=title, xlabel="block that reads them", xticks=(1, 10, 20, 30))
        axes.yaxis.set_major_formatter("{x:.0%}")
    panels[0].set_ylabel("change from the dense model\n(median)")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(loc="upper left")
    return figure


def mask_changes(order, draw):
    """The share of removed weights that become others, by block: (blocks,) fractions for two causes.

    order: one shot instead of the loop; draw: another draw of calibration windows.
    Used in notebook 03, "Whose inputs does block 2 see?".
    """
    figure, axes = plt.subplots(figsize=(7, 3.2))
    blocks = range(1, len(order) + 1)
    axes.plot(blocks, draw, "s--", markersize=4, color=COLORS["2:4"], label="another draw of calibration text")
    axes.plot(blocks, order, "o-", markersize=4, color=COLORS["wanda"], label="norms from the dense model (one shot)")
    axes.set(
        xlabel="block (1 is the first)", ylabel="removed weights\nthat are others", xticks=(1, 5, 10, 15, 20, 25, 30)
    )
    axes.set_ylim(0, 1.45 * max(*order, *draw))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title("The order changes a few per cent of the masks, like a new draw")
    axes.legend(loc="upper left", fontsize=11)
    return figure


def paired_losses(differences: dict):
    """Differences in loss window by window, with mean and two standard errors: {name: (windows,) nats a token}.

    Used in notebook 03, "Whose inputs does block 2 see?".
    """
    figure, axes = plt.subplots(figsize=(7, 2.8))
    for row, values in enumerate(differences.values()):
        color = (COLORS["dense"], COLORS["wanda"])[row % 2]
        heights = [row + 0.16 * (i % 3 - 1) for i in range(len(values))]  # spread, so that dots show
        axes.plot(values, heights, "o", color=color, alpha=0.45, markersize=6, markeredgewidth=0)
        mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
        axes.errorbar(mean, row + 0.36, xerr=2 * error, fmt="D", color="black", markersize=5, capsize=4)
    axes.axvline(0, color="#b0b8bc", linewidth=1, zorder=0)
    axes.set(yticks=range(len(differences)), yticklabels=differences, ylim=(len(differences) - 0.4, -0.5))
    axes.set_xlabel("difference in loss, nats per token (0 = the same; dot = a window)")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title("Pruning costs a lot; the order makes next to no difference")
    return figure


def phase_seconds(seconds: dict):
    """Where the time of a run goes: {phase: seconds}, as in a Report. Used in notebook 03, "The report"."""
    figure, axes = plt.subplots(figsize=(7, 2.2))
    colors = {"prepare": "#b0b8bc", "capture": COLORS["wanda"], "select": COLORS["magnitude"], "propagate": "#7fb8c2"}
    bars = axes.barh(list(seconds), list(seconds.values()), color=[colors[phase] for phase in seconds], height=0.7)
    axes.bar_label(bars, [f"{value:.1f} s" for value in seconds.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(seconds.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="seconds", title="Where the seconds went")
    return figure


def groups_of_four(removed):
    """How many of each four neighbours a free mask removes: (groups,) of 0 to 4, beside fair coins.

    Used in notebook 04, "What it costs".
    """
    share = removed.bincount(minlength=5) / len(removed)
    coins = [ways / 16 for ways in (1, 4, 6, 4, 1)]
    figure, axes = plt.subplots(figsize=(7, 3.0))
    colors = [COLORS["wanda"] if k == 2 else "#b0b8bc" for k in range(5)]
    bars = axes.bar(range(5), 100 * share, width=0.7, color=colors)
    axes.bar_label(bars, [f"{value:.0%}" for value in share], padding=6)
    points = axes.scatter(range(5), [100 * p for p in coins], marker="_", s=1400, color="black", linewidth=2, zorder=3)
    axes.legend([bars[2], points], ["fits 2:4 as it is", "four tosses of a coin"], loc="upper right", markerscale=0.35)
    axes.set(xlim=(-0.6, 5.4), ylim=(0, 46), xticks=range(5))
    axes.set_xlabel("weights removed of four neighbours, with no pattern asked for")
    axes.set_ylabel("% of the groups")
    axes.set_title("Most groups of four do not fit 2:4 by themselves")
    return figure


def pattern_costs(perplexity: dict):
    """Perplexity of each model, in panels by its share of zeros: {share: {model: perplexity}}, on one log scale.

    Used in notebook 04, "What it costs".
    """
    heights = [len(models) for models in perplexity.values()]
    figure, panels = plt.subplots(len(heights), 1, figsize=(7, 4.6), sharex=True, height_ratios=heights)
    shades = {"dense": COLORS["dense"], "magnitude": COLORS["magnitude"], "2:4": COLORS["2:4"], "1:4": COLORS["2:4"]}
    for axes, (zeros, models) in zip(panels, perplexity.items(), strict=True):
        colors = [next((c for key, c in shades.items() if key in name), COLORS["wanda"]) for name in models]
        bars = axes.barh(list(models), list(models.values()), color=colors, height=0.68)
        axes.bar_label(
            bars, [f"{value:.3g}" if value < 999 else f"{value:,.0f}" for value in models.values()], padding=4
        )
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
        axes.set_ylabel(zeros, rotation=0, ha="right", va="center")
    highest = max(max(models.values()) for models in perplexity.values())
    panels[0].set_xlim(10, 3 * highest)
    ticks = [tick for tick in (10, 100, 1000, 10000, 100000) if tick < 3 * highest]
    panels[-1].set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    panels[-1].set_xlabel("perplexity on held-out text (log scale; lower is better)", loc="right")
    figure.align_ylabels(panels)
    figure.suptitle("The stricter the pattern, the higher the price", fontsize=13)
    return figure


def two_four_format(row, removed):
    """A row of weights in groups of four, and what 2:4 stores of it: row (in,), removed (in,) bool, two of every four.

    Used in notebook 04, "What it saves".
    """
    figure, axes = plt.subplots(figsize=(7, 3.1))

    def box(x, y, text, face, color="#222222"):
        axes.add_patch(plt.Rectangle((x - 0.46, y - 0.36), 0.92, 0.72, fc=face, ec="white"))
        axes.text(x, y, text, ha="center", va="center", color=color)

    slot = 0
    for column, (weight, gone) in enumerate(zip(row.tolist(), removed.tolist(), strict=True)):
        group, place = divmod(column, 4)
        x, target = 1.06 * column + 0.5 * group, 1.06 * (4 * group + slot % 2 + 1) + 0.5 * group
        box(x, 3.2, f"{weight:g}", REMOVED if gone else KEPT, "white" if gone else "#222222")
        axes.text(x, 3.74, f"{place:02b}", ha="center", fontsize=11, color="#666666")
        if not gone:
            axes.plot([x, target], [2.8, 2.02], color="#8a9499", linewidth=1.2)
            box(target, 1.64, f"{weight:g}", KEPT)
            box(target, 0.62, f"{place:02b}", "#f6d9b0")
            slot += 1
    for y, label in (
        (3.74, "position"),
        (3.2, "weights"),
        (1.64, "values, 16 bits each"),
        (0.62, "positions, 2 bits each"),
    ):
        axes.text(-0.75, y, label, ha="right", va="bottom" if y > 3.7 else "center", fontsize=11)
    axes.set(xlim=(-4.1, 1.06 * len(row) + 0.5 * (len(row) // 4 - 1) - 0.4), ylim=(0.2, 4.1))
    axes.axis("off")
    axes.set_title("2:4 stores two values of every four, and two bits to place each")
    return figure


def bytes_by_sparsity(sparsity, sizes: dict, dense: int, two_four: int):
    """What each format takes, against dense: sparsity (n,), {format: n bytes}, and the bytes of dense and of 2:4.

    Used in notebook 04, "What it saves".
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    percent = [100 * s for s in sparsity]
    axes.axhline(1, color=COLORS["dense"], linewidth=2)
    axes.text(99, 1.06, "dense", color=COLORS["dense"], ha="right")
    for (name, size), color in zip(sizes.items(), (COLORS["wanda"], COLORS["magnitude"]), strict=True):
        share = [s / dense for s in size]
        axes.plot(percent, share, color=color, linewidth=2.5)
        even = next(p for p, s in zip(percent, share, strict=True) if s <= 1)
        axes.plot(even, 1, "o", color=color, markersize=9)
        axes.text(even + 2, 1.1, f"{name}, {even:.0f} %", color=color)
    axes.plot(50, two_four / dense, "D", color=COLORS["2:4"], markersize=11)
    axes.annotate("2:4", (50, two_four / dense), (46, two_four / dense - 0.36), color="#b3731b")
    axes.set(xlim=(0, 100), ylim=(0, 3.1), xlabel="% of weights removed", ylabel="size (dense = 1)")
    axes.set_title("From which sparsity does a format save bytes?")
    return figure


def error_valley(gram, dense, removed, updated):
    """The output error over the two weights of a row, as a map, with three rows (2,) marked on it.

    gram: XᵀX (2, 2). dense: the row as it was; removed: its first weight at zero; updated: the second moved as well.
    Used in notebook 05, "Motivation".
    """
    import torch

    figure, axes = plt.subplots(figsize=(7, 4.2))
    first, second = torch.meshgrid(torch.linspace(-1.3, 4.2, 221), torch.linspace(0.5, 9, 221), indexing="ij")
    shift = torch.stack([first, second], dim=-1) - dense  # (221, 221, 2)
    error = ((shift @ gram) * shift).sum(-1)
    axes.contourf(first, second, error, levels=[0, 4, 20, 40, 80, 160, 1e9], cmap="Blues", vmin=-60, vmax=250)
    lines = axes.contour(first, second, error, levels=[4, 20, 40, 80, 160], colors="#44525a", linewidths=1)
    axes.clabel(lines, fmt="%g", fontsize=11)
    axes.axvline(0, color=REMOVED, linewidth=2, linestyle="--")
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 2}
    axes.text(-0.08, 8.85, "weight 0\nremoved", color=REMOVED, ha="right", va="top")
    for row, color, text in (
        (dense, "black", "dense: error 0"),
        (removed, REMOVED, "removed: error 40"),
        (updated, COLORS["wanda"], "removed and updated: error 4"),
    ):
        axes.plot(*row, "o", markersize=10, color=color, markeredgecolor="white")
        axes.annotate(text, row, xytext=(13, 0), textcoords="offset points", va="center", color=color, bbox=white)
    axes.annotate("", updated, removed, arrowprops={"arrowstyle": "-|>", "color": COLORS["wanda"], "lw": 2}, zorder=1)
    axes.set(xlabel="weight 0", ylabel="weight 1", title="Squared output error: in the valley, weight 1 takes over")
    return figure


def correlations(grams: dict, columns: int = 192):
    """How much the input channels have in common: {title: XᵀX (in, in)}, a panel each, the first so many channels.

    Used in notebook 05, "The Hessian".
    """
    figure, panels = plt.subplots(1, len(grams), figsize=(7, 3.6), sharey=True)
    for axes, (title, gram) in zip(panels, grams.items(), strict=True):
        norm = gram.diagonal().sqrt().clamp(min=1e-9)
        cosine = (gram / norm / norm[:, None]).abs()[:columns, :columns]
        image = axes.imshow(cosine.cpu().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, xlabel="input channel")
        axes.set_xticks(range(0, columns + 1, 64))
        axes.set_yticks(range(0, columns + 1, 64))
    panels[0].set_ylabel("input channel")
    figure.suptitle("Related channels left, nearly unrelated ones right", fontsize=13)
    figure.colorbar(image, ax=panels, label="|cosine| of two channels", shrink=0.8)
    return figure


def update_against_tokens(tables: dict):
    """Error with the update over error without it, against the number of calibration tokens.

    tables: {layer: DataFrame with columns tokens, calibration, held-out, damped}, a panel each.
    Used in notebook 05, "One real layer".
    """
    figure, panels = plt.subplots(1, len(tables), figsize=(7, 4), sharey=True)
    lines = {
        "calibration": ("o-", COLORS["dense"], "calibration text"),
        "held-out": ("s-", COLORS["magnitude"], "held-out text"),
        "damped": ("D--", COLORS["wanda"], "held-out text, damping 1"),
    }
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        for column, (marker, color, label) in lines.items():
            axes.plot(table["tokens"], table[column], marker, color=color, markersize=5, label=label)
        axes.axhline(1, color="black", linewidth=1, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(table["tokens"]), [f"{count}" for count in table["tokens"]], fontsize=11)
        axes.minorticks_off()
        axes.set(title=title, xlabel="calibration tokens")
    top = max(float(table["held-out"].max()) for table in tables.values())
    panels[0].set_ylim(0, 1.15 * top)
    panels[0].text(table["tokens"].iloc[-1], 1.02, "above: it hurts", fontsize=11, ha="right", va="bottom")
    panels[0].set_ylabel("error with update / without")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle("Few tokens: good on calibration text, bad on new text", fontsize=13)
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=11, handlelength=1.8, columnspacing=1)
    return figure


def seconds_and_perplexity(table, dense: float):
    """What each method costs and gives: a DataFrame with columns method, seconds and perplexity, a point each.

    dense: the perplexity of the model before pruning. Used in notebook 05, "The whole model".
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    colors = (COLORS["wanda"], COLORS["2:4"], COLORS["magnitude"])
    for color, (_, row) in zip(colors, table.iterrows(), strict=False):
        axes.plot(row["seconds"], row["perplexity"], "o", markersize=11, color=color)
        text = f"{row['method']}\n{row['seconds']:.0f} s, {row['perplexity']:.0f}"
        below = row["method"] == table["method"].iloc[-1]  # the two slow ones are neighbours
        at, where = (0, -11 if below else 11), {"ha": "center", "va": "top" if below else "bottom"}
        axes.annotate(
            text, (row["seconds"], row["perplexity"]), xytext=at, textcoords="offset points", c=color, **where
        )
    axes.axhline(dense, color=COLORS["dense"], linestyle="--")
    axes.text(0.3, dense, f"dense: {dense:.0f}", color=COLORS["dense"], va="bottom")
    axes.set_xlim(0, 1.15 * table["seconds"].max())
    axes.set_ylim(0, 1.35 * table["perplexity"].max())
    axes.set(xlabel="seconds to prune the whole model", ylabel="perplexity (lower is better)")
    axes.set_title("2:4: the update buys quality with seconds")
    return figure


def score_by_group(measured, published, lowest=None, highest=None):
    """Perplexity for each score and comparison group, as two small heat tables; lighter is better.

    measured, published: DataFrames of perplexity, a row a score, a column a comparison group. Each table has its own
    (logarithmic) colours. lowest, highest: the range of what was measured, where several draws were made; a score's
    groups whose ranges overlap with its best are bold too. Used in notebook 08, "Which scores may compete?".
    """
    from matplotlib.colors import LogNorm

    lowest, highest = (measured if end is None else end for end in (lowest, highest))
    tables = {"our model, measured:\nmedian and range of three draws": (measured, lowest, highest)}
    tables["LLaMA-7B,\npublished (grade C)"] = (published, published, published)
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.7), width_ratios=[measured.shape[1], published.shape[1]])
    for axes, (title, (table, low, high)) in zip(panels, tables.items(), strict=True):
        colors = LogNorm(float(table.min().min()) * 0.9, float(table.max().max()) * 2)
        axes.imshow(table, cmap="YlOrRd", norm=colors, aspect="auto")
        for row in range(table.shape[0]):
            first = table.iloc[row].argmin()
            for column in range(table.shape[1]):
                a, value, b = (frame.iloc[row, column] for frame in (low, table, high))
                weight = "bold" if a <= high.iloc[row, first] else "normal"
                text = f"{value:.2f}" if table is published else f"{value:.1f}"
                axes.text(column, row - (0.12 if b > a else 0), text, ha="center", va="center", weight=weight)
                if b > a:
                    axes.text(column, row + 0.2, f"{a:.1f}–{b:.1f}", ha="center", va="center", fontsize=11)
        axes.set_xticks(range(table.shape[1]), table.columns)
        axes.set_yticks(range(table.shape[0]), table.index)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel("compared by")
    figure.suptitle("Perplexity at 50 %; bold: the best of a row, or not told apart from it", fontsize=13)
    return figure


def norm_power(layer_errors, perplexities):
    """The scores |W| · norm^p: error of single layers (left) and perplexity of the whole model (right) against p.

    layer_errors: DataFrame of relative errors on held-out tokens, a row a power, a column a layer. perplexities:
    Series {power: perplexity}. Used in notebook 08, "Your own score".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
    colors = (COLORS["wanda"], COLORS["2:4"], "#7b5ea7")
    for (name, errors), color in zip(layer_errors.items(), colors, strict=False):
        left.plot(errors, "o-", markersize=4, color=color, label=name.rpartition(".")[2])
        left.plot(errors.idxmin(), errors.min(), "o", markersize=11, mfc="none", mec=color, mew=1.5)
    left.set(title="single layers", ylabel="output error, held-out text", ylim=(0, 1.6 * layer_errors.max().max()))
    left.legend(loc="upper right", fontsize=11)
    right.plot(perplexities, "o-", markersize=5, color="#222222")
    right.set_yscale("log")
    low, high = perplexities.min() / 1.5, perplexities.max() * 1.5
    ticks = [tick for tick in (25, 50, 100, 200, 400, 800) if low < tick < high]
    right.set_yticks(ticks, [f"{tick}" for tick in ticks])
    right.minorticks_off()
    right.set(title="the whole model", ylabel="perplexity (log scale)")
    for axes in (left, right):
        axes.axvline(1, color="#b0b8bc", linewidth=1, linestyle="--", zorder=0)
        axes.set_xlabel("power p in |W| · norm^p")
        axes.set_xticks([0, 1, 2], ["0\nmagnitude", "1\nWanda", "2"])
    figure.suptitle("No norm costs much, too much norm a little", fontsize=13)
    return figure


def leaderboard(differences):
    """Paired differences in loss to a reference, best first: {name: (windows,) nats a token}; less than 0 is better.

    Dots are windows, the diamond is their mean with two standard errors. Used in notebook 08, "Your own score".
    """
    ranked = sorted(differences.items(), key=lambda item: float(item[1].mean()))
    figure, axes = plt.subplots(figsize=(7, 0.75 + 0.55 * len(ranked)))
    for row, (_, values) in enumerate(ranked):
        mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
        color = "#8a969c" if abs(mean) < 2 * error else COLORS["wanda"] if mean < 0 else COLORS["magnitude"]
        axes.plot(values, [row + 0.22] * len(values), "o", color=color, alpha=0.4, markersize=5, markeredgewidth=0)
        axes.errorbar(mean, row - 0.12, xerr=2 * error, fmt="D", color=color, markersize=6, capsize=4, linewidth=2)
    axes.axvline(0, color="#222222", linewidth=1, zorder=0)
    axes.set(yticks=range(len(ranked)), yticklabels=[name for name, _ in ranked], ylim=(len(ranked) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("loss minus Wanda's, nats per token (dot = a window)")
    axes.set_title("Who beats Wanda? Left is better; grey: cannot tell")
    return figure


def perplexity_by_sparsity(rows, dense: float):
    """Perplexity against sparsity, a line a method: a DataFrame with method, sparsity, seed and perplexity.

    Where a method has several seeds, the line is their median and the band goes from the lowest to the highest. Right:
    the single draws of Wanda and SparseGPT at 50 % and 60 %, over Wanda's median; a pale bar is their range.
    dense: the perplexity of the unpruned model. Used in notebook 08, "How much can go?".
    """
    figure, (axes, close) = plt.subplots(1, 2, figsize=(7, 4.2), width_ratios=[2.2, 1])
    colors = {"sparsegpt": "#7b5ea7", **COLORS}
    for method, runs in rows.groupby("method", sort=False):
        by_sparsity = runs.groupby("sparsity")["perplexity"]
        middle = by_sparsity.median()
        axes.plot(middle, "o-", markersize=5, color=colors[method], label=method)
        if runs["seed"].nunique() > 1:
            axes.fill_between(middle.index, by_sparsity.min(), by_sparsity.max(), color=colors[method], alpha=0.3, lw=0)
    for level, text, side in ((dense, "dense", "top"), (2 * dense, "twice dense", "bottom")):
        axes.axhline(level, color=COLORS["dense"], linewidth=1.2, linestyle="--", zorder=0)
        axes.text(0.805, level, text, ha="right", va=side, color=COLORS["dense"], fontsize=11)
    axes.set_yscale("log")
    axes.set_ylim(bottom=dense / 2.5)
    axes.set_xticks([0.2, 0.4, 0.6, 0.8])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("perplexity (log scale)")
    axes.set_title("all sparsities", fontsize=12)
    axes.legend(loc="upper left")
    for place, share in enumerate((0.5, 0.6)):
        at_share = rows[rows["sparsity"] == share].set_index("method")["perplexity"]
        for aside, method in ((-0.15, "wanda"), (0.15, "sparsegpt")):
            ratio, x = at_share[[method]] / at_share[["wanda"]].median(), place + aside
            close.vlines(x, ratio.min(), ratio.max(), color=colors[method], linewidth=7, alpha=0.3)
            close.plot([x] * len(ratio), ratio, "o", color=colors[method], markersize=6)
    close.axhline(1, color=COLORS["wanda"], linewidth=1, linestyle="--", zorder=0)
    close.set_xlim(-0.5, 1.5)
    close.set_xticks([0, 1], ["50%", "60%"])
    close.yaxis.set_major_locator(plt.MultipleLocator(0.05))
    close.yaxis.set_major_formatter("{x:.2f}")
    close.set_title("single draws over\nWanda's median", fontsize=12)
    figure.supxlabel("sparsity (fraction of weights removed)", fontsize=12)
    figure.suptitle("How much can go before a model breaks?", fontsize=13)
    return figure


def calibration_curves(rows):
    """Perplexity against the number of calibration windows: a DataFrame with source, samples, seed and perplexity.

    Dots are single draws, the line joins their medians, the pale bar goes from the lowest to the highest.
    Used in notebook 08, "How much text, and which?".
    """
    figure, axes = plt.subplots(figsize=(7, 3.9))
    looks = {"c4": (COLORS["wanda"], "o", 0.93), "wikipedia": (COLORS["2:4"], "s", 1.07)}
    for source, runs in rows.groupby("source", sort=False):
        color, marker, aside = looks[source]
        by_samples = runs.groupby("samples")["perplexity"]
        middle = by_samples.median()
        x = middle.index * aside
        axes.vlines(x, by_samples.min(), by_samples.max(), color=color, linewidth=8, alpha=0.3)
        axes.plot(runs["samples"] * aside, runs["perplexity"], marker, color=color, markersize=5)
        axes.plot(x, middle, color=color, linewidth=1.5, label=f"calibrated on {source}")
    axes.set_xscale("log", base=2)
    samples = sorted(rows["samples"].unique())
    axes.set_xticks(samples, [f"{n}" for n in samples])
    axes.minorticks_off()
    axes.set_xlabel(f"calibration windows of {rows['length'].iloc[0]} tokens (log scale)")
    axes.set_ylabel("perplexity, Wikipedia text")
    axes.set_title("Does more text help, and which text?")
    axes.legend(loc="upper right")
    return figure


def one_text_many_perplexities(perplexities: dict):
    """Perplexities of one model on one text, a bar for each way of measuring: {how: perplexity}.

    Used in notebook 06, "Perplexity and its traps".
    """
    figure, axes = plt.subplots(figsize=(7, 3.1))
    bars = axes.barh(list(perplexities), list(perplexities.values()), color=COLORS["dense"], height=0.65)
    bars[0].set_color(COLORS["wanda"])
    axes.bar_label(bars, [f"{value:.1f}" for value in perplexities.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, max(perplexities.values()) * 1.12)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("perplexity (lower is better, axis from 0)")
    axes.set_title("One model, one text, six perplexities")
    return figure


def perplexity_intervals(table, dense):
    """Perplexity against sparsity with intervals: a DataFrame with method, sparsity, value, low and high.

    dense: (value, low, high) of the unpruned model. What is above 1000 is named, not drawn.
    Used in notebook 06, "How sure are we?".
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    colors = {"sparsegpt": "#7b5ea7", **COLORS}
    for place, (method, rows) in enumerate(table.groupby("method", sort=False)):
        rows = rows.sort_values("sparsity")
        x = rows["sparsity"] + 0.008 * (place - 1)  # aside, so that bars do not hide each other
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(
            x, rows["value"], yerr=errors, fmt="o-", color=colors[method], markersize=5, capsize=4, label=method
        )
    axes.axhspan(dense[1], dense[2], color=COLORS["dense"], alpha=0.25, linewidth=0)
    axes.axhline(dense[0], color=COLORS["dense"], linewidth=1.2, linestyle="--")
    axes.text(0.725, dense[2] * 1.02, "dense", ha="right", va="bottom", color=COLORS["dense"])
    axes.set_yscale("log")
    axes.set_ylim(dense[1] * 0.85, 1000)
    axes.set_yticks([20, 50, 100, 200, 500, 1000])
    axes.minorticks_off()
    beyond = table[table["value"] > 1000]
    named = [f"{row.sparsity:.0%}: {row.value:,.0f}" for row in beyond.itertuples()]
    axes.text(
        0.34, 980, "\n".join([*(f"{m}, above:" for m in beyond["method"].unique()), *named]), va="top", fontsize=11
    )
    axes.set_xlim(0.17, 0.73)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("sparsity (fraction of weights removed)")
    axes.set_ylabel("perplexity (log scale)")
    axes.set_title("Perplexity with the interval that its windows give it")
    axes.legend(loc="upper left")
    return figure


def pairing(losses: dict, intervals: dict, difference):
    """Two models on the same windows: {name: (windows,) nats a token}, two of them.

    intervals: {name: (value, low, high)}, each by itself. difference: (value, low, high) of the second minus the first.
    Used in notebook 06, "The same items".
    """
    (a, b), (first, second) = losses, losses.values()
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.8), width_ratios=[1.25, 1])
    for one, other in zip(first, second, strict=True):
        color = COLORS["wanda"] if other < one else COLORS["magnitude"]
        left.plot([0, 1], [one, other], "o-", color=color, alpha=0.4, markersize=4, linewidth=1, markeredgewidth=0)
    for x, name in ((-0.22, a), (1.22, b)):
        value, low, high = intervals[name]
        left.errorbar(x, value, yerr=[[value - low], [high - value]], fmt="D", color="black", markersize=6, capsize=5)
    left.set(xlim=(-0.5, 1.5), ylabel="loss, nats per token")
    left.set_xticks([0, 1], [a, b])
    left.set_title("each by itself", fontsize=12)
    for i, d in enumerate(second - first):
        color = COLORS["wanda"] if d < 0 else COLORS["magnitude"]
        right.plot(0.08 * (i % 5 - 2), d, "o", color=color, alpha=0.5, markersize=5, markeredgewidth=0)
    value, low, high = difference
    right.errorbar(0.4, value, yerr=[[value - low], [high - value]], fmt="D", color="black", markersize=6, capsize=5)
    right.axhline(0, color="#222222", linewidth=1, zorder=0)
    right.set(xlim=(-0.5, 0.8), xticks=[], ylabel="difference, nats per token")
    right.set_title(f"{b} minus {a}", fontsize=12)
    figure.suptitle("The same windows (a line or dot each); black: mean and interval", fontsize=13)
    return figure


def task_accuracies(tables: dict):
    """Accuracy with about 95 % intervals, a row a task: {model: the table of a ZeroShot}; chance is marked.

    Used in notebook 06, "Seven tasks".
    """
    tasks = list(next(iter(tables.values())).index)
    figure, axes = plt.subplots(figsize=(7, 4.6))
    for place, (model, table) in enumerate(tables.items()):
        color = next((c for name, c in COLORS.items() if name in model), "#7b5ea7")
        rows = [row + 0.22 * (place - (len(tables) - 1) / 2) for row in range(len(tasks))]
        axes.errorbar(
            table["acc"], rows, xerr=2 * table["acc ±"], fmt="o", color=color, markersize=6, capsize=3, label=model
        )
    chance = next(iter(tables.values()))["chance"]
    rows = range(len(tasks))
    axes.vlines(
        chance, [r - 0.42 for r in rows], [r + 0.42 for r in rows], color="#222222", linewidth=2, label="chance"
    )
    for row in rows[1:]:
        axes.axhline(row - 0.5, color="#e3e8ea", linewidth=1, zorder=0)
    axes.set(yticks=rows, yticklabels=tasks, ylim=(len(tasks) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy in per cent (bar: ± 2 standard errors)")
    figure.suptitle("Where is a model better than chance, or than another?", fontsize=13)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure


def pattern_perplexities(table, dense):
    """Perplexity with its interval, by pattern and method: a DataFrame with method, pattern, value, low and high.

    dense: (value, low, high) of the unpruned model. Draws the rows there are, for notebook 06 and its WikiText-2.
    """
    patterns = list(dict.fromkeys(table["pattern"]))
    colors = {"sparsegpt": "#7b5ea7", **COLORS}
    methods = [method for method in ("magnitude", "wanda", "sparsegpt") if method in set(table["method"])]
    figure, axes = plt.subplots(figsize=(7, 1.6 + 0.75 * max(1, len(patterns))))
    for place, method in enumerate(methods):
        rows = table[table["method"] == method]
        y = [patterns.index(pattern) + 0.24 * (place - 1) for pattern in rows["pattern"]]
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(rows["value"], y, xerr=errors, fmt="o", color=colors[method], capsize=4, label=method)
        for value, high, at in zip(rows["value"], rows["high"], y, strict=True):
            text = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
            axes.text(high * 1.06, at, text, va="center", color=colors[method], fontsize=11)
    axes.axvspan(dense[1], dense[2], color=COLORS["dense"], alpha=0.25, linewidth=0)
    axes.axvline(dense[0], color=COLORS["dense"], linestyle="--", label=f"dense: {dense[0]:.3g}")
    axes.set_xscale("log")
    axes.set_xlim(dense[0] / 1.3, max([dense[0] * 2, *table["high"]]) * 1.6)
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if axes.get_xlim()[0] < t < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.set(yticks=range(len(patterns)), yticklabels=patterns, ylim=(max(1, len(patterns)) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("perplexity on WikiText-2, windows of 2048 (log scale)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure


def recovery_curves(runs: dict):
    """Held-out text during training: perplexity, and what was gained since the start: {name: (steps, perplexities)}.

    Names tell what was trained ("wanda …" or "dense …") and how ("… LoRA" solid, "… masked" dashed).
    Used in notebook 07, "Is it recovery, or only new text?" and "Training under the mask".
    """
    figure, (whole, close) = plt.subplots(1, 2, figsize=(7, 4))
    for name, (steps, perplexities) in runs.items():
        color = next(color for kind, color in COLORS.items() if kind in name)
        masked = "masked" in name
        look = {"color": color, "marker": "s" if masked else "o", "markersize": 5, "linestyle": "--" if masked else "-"}
        look["markerfacecolor"] = "white" if masked else color
        whole.plot(steps, perplexities, label=name, **look)
        close.plot(steps, [math.log(perplexities[0] / value) for value in perplexities], **look)
    whole.set_ylim(0, 1.1 * max(max(values) for _, values in runs.values()))
    whole.set(title="perplexity", ylabel="perplexity, Wikipedia text")
    close.axhline(0, color=COLORS["dense"], linewidth=1, linestyle=":", zorder=0)
    close.set(title="gained since the start", ylabel="loss gained, nats a token")
    for axes in (whole, close):
        axes.set_xlabel("training steps")
        axes.set_xticks(range(0, 1 + max(steps[-1] for steps, _ in runs.values()), 20))
    handles, labels = whole.get_legend_handles_labels()
    figure.suptitle("How much of the gain does the unpruned model get too?", fontsize=13)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11)
    return figure


def merged_corners(weights: dict, size: int = 40):
    """The upper left corner of a layer before and after merging: {title: W (out, in)}; a zero is red.

    Used in notebook 07, "Merging without losing the zeros".
    """
    from matplotlib.colors import ListedColormap

    figure, panels = plt.subplots(1, len(weights), figsize=(7, 3.1), sharey=True)
    for axes, (title, W) in zip(panels, weights.items(), strict=True):
        zeros = (W.detach() == 0).int().cpu()
        look = {"cmap": ListedColormap([KEPT, REMOVED]), "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        axes.imshow(zeros[:size, :size], **look)
        axes.set_title(f"{title}\n{zeros.float().mean():.0%} zeros", fontsize=12)
        axes.set_xlabel("input channel")
        axes.set_xticks(range(0, size, 10))
        axes.set_yticks(range(0, size, 10))
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("output")
    figure.suptitle("A plain merge fills every zero (red)", fontsize=13)
    return figure


def lost_shares(table):
    """What a merge under the mask throws away: a DataFrame with layer, "lost" and "lost, weighted by loudness".

    Used in notebook 07, "Merging without losing the zeros".
    """
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
    looks = {"lost": ("o", COLORS["magnitude"]), "lost, weighted by loudness": ("D", COLORS["wanda"])}
    for axes, kind in zip(panels, ("q_proj", "v_proj"), strict=True):
        rows = table[table["layer"].str.endswith(kind)]
        for column, (marker, color) in looks.items():
            axes.plot(range(len(rows)), rows[column], marker, color=color, markersize=5, label=column)
        axes.axhline(0.5, color=COLORS["dense"], linewidth=1, linestyle="--", zorder=0)
        axes.set(title=kind, xlabel="block", ylim=(0, 0.8))
        axes.yaxis.set_major_formatter("{x:.0%}")
    panels[0].set_ylabel("share of the update lost")
    panels[0].text(0, 0.51, "share of zeros", color=COLORS["dense"], fontsize=11, va="bottom")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle("How much of the update falls on zeros?", fontsize=13)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11, handletextpad=0.2)
    return figure
