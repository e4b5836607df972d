"""Figures of notebook 04: N:M."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, KEPT, REMOVED


def groups_of_four(removed):
    """How many of each four neighbours a free mask removes: (groups,) of 0 to 4, beside fair coins.

    Used in notebook 04, "What it costs".
    """
    share = removed.bincount(minlength=5) / len(removed)
    coins = [ways / 16 for ways in (1, 4, 6, 4, 1)]
    figure, axes = plt.subplots(figsize=(7, 3.0))
    colors = [COLORS["wanda"] if k == 2 else "#b0b8bc" for k in range(5)]
    bars = axes.bar(range(5), 100 * share, width=0.7, color=colors)
    axes.bar_label(bars, [f"{value:.0%}" for value in share], padding=6)
    points = axes.scatter(range(5), [100 * p for p in coins], marker="_", s=1400, color="black", linewidth=2, zorder=3)
    names = ["fits 2:4 as it is", "four tosses of a coin"]
    axes.legend([bars[2], points], names, loc="upper right", markerscale=0.35, fontsize=11)
    axes.set(xlim=(-0.6, 4.6), ylim=(0, 52), xticks=range(5))
    axes.set_xlabel("weights removed of four neighbours")
    axes.set_ylabel("% of the groups")
    axes.set_title("Four neighbours, and how many of them a free mask removes")
    return figure


def two_four_format(row, removed):
    """A row of weights in groups of four, and what 2:4 stores of it: row (in,), removed (in,) bool, two of every four.

    Used in notebook 04, "What it saves".
    """
    figure, axes = plt.subplots(figsize=(7, 3.1))

    def box(x, y, text, face, color="#222222"):
        axes.add_patch(plt.Rectangle((x - 0.46, y - 0.36), 0.92, 0.72, fc=face, ec="white"))
        axes.text(x, y, text, ha="center", va="center", color=color)

    slot = 0
    for column, (weight, gone) in enumerate(zip(row.tolist(), removed.tolist(), strict=True)):
        group, place = divmod(column, 4)
        x, target = 1.06 * column + 0.5 * group, 1.06 * (4 * group + slot % 2 + 1) + 0.5 * group
        box(x, 3.2, f"{weight:g}", REMOVED if gone else KEPT, "white" if gone else "#222222")
        axes.text(x, 3.74, f"{place:02b}", ha="center", fontsize=11, color="#666666")
        if not gone:
            axes.plot([x, target], [2.8, 2.02], color="#8a9499", linewidth=1.2)
            box(target, 1.64, f"{weight:g}", KEPT)
            box(target, 0.62, f"{place:02b}", "#f6d9b0")
            slot += 1
    for y, label in (
        (3.74, "position"),
        (3.2, "weights"),
        (1.64, "values, 16 bits each"),
        (0.62, "positions, 2 bits each"),
    ):
        axes.text(-0.75, y, label, ha="right", va="bottom" if y > 3.7 else "center", fontsize=11)
    axes.set(xlim=(-4.1, 1.06 * len(row) + 0.5 * (len(row) // 4 - 1) - 0.4), ylim=(0.2, 4.1))
    axes.axis("off")
    axes.set_title("How 2:4 is stored")
    return figure


def two_four_product(row, removed):
    """How a row stored as 2:4 is multiplied: each position picks one of four inputs. row (in,), removed (in,) bool.

    Used in notebook 04, "What the hardware does".
    """
    figure, axes = plt.subplots(figsize=(7, 3.0))
    kept = [column for column, gone in enumerate(removed.tolist()) if not gone]

    def at(column):
        return 1.06 * column + 0.5 * (column // 4)

    def box(x, y, text, face, color="#222222"):
        axes.add_patch(plt.Rectangle((x - 0.46, y - 0.33), 0.92, 0.66, fc=face, ec="white"))
        axes.text(x, y, text, ha="center", va="center", color=color)

    for column in range(len(row)):
        picked = column in kept
        box(at(column), 3.1, f"$x_{column}$", "#fbeed9" if picked else KEPT, "#222222" if picked else "#9aa5ab")
    for slot, column in enumerate(kept):
        x = at(4 * (slot // 2) + slot % 2 + 1)
        axes.plot([at(column), x], [2.75, 1.95], color=COLORS["2:4"], linewidth=1.6)
        box(x, 1.6, f"{column % 4:02b}", "#f6d9b0")
        box(x, 0.85, f"{row[column]:g}", KEPT)
        axes.text(x, 0.25, f"${row[column]:g}\\,x_{column}$", ha="center", va="center")
        if slot + 1 < len(kept):
            following = at(4 * ((slot + 1) // 2) + (slot + 1) % 2 + 1)
            axes.text((x + following) / 2, 0.25, "+", ha="center", va="center")
    labels = {3.1: "inputs of the row", 1.6: "positions pick one of four", 0.85: "values", 0.25: "output"}
    for y, label in labels.items():
        axes.text(-0.75, y, label, ha="right", va="center", fontsize=11)
    axes.set(xlim=(-4.4, at(len(row) - 1) + 0.7), ylim=(-0.1, 3.6))
    axes.axis("off")
    return figure


def bytes_by_sparsity(sparsity, sizes: dict, dense: int, two_four: int):
    """What each format takes, against dense: sparsity (n,), {format: n bytes}, and the bytes of dense and of 2:4.

    Used in notebook 04, "What it saves".
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    percent = [100 * s for s in sparsity]
    axes.axhline(1, color=COLORS["dense"], linewidth=2)
    axes.text(99, 1.06, "dense", color=COLORS["dense"], ha="right")
    for (name, size), color in zip(sizes.items(), ("#5b8c5a", "#8d7fc1"), strict=True):
        share = [s / dense for s in size]
        axes.plot(percent, share, color=color, linewidth=2.5)
        even = next(p for p, s in zip(percent, share, strict=True) if s <= 1)
        axes.plot(even, 1, "o", color=color, markersize=9)
        axes.text(even + 2, 1.1, f"{name}, {even:.0f} %", color=color)
    axes.plot(50, two_four / dense, "D", color=COLORS["2:4"], markersize=11)
    axes.annotate("2:4", (50, two_four / dense), (46, two_four / dense - 0.36), color="#b3731b")
    axes.set(xlim=(0, 100), ylim=(0, 3.1), xlabel="% of weights removed", ylabel="size (dense = 1)")
    axes.set_title("From which sparsity does a format save bytes?")
    return figure
