"""Figures of notebook 10: published beside ours."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from .look import COLORS

METHODS = {method: COLORS[method] for method in ("magnitude", "wanda", "sparsegpt")}
GRADES = {"A": "o", "B": "s", "C": "^"}


def published_ratios(table):
    """Perplexity over that of the dense model at 50%, by size: a column a family, magnitude above, on a coarser scale.

    table: DataFrame with model, size, method, context, ratio and grade, which is the marker. A line joins neighbouring
    sizes at one context; what is missing stays empty. Used in notebook 10, "What was published".
    """
    families = sorted(table["model"].unique())
    sizes = {family: sorted(table.loc[table["model"] == family, "size"].unique(), key=_billions) for family in families}
    widths = [len(sizes[family]) for family in families]
    figure, panels = plt.subplots(
        2, len(families), figsize=(7, 5.2), sharex="col", sharey="row", height_ratios=[1, 1.7], width_ratios=widths
    )
    for (family, method, context), line in table.groupby(["model", "method", "context"], dropna=False):
        column, aside = families.index(family), {"wanda": -0.1, "sparsegpt": 0.1}.get(method, 0)
        axes = panels[0 if method == "magnitude" else 1, column]
        line = line.set_index("size").reindex(sizes[family])
        x = [place + aside for place in range(len(line))]
        short = family == "LLaMA-2" and context == 2048
        axes.plot(x, line["ratio"], ":" if short else "-", color=METHODS[method], linewidth=1.3, alpha=0.7)
        for place, ratio, grade in zip(x, line["ratio"], line["grade"], strict=True):
            if ratio > 0:
                axes.plot(place, ratio, GRADES[grade], color=METHODS[method], markersize=7, mec="white")
    top = 3.3
    for column, family in enumerate(families):
        above = table.loc[
            (table["model"] == family) & (table["method"] == "magnitude") & (table["ratio"] > top), "ratio"
        ]
        if len(above):
            told = f"above:\n{above.min():.0e}\nto {above.max():.0e}"
            panels[0, column].text(
                0.5,
                0.5,
                told,
                ha="center",
                va="center",
                color=METHODS["magnitude"],
                fontsize=11,
                transform=panels[0, column].transAxes,
            )
        panels[0, column].set_title(family, fontsize=12)
        panels[1, column].set_xticks(range(widths[column]), sizes[family], rotation=45 if widths[column] > 4 else 0)
        panels[1, column].set_xlim(-0.5, widths[column] - 0.5)
    panels[0, 0].set(ylim=(1, top), yticks=[1, 2, 3])
    panels[1, 0].set(ylim=(1.15, 1.4), yticks=[1.2, 1.3, 1.4])
    panels[1, families.index("LLaMA-2")].text(-0.4, 1.39, "– 4096\n··· 2048", va="top", fontsize=11)
    figure.supylabel("perplexity / dense perplexity", fontsize=12)
    keys = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in METHODS.items()]
    figure.legend(handles=keys + _grades(table), loc="outside lower center", ncols=3)
    figure.suptitle("Published at 50%: perplexity over dense (mind the scales)", fontsize=13)
    return figure


def published_accuracy(table):
    """Published accuracy by size, dense and after pruning to 50%: DataFrame with size, method, accuracy and grade.

    Used in notebook 10, "Does a larger model lose less?".
    """
    sizes = sorted(table["size"].unique(), key=_billions)
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for method, line in table.groupby("method", sort=False):
        line = line.set_index("size").loc[sizes]
        axes.plot(sizes, line["accuracy"], color=COLORS[method], linewidth=1.5, label=method)
        for size, row in line.iterrows():
            axes.plot(size, row["accuracy"], GRADES[row["grade"]], color=COLORS[method], markersize=8)
    axes.set_xlim(-0.3, len(sizes) - 0.7)
    axes.set(xlabel="size of the model", ylabel="accuracy, mean of seven tasks")
    axes.legend(loc="lower right", ncols=2)
    axes.set_title("Published, LLaMA at 50%: two sizes, grade C")
    return figure


def _billions(size: str) -> float:
    return float(size[:-1]) / {"B": 1, "M": 1000}[size[-1]]


def _grades(table) -> list[Line2D]:
    drawn = sorted(set(table["grade"]))
    return [Line2D([], [], color="#555555", marker=GRADES[g], linestyle="", label=f"grade {g}") for g in drawn]


def published_beside_ours(published, ours):
    """Perplexity over that of the dense model, a row a pattern and method: published models and ours.

    published: DataFrame with pattern, method, name and ratio; models lie one under another, so that none hides another.
    ours: with pattern, method, ratio, low and high.
    Used in notebook 10, "What we measured".
    """
    patterns = [pattern for pattern in ("50%", "4:8", "2:4") if pattern in set(published["pattern"])]
    rows = [(pattern, method) for pattern in patterns for method in ("sparsegpt", "wanda", "magnitude")]
    figure, axes = plt.subplots(figsize=(7, 1.4 + 0.45 * len(rows)))
    names = published["name"].unique()
    marks = dict(zip(names, ("o", "v", "s", "P"), strict=False))
    place = {row: index + 0.5 * patterns.index(row[0]) for index, row in enumerate(rows)}
    for row in published.itertuples():
        where = place[row.pattern, row.method] + 0.2 * (list(names).index(row.name) - (len(names) - 1) / 2)
        axes.plot(row.ratio, where, marks[row.name], color=METHODS[row.method], markersize=7, mec="white")
    for row in ours.itertuples():
        where, color = place[row.pattern, row.method], METHODS[row.method]
        axes.errorbar(
            row.ratio, where, xerr=[[row.ratio - row.low], [row.high - row.ratio]], fmt="D", color=color, capsize=4,
            markersize=8, mec="black", ecolor="black",
        )  # fmt: skip
    axes.set_yticks(list(place.values()), [f"{pattern}  {method}" for pattern, method in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.axvline(1, color=COLORS["dense"], linewidth=1.2, linestyle=":")
    axes.set_xscale("log")
    top = max(published["ratio"].max(), ours["high"].max())
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500) if tick < 1.6 * top]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("perplexity / dense perplexity (log scale)")
    keys = [Line2D([], [], color="#555555", marker=mark, linestyle="", label=name) for name, mark in marks.items()]
    keys.append(Line2D([], [], color="#555555", marker="D", mec="black", linestyle="", label="ours, 135M"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    figure.suptitle("Does a small model lose as much as a large one?", fontsize=13)
    return figure


def moved_by(table, tolerance: float):
    """What one change does to a number, as a factor, beside the band that still counts as reproduced.

    table: DataFrame with change, factor and grade. Used in notebook 10, "What counts as reproduced?".
    """
    figure, axes = plt.subplots(figsize=(7, 1.3 + 0.42 * len(table)))
    axes.axvspan(1 / (1 + tolerance), 1 + tolerance, color=COLORS["wanda"], alpha=0.2, linewidth=0)
    axes.axvline(1, color=COLORS["dense"], linewidth=1, linestyle=":")
    for place, row in enumerate(table.itertuples()):
        inside = 1 / (1 + tolerance) <= row.factor <= 1 + tolerance
        color = COLORS["wanda"] if inside else COLORS["magnitude"]
        axes.plot([1, row.factor], [place, place], color=color, linewidth=1.5, alpha=0.6)
        axes.plot(row.factor, place, GRADES[row.grade], color=color, markersize=8)
    axes.set_yticks(range(len(table)), table["change"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xscale("log")
    ticks = [
        tick
        for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2)
        if 0.9 * table["factor"].min() < tick < 1.1 * table["factor"].max()
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("changed / unchanged perplexity (log scale)")
    figure.legend(handles=_grades(table), loc="outside lower center", ncols=3)
    figure.suptitle(f"What moves a published number by more than {tolerance:.0%} (the band)?", fontsize=13)
    return figure
