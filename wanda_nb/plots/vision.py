"""Figures of notebook 12: what a pruned vision transformer still sees."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS

LINES = {  # one colour a method; hollow: compared by row
    "magnitude": {"color": COLORS["magnitude"], "fmt": "o-"},
    "magnitude by row": {"color": COLORS["magnitude"], "fmt": "o--", "markerfacecolor": "white"},
    "wanda": {"color": COLORS["wanda"], "fmt": "o-"},
}


def image_rows(rows: dict):
    """A row of pictures for each kind: {title: (images, 3, height, width), values in 0..1}.

    Used in notebook 12, "The images".
    """
    wide = max(len(images) for images in rows.values())
    figure, grid = plt.subplots(len(rows), wide, figsize=(7, 1.25 * len(rows) + 0.5), squeeze=False)
    for axes, (title, images) in zip(grid, rows.items(), strict=True):
        for place, image in zip(axes, images, strict=False):
            place.imshow(image.permute(1, 2, 0).clamp(0, 1))
        for place in axes:
            place.axis("off")
        axes[0].set_title(title, loc="left", fontsize=12)
    return figure


def feature_cosines(table):
    """Cosine to the dense features against sparsity: a DataFrame with kind, method, sparsity, value, low and high.

    A panel for each kind of image. Used in notebook 12, "How close are the features?".
    """
    kinds = list(dict.fromkeys(table["kind"]))
    figure, panels = plt.subplots(1, len(kinds), figsize=(7, 3.8), sharey=True, squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        _lines(axes, table[table["kind"] == kind])
        axes.set_title(f"held-out {kind}")
        axes.axhline(1, color=COLORS["dense"], linestyle="--", linewidth=1.2)
    panels[0][0].set_ylabel("cosine to the dense features")
    panels[0][0].text(0.6, 0.995, "dense", ha="right", va="top", color=COLORS["dense"])
    panels[0][0].legend(loc="lower left", fontsize=11)
    figure.supxlabel("sparsity (fraction of weights removed)", fontsize=12)
    return figure


def accuracy_by_sparsity(table, dense):
    """Accuracy in per cent against sparsity: a DataFrame with method, sparsity, value, low and high.

    dense: (value, low, high) of the unpruned model. Used in notebook 12, "A model of our own".
    """
    figure, axes = plt.subplots(figsize=(7, 3.8))
    _lines(axes, table)
    axes.axhspan(dense[1], dense[2], color=COLORS["dense"], alpha=0.25, linewidth=0)
    axes.axhline(dense[0], color=COLORS["dense"], linestyle="--", linewidth=1.2, label="dense")
    axes.axhline(10, color="#222222", linewidth=1, linestyle=":", label="chance")
    axes.set(ylim=(0, 104), xlabel="sparsity (fraction of weights removed)", ylabel="held-out accuracy, per cent")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
    return figure


def _lines(axes, table) -> None:
    for place, (method, rows) in enumerate(table.groupby("method", sort=False)):
        rows = rows.sort_values("sparsity")
        x = rows["sparsity"] + 0.004 * (place - 1)  # aside, so that bars do not hide each other
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(x, rows["value"], yerr=errors, markersize=6, capsize=4, label=method, **LINES[method])
    axes.set_xticks(sorted(set(table["sparsity"])))
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:.0%}")


def loudness_of_models(models: dict):
    """Loudest input channel over the median, by block: {title: DataFrame, a row a kind of layer, a column a block}.

    Used in notebook 12, "Are there loud channels?".
    """
    heights = [len(ratios) for ratios in models.values()]
    figure, panels = plt.subplots(len(models), 1, figsize=(7, 4.6), height_ratios=heights)
    for axes, (title, ratios) in zip(panels, models.items(), strict=True):
        shown = axes.imshow(
            ratios.to_numpy(float), norm=plt.matplotlib.colors.LogNorm(2, 2000), cmap="magma", aspect="auto"
        )
        axes.set_yticks(range(len(ratios)), ratios.index)
        last = ratios.shape[1] - 1
        axes.set_xticks([*range(0, last - 1, 5 if last > 12 else 2), last])
        axes.set_title(title)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("block")
    bar = figure.colorbar(shown, ax=panels, pad=0.02)
    bar.set_ticks([3, 10, 30, 100, 300, 1000], labels=["3×", "10×", "30×", "100×", "300×", "1000×"])
    bar.minorticks_off()
    bar.set_label("loudest channel, over the median one")
    return figure


def patch_norms(pictures, norms):
    """Photographs above the norm of each of their patches, over the median patch, on one scale.

    pictures: (n, 3, height, width), values in 0..1. norms: (n, rows, columns). Used in notebook 12, "Loud patches?".
    """
    figure, grid = plt.subplots(2, len(pictures), figsize=(7, 6))
    times = norms / norms.flatten(1).median(dim=1).values[:, None, None]
    for (above, below), picture, one in zip(grid.T, pictures, times, strict=True):
        above.imshow(picture.permute(1, 2, 0).clamp(0, 1))
        shown = below.imshow(one, cmap="magma", vmin=0, vmax=float(times.max()))
        for axes in (above, below):
            axes.axis("off")
    figure.colorbar(shown, ax=grid, pad=0.02, shrink=0.6, label="norm, over the median patch")
    return figure
