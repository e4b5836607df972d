"""Figures of notebook 00: perplexity beside dense and by sparsity, and the weights that go."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, REMOVED


def times_dense(found: dict):
    """Perplexity in multiples of the dense model's, on a log axis: {model: (value, low, high)}, a dot each.

    Its colour is that of magnitude, else of the pattern, else of the method named.
    Used in notebook 00, "How good is each?", and notebook 04, "On the whole model".
    """
    figure, axes = plt.subplots(figsize=(7, 0.9 + 0.42 * len(found)))
    for row, (name, (value, low, high, *_)) in enumerate(found.items()):
        color = next(COLORS[key] for key in ("magnitude", "2:4", "4:8", "wanda", "dense") if key in name.lower())
        axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", color=color, markersize=8, capsize=4)
        axes.annotate(f"{value:,.3g} ×" if value < 999 else f"{value:,.0f} ×", (high, row), (7, 0),
                      textcoords="offset points", va="center")  # fmt: skip
    highest = max(high for _, _, high, *_ in found.values())
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if tick < 3 * highest]
    axes.axvline(1, color=COLORS["dense"], linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set(xlim=(0.8, 4 * highest), ylim=(len(found) - 0.5, -0.5), yticks=range(len(found)), yticklabels=list(found))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("perplexity, in multiples of the dense model's (log scale)", loc="right")
    return figure


def perplexity_sweep(sweep, now=None):
    """Perplexity over the fraction of zeros, a dot for each row of a DataFrame of pattern, zeros and perplexity.

    now: a dict of the same, to be ringed. Used in notebook 00, "Move the slider".
    """
    figure, axes = plt.subplots(figsize=(7, 3.2))
    colors = {**COLORS, "none": COLORS["wanda"]}
    for pattern, rows in sweep.groupby("pattern", sort=False):
        color, label = colors[pattern], {"none": "any weight may go"}.get(pattern, pattern)
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
        axes.yaxis.set_major_formatter(lambda count, _: f"{count / 1000:g}")
    panels[0].set_ylabel("weights in a bin,\nin thousands")
    panels[-1].legend()
    return figure
