"""One function a figure, one style. Each draws, names its axes and returns the Figure."""

from __future__ import annotations

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
    axes.set_xlabel("perplexity on held-out Wikipedia text (lower is better)")
    return figure
