"""Figures of notebook 03: the block loop, what it keeps where, and its drift."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, KEPT


def block_loop():
    """The three steps of the loop over the blocks, as a drawing; needs no data.

    Used in notebook 03, "The block loop".
    """
    figure, axes = plt.subplots(figsize=(7, 3.5))
    axes.set(xlim=(0, 100), ylim=(0, 52))
    axes.axis("off")

    def box(x, y, width, height, text, fill, **font):
        axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=fill, edgecolor="#44525a", linewidth=1))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", linespacing=1.4, **font)

    def arrow(start, end, **how):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#44525a", "linewidth": 1.5, **how})

    steps = ("1  capture", "2  select", "3  propagate"), (15, 50, 85)
    for title, middle in zip(*steps, strict=True):
        axes.text(middle, 49.5, title, ha="center", va="center", weight="bold", fontsize=13)
    for left, block, color, output, output_color in (
        (3, "block i\ndense", KEPT, "output\nnot needed", "white"),
        (73, "block i\npruned", "#b9dbe0", "hidden\nstates i + 1", "#fbeed9"),
    ):
        box(left, 36, 24, 9.5, "hidden\nstates i", "#fbeed9")
        box(left, 19.5, 24, 11.5, block, color)
        box(left, 5, 24, 9.5, output, output_color, color="#8a969c" if output_color == "white" else "black")
        arrow((left + 12, 36), (left + 12, 31))
        arrow((left + 12, 19.5), (left + 12, 14.5))
    box(38, 36, 24, 9.5, "score\n|W| · norm", "white")
    box(38, 21, 24, 9.5, "mask: lowest\nhalf of a row", "white")
    box(38, 5, 24, 9.5, "W = 0 where\nmask is True", "#f3ccd2")
    arrow((50, 36), (50, 30.5))
    arrow((50, 21), (50, 14.5))
    arrow((27, 25), (38, 40), connectionstyle="arc3,rad=0.15")
    axes.text(31.2, 35.5, "norms", ha="center", va="center", fontsize=11)
    arrow((62, 10), (73, 24), connectionstyle="arc3,rad=0.15")
    axes.text(66.8, 20.5, "new W", ha="center", va="center", fontsize=11)
    axes.plot([85, 85, 0.6, 0.6], [5, 1, 1, 40.5], color=COLORS["wanda"], linewidth=2)
    arrow((0.6, 40.5), (3.4, 40.5), color=COLORS["wanda"], linewidth=2)
    axes.text(50, 2.6, "next block: i + 1", ha="center", va="center", color=COLORS["wanda"], fontsize=11)
    return figure


def input_drift(hidden_error: dict, norm_change: dict):
    """How far the inputs of each block are from the dense model's: hidden states left, input norms right.

    Each {method: (blocks,) fractions}. Used in notebook 03, "Whose inputs does block 1 see?".
    """
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
    data = (hidden_error, norm_change), ("hidden states", "input norms")
    for axes, (series, title) in zip(panels, zip(*data, strict=True), strict=True):
        for method, values in series.items():
            axes.plot(range(len(values)), values, "o-", markersize=3.5, color=COLORS[method], label=method)
        axes.set(title=title, xlabel="block that reads them", xticks=(0, 10, 20, 29))
        axes.yaxis.set_major_formatter("{x:.0%}")
    panels[0].set_ylabel("change from the dense model\n(median)")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(loc="upper left")
    return figure


def order_differences(found: dict):
    """How the loss differs if the norms are the dense model's, not the loop's: a dot with its interval for each draw.

    found: {model: {setting: a Difference in nats per token for each draw}}, side by side; above 0, the loop is
    better. Used in notebook 03, "Does the order matter?".
    """
    figure, panels = plt.subplots(1, len(found), figsize=(7, 3.8), sharex=True, sharey=True, squeeze=False)
    for axes, (model, settings) in zip(panels[0], found.items(), strict=True):
        for row, draws in enumerate(settings.values()):
            for place, (value, low, high, *_) in enumerate(draws):
                y, bar = row + 0.22 * (place - (len(draws) - 1) / 2), [[value - low], [high - value]]
                color = COLORS["wanda"] if low > 0 or high < 0 else "#9aa5ab"
                axes.errorbar(value, y, xerr=bar, fmt="o", color=color, markersize=5, capsize=2.5)
        axes.axvline(0, color="#222222", linewidth=1, zorder=0)
        for line in range(1, len(settings)):
            axes.axhline(line - 0.5, color="#e3e8ea", linewidth=1, zorder=0)
        axes.set(yticks=range(len(settings)), yticklabels=list(settings), ylim=(len(settings) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.set_title(model, fontsize=12)
    figure.supxlabel("dense norms − loop, nats per token (left of 0: the loop is worse)", fontsize=12)
    figure.suptitle("one dot per draw; grey: the interval contains 0", fontsize=13)
    return figure


RESIDENTS = {"hidden states": "#8d7fc1", "weights": "#b9c3c8", "activations": "#79b58a", "selection": "#e9b96e"}


def residency(timeline: list[dict], predicted: float):
    """What lies on a device while blocks visit it: a stacked band of bytes for each kind, over the phases.

    timeline: a row for each phase, with its block (counted from 0), its name, and for each kind the bytes at several
    moments, in order. predicted: bytes at the worst moment. Used in notebook 03, "What lies on the device, and when".
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    moments: list[float] = []
    heights: dict[str, list[float]] = {kind: [] for kind in RESIDENTS}
    start = 0.0
    for row in timeline:
        count, width = len(row["weights"]), 0.45 if row["phase"] in ("in", "out") else 1.0
        moments += [start + width * (number + 0.5) / count for number in range(count)]
        for kind, values in heights.items():
            values += [size / 1e6 for size in row[kind]]
        axes.text(start + width / 2, 0.99, row["phase"], ha="center", va="top", fontsize=10,
                  transform=axes.get_xaxis_transform())  # fmt: skip
        start += width
        axes.axvline(start, color="white" if row["phase"] != "out" else "#44525a", linewidth=1, ymax=0.8)
    axes.stackplot(moments, *heights.values(), labels=heights, colors=RESIDENTS.values(), step="mid")
    totals = [sum(there) for there in zip(*heights.values(), strict=True)]
    highest = max(totals)
    axes.axhline(predicted / 1e6, color="black", linestyle="--", linewidth=1.2)
    dot = moments[totals.index(highest)]
    axes.plot(dot, highest, "o", color="black", markersize=7)
    axes.annotate(f"measured {highest:.1f}", (dot, highest), (6, 5), textcoords="offset points", fontsize=11)
    aside = {"x": start, "ha": "right"} if dot < start / 2 else {"x": 0, "ha": "left"}
    axes.text(y=predicted / 1e6 * 1.02, s=f"predicted peak {predicted / 1e6:.1f}", va="bottom", fontsize=11, **aside)
    numbers = sorted({row["block"] for row in timeline})
    axes.set(xlim=(0, start), ylim=(0, 1.25 * max(highest, predicted / 1e6)), ylabel="on the device, MB")
    axes.set_xticks([start * (place + 0.5) / len(numbers) for place in range(len(numbers))])
    axes.set_xticklabels([f"block {number}" for number in numbers])
    axes.tick_params(axis="x", length=0)
    figure.legend(loc="outside upper center", ncols=4, fontsize=11, handlelength=1, columnspacing=1.2)
    return figure


