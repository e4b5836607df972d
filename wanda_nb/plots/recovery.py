"""Figures of notebook 08: what training wins back."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

from .look import COLORS, KEPT, REMOVED


def recovery_curves(runs: dict):
    """Held-out text during training: perplexity, and what was gained since the start: {name: (steps, perplexities)}.

    Names tell what was trained ("wanda …" or "dense …") and how ("… LoRA" solid, "… masked" dashed, "… fast" dotted).
    Used in notebook 08, "Is it recovery, or only new text?", "What does it cost?" and "Ten times the rate".
    """
    figure, (whole, close) = plt.subplots(1, 2, figsize=(7, 4))
    for name, (steps, perplexities) in runs.items():
        color = next(color for kind, color in COLORS.items() if kind in name)
        marker, line = ("s", "--") if "masked" in name else ("^", ":") if "fast" in name else ("o", "-")
        look = {"color": color, "marker": marker, "markersize": 5, "linestyle": line}
        look["markerfacecolor"] = color if line == "-" else "white"
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

    Used in notebook 08, "Merging without losing the zeros".
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
    figure.suptitle("A plain merge fills every zero (red)", fontsize=13)
    return figure


def lost_shares(table):
    """What a merge under the mask throws away: a DataFrame with layer, "lost" and "lost, weighted by loudness".

    Used in notebook 08, "Merging without losing the zeros".
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
