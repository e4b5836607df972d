"""Figures of notebook 05: weight updates."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, REMOVED


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