def by_kind(readings: list[dict]) -> list[dict]:
    """The timeline of ``residency`` from readings of a device's memory: what is new in a step is of that step's kind.

    readings: one after each step, with its block, its step, and the bytes allocated ``now`` and at ``most`` since the
    reading before; the first one when nothing but the hidden states is there.
    Used in notebook 03, "What lies on the device, and when".
    """
    hidden, before, timeline = readings[0]["now"], 0, []
    for reading in readings[1:]:
        step, now, most = reading["step"], reading["now"] - hidden, reading["most"] - hidden
        row = {"block": reading["block"], "phase": step, **{kind: [0, 0, 0] for kind in RESIDENTS}}
        row["hidden states"] = [hidden] * 3
        if step in ("in", "out"):
            row["weights"], before = [before, max(before, now), now], now
        else:
            row["weights"] = [before] * 3
            row["selection" if step == "select" else "activations"] = [0, most - before, now - before]
        timeline.append(row)
    return timeline


def phase_seconds(seconds: dict, predicted: dict):
    """Where the time of a run goes: {phase: seconds}, as in a Report, as bars; those predicted as ticks.

    Used in notebook 11, "A 7B model in little memory".
    """
    figure, axes = plt.subplots(figsize=(7, 0.9 + 0.4 * len(seconds)))
    colors = {"capture": COLORS["wanda"], "select": COLORS["magnitude"], "propagate": "#7fb8c2"}
    longest = max(*seconds.values(), *predicted.values())
    for row, (phase, value) in enumerate(seconds.items()):
        axes.barh(phase, value, color=colors.get(phase, "#b0b8bc"), height=0.7)
        guess = predicted.get(phase, 0.0)
        axes.text(max(value, guess) + 0.02 * longest, row, f"{value:.1f} s", va="center")
        if guess:
            axes.plot([guess, guess], [row - 0.42, row + 0.42], color="black", linewidth=2.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * longest)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="seconds", title="Where the seconds went" + " (ticks: predicted)" * bool(predicted))
    return figure
