"""Figures of notebook 09: which choices matter."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


def score_by_group(measured, published, dense, best):
    """Perplexity for each score and comparison group, as two small heat tables with one colour bar; lighter is better.

    measured, published: DataFrames of perplexity, a row a score, a column a comparison group; NaN: not known.
    dense: the perplexities of the two models, unpruned; colours show multiples of them. best: like measured, True
    where a value is bold. Used in notebook 09, "Which scores may compete?".
    """
    from matplotlib.colors import LogNorm

    figure, panels = plt.subplots(1, 2, figsize=(7, 3.7), width_ratios=[measured.shape[1], published.shape[1]])
    tables = {
        "SmolLM2-135M, measured:\nmedian of draws": measured,
        "LLaMA-7B, published:\ngrade C (7.26: also A)": published,
    }
    for axes, (title, table), unpruned in zip(panels, tables.items(), dense, strict=True):
        image = axes.imshow(table / unpruned, cmap="YlOrRd", norm=LogNorm(1, 30), aspect="auto")
        for row, column in ((r, c) for r in range(table.shape[0]) for c in range(table.shape[1])):
            value = table.iloc[row, column]
            text = "–" if value != value else f"{value:.2f}" if table is published else f"{value:.1f}"
            look = {"weight": "bold"} if table is measured and best.iloc[row, column] else {}
            axes.text(column, row, text, ha="center", va="center", **look)
        axes.set_xticks(range(table.shape[1]), table.columns)
        axes.set_yticks(range(table.shape[0]), table.index)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel("compared by")
    bar = figure.colorbar(image, ax=panels, label="times the dense perplexity (log)")
    bar.set_ticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    bar.minorticks_off()
    figure.suptitle("Perplexity at 50%; bold: best of its row, or not told apart", fontsize=13)
    return figure


def norm_power(layer_errors, perplexities):
    """The scores |W| · norm^p: error of single layers (left) and perplexity of the whole model (right) against p.

    layer_errors: DataFrame of relative errors on held-out tokens, a row a power, a column a layer. perplexities:
    Series {power: perplexity}. Used in notebook 09, "Your own score".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
    for (name, errors), look in zip(layer_errors.items(), ("o-", "s--", "^:"), strict=False):
        left.plot(errors, look, markersize=5, color="#222222", label=name.rpartition(".")[2])
        left.plot(errors.idxmin(), errors.min(), "o", markersize=13, mfc="none", mec="#222222", mew=1.5)
    left.set(title="single layers", ylabel="output error, held-out text", ylim=(0, 1.6 * layer_errors.max().max()))
    left.legend(loc="upper right", fontsize=11)
    right.plot(perplexities, "o-", markersize=5, color="#222222")
    right.set_yscale("log")
    low, high = perplexities.min() / 1.5, perplexities.max() * 1.5
    ticks = [tick for tick in (25, 50, 100, 200, 400, 800) if low < tick < high]
    right.set_ylim(low, high)
    right.set_yticks(ticks, [f"{tick}" for tick in ticks])
    right.minorticks_off()
    right.set(title="the whole model", ylabel="perplexity (log scale)")
    for axes in (left, right):
        for p, method in ((0, "magnitude"), (1, "wanda")):
            axes.axvline(p, color=COLORS[method], linewidth=1.2, linestyle="--", zorder=0)
        axes.set_xlabel("power p in |W| · norm^p")
        axes.set_xticks([0, 1, 2], ["0\nmagnitude", "1\nWanda", "2"])
    figure.suptitle("How strong should the norm be?", fontsize=13)
    return figure


