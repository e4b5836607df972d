"""What a check draws where a mask is wrong."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap

from .look import KEPT, REMOVED

SHOWN = 24  # rows and columns, around the first difference


def expected_and_got(expected, got):
    """Two masks (out, in) side by side, True = removed (red), and a frame around every weight on which they differ.

    Of larger masks, the corner where they first differ. Used by wanda_nb.checks.
    """
    row, column = (expected != got).nonzero()[0].tolist()
    top, left = (max(0, place - SHOWN // 2) for place in (row, column))
    expected, got = (mask[top : top + SHOWN, left : left + SHOWN] for mask in (expected, got))
    height = min(4.2, 1.4 + 0.24 * expected.shape[0])
    figure, panels = plt.subplots(1, 2, figsize=(7, height), sharey=True, layout="constrained")
    rows, columns = expected.shape
    edges = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    for axes, mask, title in zip(panels, (expected, got), ("expected", "got"), strict=True):
        colors = ListedColormap([KEPT, REMOVED])
        axes.imshow(mask.float().numpy(), cmap=colors, vmin=0, vmax=1, extent=edges, aspect="auto")
        axes.set_title(title)
        axes.set_xlabel("input channel")
    for r, c in (expected != got).nonzero().tolist():
        corner = (left + c - 0.5, top + r - 0.5)
        panels[1].add_patch(plt.Rectangle(corner, 1, 1, fill=False, lw=1.2, ec="black"))
    panels[0].set_ylabel("output")
    figure.suptitle("Red: removed. Framed: not as expected", fontsize=12)
    return figure
