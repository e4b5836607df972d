"""The one style of all figures."""

from __future__ import annotations

import matplotlib.pyplot as plt

COLORS = {
    "dense": "#666666",
    "magnitude": "#d1495b",
    "wanda": "#1d7a8c",
    "sparsegpt": "#7b5ea7",
    "4:8": "#8a5a2b",
    "2:4": "#e59f3c",
}
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