def leaderboard(differences, intervals):
    """Paired differences in loss to a reference, best first: {name: (windows,) nats a token}; less than 0 is better.

    intervals: {name: (mean, low, high)}; black where clear of 0. Small dots are windows, the diamond is their mean.
    Used in notebook 09, "Your own score".
    """
    ranked = sorted(differences, key=lambda name: intervals[name][0])
    figure, axes = plt.subplots(figsize=(7, 0.75 + 0.55 * len(ranked)))
    for row, name in enumerate(ranked):
        mean, low, high = intervals[name]
        color = "#8a969c" if low <= 0 <= high else "#222222"
        values = differences[name]
        axes.plot(values, [row + 0.22] * len(values), "o", color=color, alpha=0.35, markersize=5, markeredgewidth=0)
        ends = [[mean - low], [high - mean]]
        axes.errorbar(mean, row - 0.12, xerr=ends, fmt="D", color=color, markersize=6, capsize=4, linewidth=2)
    axes.axvline(0, color=COLORS["wanda"], linewidth=1.5, zorder=0)
    axes.set(yticks=range(len(ranked)), yticklabels=ranked, ylim=(len(ranked) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("loss minus Wanda's, nats per token (dot = a window)")
    axes.set_title("Left of the line is better than Wanda; grey: not told apart")
    return figure


def perplexity_by_sparsity(rows, dense: float):
    """Perplexity against sparsity, a line a method: a DataFrame with method, sparsity, seed and perplexity.

    Dots are single draws of calibration text, the line is their median. dense: the perplexity of the unpruned model.
    Used in notebook 09, "How much can go?".
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for method, runs in rows.groupby("method", sort=False):
        axes.plot(runs.groupby("sparsity")["perplexity"].median(), "-", color=COLORS[method], label=method)
        axes.plot(runs["sparsity"], runs["perplexity"], "o", markersize=5, color=COLORS[method], alpha=0.7)
    for level, text, side in ((dense, "dense", "top"), (2 * dense, "twice dense", "bottom")):
        axes.axhline(level, color=COLORS["dense"], linewidth=1.2, linestyle="--", zorder=0)
        axes.text(0.805, level, text, ha="right", va=side, color=COLORS["dense"], fontsize=11)
    axes.set_yscale("log")
    axes.set_ylim(bottom=dense / 2.5)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("sparsity (fraction of weights removed)")
    axes.set_ylabel("perplexity (log scale)")
    axes.legend(loc="upper left")
    axes.set_title("Perplexity by sparsity; a dot is a draw of calibration text")
    return figure


def calibration_curves(rows):
    """Perplexity against the number of calibration windows: a DataFrame with source, samples, seed and perplexity.

    Markers are single draws, the line joins their medians. Used in notebook 09, "How much text, and which?".
    """
    figure, axes = plt.subplots(figsize=(7, 3.9))
    looks = {"c4": ("o", "-", COLORS["wanda"], 0.95), "wikipedia": ("s", "--", "white", 1.05)}
    for source, runs in rows.groupby("source", sort=False):
        marker, line, face, aside = looks[source]
        middle = runs.groupby("samples")["perplexity"].median()
        axes.plot(middle.index * aside, middle, line, color=COLORS["wanda"], linewidth=1.5, zorder=1)
        look = {"color": COLORS["wanda"], "mfc": face, "markersize": 7, "label": f"calibrated on {source}"}
        axes.plot(runs["samples"] * aside, runs["perplexity"], marker, **look)
    axes.set_xscale("log", base=2)
    samples = sorted(rows["samples"].unique())
    axes.set_xticks(samples, [f"{n}" for n in samples])
    axes.minorticks_off()
    axes.set_xlabel(f"calibration windows of {rows['length'].iloc[0]} tokens (log scale)")
    axes.set_ylabel("perplexity, Wikipedia text")
    axes.set_title("Wanda at 50%: how much text, and which?")
    axes.legend(loc="upper right")
    return figure


def perplexity_by_windows(rows):
    """Perplexity against the number of calibration windows, a line a method: a panel a pattern (down), a text (across).

    rows: DataFrame, a row a draw, with method (such as "wanda + least squares"), pattern, samples (0: reads no text),
    length, text, value, low and high. Lines join the medians. A single draw has the interval from its windows as a bar;
    several are dots. What lies far above the lines is named, not drawn.
    Used in notebook 05, "Does an update overfit", and notebook 10, "How much text does each method need?".
    """
    patterns, texts = (list(dict.fromkeys(rows[column])) for column in ("pattern", "text"))
    shape = {"figsize": (7, 1.3 + 2.7 * len(patterns)), "sharex": True, "sharey": "row", "squeeze": False}
    figure, panels = plt.subplots(len(patterns), len(texts), **shape)
    calibrated = rows[rows["samples"] > 0]
    counts, methods = sorted(set(calibrated["samples"])), list(dict.fromkeys(calibrated["method"]))
    for (pattern, text), cell in rows.groupby(["pattern", "text"], sort=False):
        axes = panels[patterns.index(pattern), texts.index(text)]
        highest = calibrated.loc[calibrated["pattern"] == pattern, "high"].max() * 1.6
        for level in cell[cell["samples"] == 0].itertuples():
            drawn, color = level.value < highest, COLORS[level.method]
            at, side = (level.value, "bottom") if drawn else (highest, "top")
            told = f"{level.method}: {level.value:,.0f}" + ", above" * (not drawn)
            axes.text(counts[0], at, told, color=color, fontsize=11, ha="left", va=side)
            if drawn:
                axes.axhline(level.value, color=color, linestyle="--", linewidth=1.3)
        for place, method in enumerate(methods):
            _line_by_windows(axes, cell[cell["method"] == method], method, 1.07 ** (place - (len(methods) - 1) / 2))
        axes.set(xscale="log", yscale="log", title=f"{pattern}, judged on {text}")
        axes.set_xlim(counts[0] / 1.4, counts[-1] * 1.4)
        axes.set_ylim(rows.loc[rows["pattern"] == pattern, "value"].min() / 1.2, highest)
        axes.set_xticks(counts, [f"{count}" for count in counts])
        ticks = [tick for tick in (20, 30, 50, 100, 200, 500, 1000, 2000, 5000) if tick < highest]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("perplexity (log scale)")
    for axes in panels[-1]:
        axes.set_xlabel(f"windows of {rows['length'].max()} tokens (log)")
    found = {text: mark for axes in panels.flat for mark, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3)
    told = "bar: interval of one draw; pale dots: single draws"
    figure.suptitle(f"How much text does each method need?\n({told})", fontsize=13)
    return figure


def _line_by_windows(axes, line, method: str, aside: float) -> None:
    """One method in one panel, moved aside, so that bars do not hide each other."""
    look = {"color": COLORS[method.partition(" + ")[0]], "marker": "D" if "+" in method else "o", "markersize": 5}
    middle = line.groupby("samples")["value"].median()
    axes.plot(middle.index * aside, middle, "--" if "+" in method else "-", label=method, linewidth=1.5, **look)
    for samples, draws in line.groupby("samples"):
        x = [samples * aside] * len(draws)
        axes.plot(x, draws["value"], linestyle="", alpha=0.5, **look)
        if len(draws) == 1:
            ends = [draws["value"] - draws["low"], draws["high"] - draws["value"]]
            axes.errorbar(x, draws["value"], yerr=ends, color=look["color"], capsize=3, linewidth=1)
