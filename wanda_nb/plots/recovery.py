"""Figures of notebook 08: what training wins back."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

from .look import COLORS, KEPT, REMOVED


def recovery_curves(runs: dict):
    """Held-out text during training: perplexity, and how far the loss has fallen: {name: (steps, perplexities)}.

    A name begins with what was trained, "wanda" or "dense". Used in notebook 08, "Is it recovery, or only new text?".
    """
    figure, (whole, close) = plt.subplots(1, 2, figsize=(7, 4))
    for name, (steps, perplexities) in runs.items():
        look = {"color": COLORS[name.split()[0].strip(",")], "marker": "o", "markersize": 5}
        whole.plot(steps, perplexities, label=name, **look)
        close.plot(steps, [math.log(perplexities[0] / value) for value in perplexities], **look)
    whole.set_ylim(0, 1.1 * max(max(values) for _, values in runs.values()))
    whole.set(title="perplexity", ylabel="perplexity, Wikipedia text")
    close.axhline(0, color=COLORS["dense"], linewidth=1, linestyle=":", zorder=0)
    close.set(title="loss reduction since the start", ylabel="loss reduction, nats a token")
    for axes in (whole, close):
        axes.set_xlabel("training steps")
        axes.set_xticks(range(0, 1 + max(steps[-1] for steps, _ in runs.values()), 20))
    handles, labels = whole.get_legend_handles_labels()
    figure.suptitle("A pruned and an unpruned model, trained alike", fontsize=13)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11)
    return figure


def shares_closed(shares: dict):
    """The share of the gap that training closed: a row a way to train, each with and without the control's part.

    shares: {way: {"closed" or "control taken off": (interval over windows (value, low, high), a share a seed)}}.
    Used in notebook 08, "Which setting is best?".
    """
    figure, axes = plt.subplots(figsize=(7, 1.6 + 0.7 * len(shares)))
    looks = {"closed": ("o", -0.2, COLORS["wanda"]), "control taken off": ("D", 0.2, "white")}
    for row, found in enumerate(shares.values()):
        for name, ((value, low, high), seeds) in found.items():
            marker, aside, face = looks[name]
            look = {"color": COLORS["wanda"], "markerfacecolor": face, "capsize": 4, "markersize": 8}
            label = name if row == 0 else None
            axes.errorbar(value, row + aside, xerr=[[value - low], [high - value]], fmt=marker, label=label, **look)
            below = [row + aside + 0.09 * (place - (len(seeds) - 1) / 2) for place in range(len(seeds))]
            axes.plot(seeds, below, "|", color="black", markersize=5, zorder=3)  # one under another: they hardly differ
    axes.plot([], [], "|", color="black", markersize=5, linestyle="", label="one seed each")
    axes.set_yticks(range(len(shares)), shares)
    axes.set(ylim=(len(shares) - 0.5, -0.5), xlabel="share of the gap to the dense model")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:.0%}")
    figure.suptitle("What share of the gap does training close?", fontsize=13)
    figure.legend(loc="outside lower center", ncols=3, fontsize=11)
    return figure


def merged_corners(weights: dict, size: int = 40):
    """The upper left corner of a layer before and after merging: {title: W (out, in)}; a zero is red.

    Used in notebook 08, "Merging".
    """
    from matplotlib.colors import ListedColormap

    figure, panels = plt.subplots(1, len(weights), figsize=(7, 3.4), sharey=True)
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
    figure.suptitle("Which weights are exactly zero (red)?", fontsize=13)
    return figure


def lost_shares(table):
    """What a merge under the mask throws away: a DataFrame with layer, "lost" and "lost, weighted by loudness".

    Used in notebook 08, "Merging".
    """
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
    looks = {"lost": ("o", "white"), "lost, weighted by loudness": ("D", COLORS["wanda"])}
    for axes, kind in zip(panels, ("q_proj", "v_proj"), strict=True):
        rows = table[table["layer"].str.endswith(kind)]
        for column, (marker, face) in looks.items():
            look = {"color": COLORS["wanda"], "markerfacecolor": face, "markersize": 5}
            axes.plot(range(len(rows)), rows[column], marker, label=column, **look)
        axes.axhline(0.5, color=COLORS["dense"], linewidth=1, linestyle="--", zorder=0)
        axes.set(title=kind, xlabel="block", ylim=(0, 0.8))
        axes.yaxis.set_major_formatter("{x:.0%}")
    panels[0].set_ylabel("share of the update lost")
    panels[0].text(0, 0.51, "share of zeros", color=COLORS["dense"], fontsize=11, va="bottom")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle("How much of the update falls on zeros?", fontsize=13)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11, handletextpad=0.2)
    return figure
