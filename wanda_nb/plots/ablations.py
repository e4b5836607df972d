"""Figures of notebook 09: which choices matter."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS


def score_by_group(measured, published, lowest=None, highest=None):
    """Perplexity for each score and comparison group, as two small heat tables; lighter is better.

    measured, published: DataFrames of perplexity, a row a score, a column a comparison group; NaN: not known. Each has
    its own (logarithmic) colours. lowest, highest: the range of what was measured, where several draws were made; a
    score's groups whose ranges overlap with its best are bold too. Used in notebook 09, "Which scores may compete?".
    """
    from matplotlib.colors import LogNorm

    lowest, highest = (measured if end is None else end for end in (lowest, highest))
    tables = {"our model, measured:\nmedian and range of three draws": (measured, lowest, highest)}
    tables["LLaMA-7B,\npublished (grade C)"] = (published, published, published)
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.7), width_ratios=[measured.shape[1], published.shape[1]])
    for axes, (title, (table, low, high)) in zip(panels, tables.items(), strict=True):
        colors = LogNorm(float(table.min().min()) * 0.9, float(table.max().max()) * 2)
        axes.imshow(table, cmap="YlOrRd", norm=colors, aspect="auto")
        for row in range(table.shape[0]):
            first, alone = table.iloc[row].argmin(), table.iloc[row].count() == 1
            for column in range(table.shape[1]):
                a, value, b = (frame.iloc[row, column] for frame in (low, table, high))
                weight = "bold" if a <= high.iloc[row, first] and not alone else "normal"
                text = "–" if value != value else f"{value:.2f}" if table is published else f"{value:.1f}"
                axes.text(column, row - (0.12 if b > a else 0), text, ha="center", va="center", weight=weight)
                if b > a:
                    axes.text(column, row + 0.2, f"{a:.1f}–{b:.1f}", ha="center", va="center", fontsize=11)
        axes.set_xticks(range(table.shape[1]), table.columns)
        axes.set_yticks(range(table.shape[0]), table.index)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel("compared by")
    figure.suptitle("Perplexity at 50%; bold: the best of a row, or not told apart from it", fontsize=13)
    return figure


def norm_power(layer_errors, perplexities):
    """The scores |W| · norm^p: error of single layers (left) and perplexity of the whole model (right) against p.

    layer_errors: DataFrame of relative errors on held-out tokens, a row a power, a column a layer. perplexities:
    Series {power: perplexity}. Used in notebook 09, "Your own score".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
    colors = (COLORS["wanda"], COLORS["2:4"], COLORS["sparsegpt"])
    for (name, errors), color in zip(layer_errors.items(), colors, strict=False):
        left.plot(errors, "o-", markersize=4, color=color, label=name.rpartition(".")[2])
        left.plot(errors.idxmin(), errors.min(), "o", markersize=11, mfc="none", mec=color, mew=1.5)
    left.set(title="single layers", ylabel="output error, held-out text", ylim=(0, 1.6 * layer_errors.max().max()))
    left.legend(loc="upper right", fontsize=11)
    right.plot(perplexities, "o-", markersize=5, color="#222222")
    right.set_yscale("log")
    low, high = perplexities.min() / 1.5, perplexities.max() * 1.5
    ticks = [tick for tick in (25, 50, 100, 200, 400, 800) if low < tick < high]
    right.set_yticks(ticks, [f"{tick}" for tick in ticks])
    right.minorticks_off()
    right.set(title="the whole model", ylabel="perplexity (log scale)")
    for axes in (left, right):
        axes.axvline(1, color="#b0b8bc", linewidth=1, linestyle="--", zorder=0)
        axes.set_xlabel("power p in |W| · norm^p")
        axes.set_xticks([0, 1, 2], ["0\nmagnitude", "1\nWanda", "2"])
    figure.suptitle("No norm costs much, too much norm a little", fontsize=13)
    return figure


