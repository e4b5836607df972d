"""Figures of notebook 03: the block loop and its drift."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, KEPT


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
