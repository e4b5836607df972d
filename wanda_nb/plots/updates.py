"""Figures of notebook 05: weight updates."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


def error_valley(gram, dense, removed, updated):
    """The output error over the two weights of a row, as a map with its floor, and three rows (2,) marked on it.

    gram: XᵀX (2, 2). dense: the row as it was; removed: its first weight at zero; updated: the second moved as well.
    The floor is the best weight 1 for each weight 0. Used in notebook 05, "Motivation".
    """
    import torch

    figure, axes = plt.subplots(figsize=(7, 4.2))
    first, second = torch.meshgrid(torch.linspace(-1.3, 4.2, 221), torch.linspace(0.5, 9, 221), indexing="ij")
    shift = torch.stack([first, second], dim=-1) - dense  # (221, 221, 2)
    error = ((shift @ gram) * shift).sum(-1)
    axes.contourf(first, second, error, levels=[0, 4, 20, 40, 80, 160, 1e9], cmap="Blues", vmin=-60, vmax=250)
    lines = axes.contour(first, second, error, levels=[4, 20, 40, 80, 160], colors="#44525a", linewidths=1)
    axes.clabel(lines, fmt="%g", fontsize=11)
    ends = torch.tensor([-1.3, 4.2])
    axes.plot(ends, dense[1] - gram[0, 1] / gram[1, 1] * (ends - dense[0]), color="black", linewidth=1.5)
    axes.text(3.5, 1.9, "floor", ha="left", va="bottom")
    axes.axvline(0, color=COLORS["wanda"], linewidth=2, linestyle="--")
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 2}
    axes.text(-0.08, 8.85, "weight 0\nremoved", color=COLORS["wanda"], ha="right", va="top")
    for row, marker, color, text in (
        (dense, "*", "black", "dense"),
        (removed, "o", COLORS["wanda"], "removed"),
        (updated, "D", COLORS["wanda"], "removed and updated"),
    ):
        text += f": error {(row - dense) @ gram @ (row - dense):.0f}"
        axes.plot(*row, marker, markersize=14 if marker == "*" else 9, color=color, markeredgecolor="white")
        axes.annotate(text, row, xytext=(13, 0), textcoords="offset points", va="center", color=color, bbox=white)
    axes.annotate("", updated, removed, arrowprops={"arrowstyle": "-|>", "color": COLORS["wanda"], "lw": 2}, zorder=1)
    axes.set(
        xlabel="weight 0", ylabel="weight 1", ylim=(0.5, 9), title="Squared output error, by the two weights of the row"
    )
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
    figure.suptitle("How much two input channels have in common", fontsize=13)
    figure.colorbar(image, ax=panels, label="|cosine| of two channels", shrink=0.8)
    return figure


def error_by_steps(tables: dict):
    """Relative output error after each step of conjugate gradients, beside the mask alone and OBS on the same mask.

    tables: {layer: Series of errors by the number of steps, with attrs "mask alone" and "OBS"}, a panel each.
    Used in notebook 05, "All kept weights at once".
    """
    figure, panels = plt.subplots(1, len(tables), figsize=(7, 3.6), sharey=True)
    for axes, (title, errors) in zip(panels, tables.items(), strict=True):
        for name, line in (("mask alone", "--"), ("OBS", ":")):
            axes.axhline(errors.attrs[name], color=COLORS["wanda"], linestyle=line, linewidth=1.6)
            axes.text(errors.index.max(), errors.attrs[name], name, ha="right", va="bottom", color=COLORS["wanda"])
        axes.plot(errors, "D-", color=COLORS["wanda"], markersize=5)
        axes.set(title=title, xlabel="steps", xlim=(-0.5, errors.index.max() + 0.5))
    highest = max(errors.attrs["mask alone"] for errors in tables.values())
    panels[0].set(ylabel="relative output error, calibration", ylim=(0, 1.15 * highest))
    figure.suptitle("Least squares under Wanda's 2:4 mask, step by step", fontsize=13)
    return figure


def updates_of_masks(table, dense):
    """Perplexity with its interval: a panel a pattern, a row a mask and its update, the colour of the mask's method.

    table: DataFrame with pattern, mask, update, value, low and high. dense: (value, low, high) of the unpruned model.
    Used in notebook 05, "The whole model".
    """
    markers = {"mask alone": "o", "OBS": "s", "its own": "s", "least squares": "D"}
    patterns = [pattern for pattern in ("50%", "4:8", "2:4") if pattern in set(table["pattern"])]
    labels = [(mask, update) for mask in ("magnitude", "wanda", "sparsegpt") for update in markers]
    labels = [label for label in labels if label in set(zip(table["mask"], table["update"], strict=True))]
    figure, panels = plt.subplots(1, len(patterns), figsize=(7, 4.2), sharey=True)
    for axes, pattern in zip(panels, patterns, strict=True):
        for row in table[table["pattern"] == pattern].itertuples():
            y, color = labels.index((row.mask, row.update)), COLORS[row.mask]
            errors = [[row.value - row.low], [row.high - row.value]]
            axes.errorbar(row.value, y, xerr=errors, fmt=markers[row.update], color=color, capsize=4)
            text = f"{row.value:.0f} ({row.value / dense[0]:.1f}×)"
            at, side = (row.high * 1.2, "left") if row.value < 20 * dense[0] else (row.low / 1.2, "right")
            axes.text(at, y, text, ha=side, va="center", color=color, fontsize=11)
        axes.axvspan(dense[1], dense[2], color=COLORS["dense"], alpha=0.25, linewidth=0)
        axes.axvline(dense[0], color=COLORS["dense"], linewidth=1.2, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlim(dense[0] / 1.4, 2 * table["high"].max())
        ticks = [tick for tick in (20, 100, 500, 2000) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set(title=pattern, xlabel="perplexity (log scale)", ylim=(len(labels) - 0.5, -0.5))
    panels[0].set_yticks(range(len(labels)), [f"{mask}: {update}" for mask, update in labels])
    named = f"in brackets: multiples of the dense model's {dense[0]:.1f}; grey: its interval"
    figure.suptitle(f"Each mask and what was done with it\n({named})", fontsize=12)
    return figure
