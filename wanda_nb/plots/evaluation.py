"""Figures of notebook 06: how good, and how sure."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


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
    axes.set_xlabel("perplexity (lower is better, axis from 0); teal: this course's way")
    axes.set_title("One model, one passage, six perplexities")
    return figure


def perplexity_intervals(table, dense):
    """Perplexity against sparsity with intervals: a DataFrame with method, sparsity, value, low and high.

    dense: (value, low, high) of the unpruned model. What is above 1000 is named, not drawn.
    Used in notebook 06, "How sure are we?".
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for place, (method, rows) in enumerate(table.groupby("method", sort=False)):
        rows = rows.sort_values("sparsity")
        x = rows["sparsity"] + 0.008 * (place - 1)  # aside, so that bars do not hide each other
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(
            x, rows["value"], yerr=errors, fmt="o-", color=COLORS[method], markersize=5, capsize=4, label=method
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
    told = "red: worse, teal: better; black: mean and interval"
    figure.suptitle(f"The same windows, a line or dot each\n({told})", fontsize=13)
    return figure


def pattern_perplexities(table, dense):
    """Perplexity with its interval, by pattern and method: a DataFrame with method, pattern, value, low and high.

    dense: (value, low, high) of the unpruned model. Draws the rows there are. Used in notebook 06,
    "All of WikiText-2".
    """
    patterns = list(dict.fromkeys(table["pattern"]))
    known = ("magnitude", "wanda", "sparsegpt", "wanda + least squares")
    methods = [method for method in known if method in set(table["method"])]
    figure, axes = plt.subplots(figsize=(7, 1.6 + 0.85 * max(1, len(patterns))))
    for place, method in enumerate(methods):
        rows = table[table["method"] == method]
        y = [patterns.index(pattern) + 0.21 * (place - (len(methods) - 1) / 2) for pattern in rows["pattern"]]
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        name, _, update = method.partition(" + ")
        marker = {"fmt": "D" if update else "o", "markerfacecolor": "white" if update else COLORS[name]}
        axes.errorbar(rows["value"], y, xerr=errors, color=COLORS[name], capsize=4, label=method, **marker)
        for value, high, at in zip(rows["value"], rows["high"], y, strict=True):
            text = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
            axes.text(high * 1.06, at, text, va="center", color=COLORS[name], fontsize=11)
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, columnspacing=1.2, handletextpad=0.3)
    return figure
