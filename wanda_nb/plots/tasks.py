"""Figures of notebook 07: accuracy on tasks."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


def task_accuracies(tables: dict):
    """Accuracy with about 95% intervals, a row a task: {model: the table of a ZeroShot}; chance is marked.

    Used in notebook 07, "Seven tasks".
    """
    tasks = list(next(iter(tables.values())).index)
    figure, axes = plt.subplots(figsize=(7, 4.6))
    for place, (model, table) in enumerate(tables.items()):
        color = next((c for name, c in COLORS.items() if name in model), COLORS["sparsegpt"])
        rows = [row + 0.22 * (place - (len(tables) - 1) / 2) for row in range(len(tasks))]
        axes.errorbar(
            table["acc"], rows, xerr=2 * table["acc ±"], fmt="o", color=color, markersize=6, capsize=3, label=model
        )
    chance = next(iter(tables.values()))["chance"]
    lines = range(len(tasks))
    axes.vlines(
        chance, [r - 0.42 for r in lines], [r + 0.42 for r in lines], color="#222222", linewidth=2, label="chance"
    )
    for line in lines[1:]:
        axes.axhline(line - 0.5, color="#e3e8ea", linewidth=1, zorder=0)
    axes.set(yticks=lines, yticklabels=tasks, ylim=(len(tasks) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy in per cent (bar: ± 2 standard errors)")
    figure.suptitle("Where is a model better than chance, or than another?", fontsize=13)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return figure


def accuracy_differences(tables: dict):
    """How far one model is ahead of another, in points with 95% intervals, a row a task: {items: table of ``against``}.

    Used in notebook 07, "Fresh items".
    """
    tasks = list(next(iter(tables.values())).index)
    figure, axes = plt.subplots(figsize=(7, 4.4))
    marks = [("o", COLORS["dense"]), ("D", "#222222")]
    for place, ((items, table), (mark, color)) in enumerate(zip(tables.items(), marks, strict=True)):
        rows = [row + 0.26 * (place - 0.5) for row in range(len(tasks))]
        errors = [table["difference"] - table["low"], table["high"] - table["difference"]]
        axes.errorbar(
            table["difference"], rows, xerr=errors, fmt=mark, color=color, markersize=6, capsize=3, label=items
        )
    axes.axvline(0, color="#222222", linewidth=1, zorder=0)
    for line in range(1, len(tasks)):
        axes.axhline(line - 0.5, color="#e3e8ea", linewidth=1, zorder=0)
    axes.set(yticks=range(len(tasks)), yticklabels=tasks, ylim=(len(tasks) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points by which Wanda is ahead of magnitude (bar: 95%)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return figure
