"""Figures of notebook 00: perplexity at a glance and by sparsity, and the weights that go."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, REMOVED


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


def perplexity_sweep(sweep, now=None):
    """Perplexity over the fraction of zeros, a dot for each row of a DataFrame of pattern, zeros and perplexity.

    now: a dict of the same, to be ringed. Used in notebook 00, "Move the slider".
    """
    figure, axes = plt.subplots(figsize=(7, 3.2))
    colors = {"none": COLORS["wanda"], "2:4": COLORS["2:4"]}
    for pattern, rows in sweep.groupby("pattern", sort=False):
        color, label = colors.get(pattern, COLORS["dense"]), {"none": "any weight may go"}.get(pattern, pattern)
        axes.scatter(100 * rows["zeros"], rows["perplexity"], s=50, color=color, label=label)
    if now is not None:
        ring = {"s": 200, "facecolor": "none", "edgecolor": REMOVED, "linewidth": 2, "label": "now"}
        axes.scatter(100 * now["zeros"], now["perplexity"], **ring)
    axes.set_yscale("log")
    axes.set_ylim(10, 2 * sweep["perplexity"].max())
    axes.set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.set_xlabel("weights removed, in %")
    axes.set_ylabel("perplexity")
    axes.legend(loc="upper left")
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