def leaderboard(differences):
    """Paired differences in loss to a reference, best first: {name: (windows,) nats a token}; less than 0 is better.

    Dots are windows, the diamond is their mean with two standard errors. Used in notebook 09, "Your own score".
    """
    ranked = sorted(differences.items(), key=lambda item: float(item[1].mean()))
    figure, axes = plt.subplots(figsize=(7, 0.75 + 0.55 * len(ranked)))
    for row, (_, values) in enumerate(ranked):
        mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
        color = "#8a969c" if abs(mean) < 2 * error else COLORS["wanda"] if mean < 0 else COLORS["magnitude"]
        axes.plot(values, [row + 0.22] * len(values), "o", color=color, alpha=0.4, markersize=5, markeredgewidth=0)
        axes.errorbar(mean, row - 0.12, xerr=2 * error, fmt="D", color=color, markersize=6, capsize=4, linewidth=2)
    axes.axvline(0, color="#222222", linewidth=1, zorder=0)
    axes.set(yticks=range(len(ranked)), yticklabels=[name for name, _ in ranked], ylim=(len(ranked) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("loss minus Wanda's, nats per token (dot = a window)")
    axes.set_title("Who beats Wanda? Left is better; grey: cannot tell")
    return figure


def perplexity_by_sparsity(rows, dense: float):
    """Perplexity against sparsity, a line a method: a DataFrame with method, sparsity, seed and perplexity.

    Where a method has several seeds, the line is their median and the band goes from the lowest to the highest. Right:
    the single draws of Wanda and SparseGPT at 50% and 60%, over Wanda's median; a pale bar is their range.
    dense: the perplexity of the unpruned model. Used in notebook 09, "How much can go?".
    """
    figure, (axes, close) = plt.subplots(1, 2, figsize=(7, 4.2), width_ratios=[2.2, 1])
    for method, runs in rows.groupby("method", sort=False):
        by_sparsity = runs.groupby("sparsity")["perplexity"]
        middle = by_sparsity.median()
        axes.plot(middle, "o-", markersize=5, color=COLORS[method], label=method)
        if runs["seed"].nunique() > 1:
            axes.fill_between(middle.index, by_sparsity.min(), by_sparsity.max(), color=COLORS[method], alpha=0.3, lw=0)
    for level, text, side in ((dense, "dense", "top"), (2 * dense, "twice dense", "bottom")):
        axes.axhline(level, color=COLORS["dense"], linewidth=1.2, linestyle="--", zorder=0)
        axes.text(0.805, level, text, ha="right", va=side, color=COLORS["dense"], fontsize=11)
    axes.set_yscale("log")
    axes.set_ylim(bottom=dense / 2.5)
    axes.set_xticks([0.2, 0.4, 0.6, 0.8])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("perplexity (log scale)")
    axes.set_title("all sparsities", fontsize=12)
    axes.legend(loc="upper left")
    for place, share in enumerate((0.5, 0.6)):
        at_share = rows[rows["sparsity"] == share].set_index("method")["perplexity"]
        for aside, method in ((-0.15, "wanda"), (0.15, "sparsegpt")):
            ratio, x = at_share[[method]] / at_share[["wanda"]].median(), place + aside
            close.vlines(x, ratio.min(), ratio.max(), color=COLORS[method], linewidth=7, alpha=0.3)
            close.plot([x] * len(ratio), ratio, "o", color=COLORS[method], markersize=6)
    close.axhline(1, color=COLORS["wanda"], linewidth=1, linestyle="--", zorder=0)
    close.set_xlim(-0.5, 1.5)
    close.set_xticks([0, 1], ["50%", "60%"])
    close.yaxis.set_major_locator(plt.MultipleLocator(0.05))
    close.yaxis.set_major_formatter("{x:.2f}")
    close.set_title("single draws over\nWanda's median", fontsize=12)
    figure.supxlabel("sparsity (fraction of weights removed)", fontsize=12)
    figure.suptitle("How much can go before a model breaks?", fontsize=13)
    return figure


def calibration_curves(rows):
    """Perplexity against the number of calibration windows: a DataFrame with source, samples, seed and perplexity.

    Dots are single draws, the line joins their medians, the pale bar goes from the lowest to the highest.
    Used in notebook 09, "How much text, and which?".
    """
    figure, axes = plt.subplots(figsize=(7, 3.9))
    looks = {"c4": (COLORS["wanda"], "o", 0.93), "wikipedia": (COLORS["2:4"], "s", 1.07)}
    for source, runs in rows.groupby("source", sort=False):
        color, marker, aside = looks[source]
        by_samples = runs.groupby("samples")["perplexity"]
        middle = by_samples.median()
        x = middle.index * aside
        axes.vlines(x, by_samples.min(), by_samples.max(), color=color, linewidth=8, alpha=0.3)
        axes.plot(runs["samples"] * aside, runs["perplexity"], marker, color=color, markersize=5)
        axes.plot(x, middle, color=color, linewidth=1.5, label=f"calibrated on {source}")
    axes.set_xscale("log", base=2)
    samples = sorted(rows["samples"].unique())
    axes.set_xticks(samples, [f"{n}" for n in samples])
    axes.minorticks_off()
    axes.set_xlabel(f"calibration windows of {rows['length'].iloc[0]} tokens (log scale)")
    axes.set_ylabel("perplexity, Wikipedia text")
    axes.set_title("Does more text help, and which text?")
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
    figure.suptitle("How much text does each method need? Bar: one draw, dots: several", fontsize=13)
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
