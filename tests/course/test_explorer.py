"""The explorer of notebook 02: its knobs, its picture, and what is left where widgets do not run."""

import io
import sys

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

import wanda_nb as wn
from wanda_nb import plots
from wanda_nb.plots import explorer

matplotlib.use("agg")


@pytest.fixture
def layers():
    draw = torch.Generator().manual_seed(0)
    return {name: (torch.randn(48, 96, generator=draw), torch.rand(96, generator=draw)) for name in ("one", "two")}


@pytest.fixture
def shown(monkeypatch):
    forms = []
    monkeypatch.setattr(explorer, "display", lambda data, raw: forms.append(data))
    return forms


def test_it_draws_the_masks_and_counts_where_they_differ(layers):
    W, norm = layers["one"]
    figure = plots.explored(W, norm, "1:4")
    one, other = wn.nm_mask(wn.magnitude_score(W), 1, 4), wn.nm_mask(wn.wanda_score(W, norm), 1, 4)
    assert f"75.0% of the layer removed, the two masks differ at {(one != other).float().mean():.1%}" in (
        figure.axes[0].get_title()
    )
    drawn = [axes.images[0].get_array() for axes in figure.axes[1:]]
    for picture, mask in zip(drawn, (one, other), strict=False):
        assert (torch.as_tensor(picture.data) == mask[:40].int()).all()
    figure = plots.explored(W, torch.ones(96), sparsity=0.25)
    assert "25.0% of the layer removed, the two masks differ at 0.0%" in figure.axes[0].get_title()
    plt.close("all")


def test_each_knob_changes_the_picture(layers):
    explorer = plots.Explorer(layers)
    seen = [explorer.picture]
    assert set(explorer.knobs) == {"layer", "pattern", "sparsity"}  # no method that the notebook has not introduced
    for name, value in {"layer": "two", "sparsity": 0.7, "pattern": "2:4"}.items():
        explorer.knobs[name].value = value
        seen.append(explorer.image.value)
    assert len(set(seen)) == 4 and explorer.knobs["sparsity"].disabled
    assert not plt.get_fignums()  # nothing is left open


def test_widget_and_picture_are_one_output(layers, shown):
    explorer = plots.Explorer(layers)
    explorer._ipython_display_()
    (forms,) = shown
    assert forms["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.widget.model_id
    assert plt.imread(io.BytesIO(forms["image/png"])).shape[1] == 700 * plt.rcParams["figure.dpi"] / 100
    assert forms["text/plain"] == "an explorer of 2 layers"


def test_without_ipywidgets_the_picture_is_left(layers, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    plots.Explorer(layers)._ipython_display_()
    assert set(shown[0]) == {"image/png", "text/plain"}


def test_the_map_has_a_colour_for_each_method_and_counts_blocks_from_0():
    ratios = pd.DataFrame([[1.0, 0.5, 4.0]] * 2, index=["self_attn.q_proj", "mlp.up_proj"], columns=range(3))
    axes, bar = plots.error_ratios(ratios, [("mlp.up_proj", 2)]).axes
    drawn = axes.images[0]
    colors = {ratio: to_hex(drawn.cmap(drawn.norm(ratio))) for ratio in (1 / 4, 4)}
    assert colors == {1 / 4: plots.COLORS["magnitude"], 4: plots.COLORS["wanda"]}
    assert min(drawn.cmap(drawn.norm(1.0))) > 0.99  # white
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "2"]
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0.25×", "0.5×", "1×", "2×", "4×"]
    assert axes.patches[0].get_xy() == (1.5, 0.5)
    plt.close("all")


def test_the_map_spends_no_colour_on_what_does_not_occur():
    ratios = pd.DataFrame([[1.02, 2.0, 19.0]], index=["mlp.up_proj"], columns=range(3))
    axes, bar = plots.error_ratios(ratios).axes
    drawn = axes.images[0]
    assert min(drawn.cmap(drawn.norm(1.0))) > 0.99 and to_hex(drawn.cmap(drawn.norm(4.0))) == plots.COLORS["wanda"]
    assert [text.get_text() for text in bar.get_yticklabels()] == ["1×", "2×", "4×"]
    plt.close("all")
