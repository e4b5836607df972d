"""The slider of notebook 00: what a move asks for, what it shows, and what is left where widgets do not run."""

import io
import sys

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from wanda_nb import plots
from wanda_nb.plots import explorer

matplotlib.use("agg")

SWEEP = pd.DataFrame(
    [("none", 0.0, 20.0, "a"), ("none", 0.5, 40.0, "b"), ("2:4", 0.5, 90.0, "c"), ("4:8", 0.5, 60.0, "d")],
    columns=["pattern", "zeros", "perplexity", "writes"],
)


@pytest.fixture
def shown(monkeypatch):
    forms = []
    monkeypatch.setattr(explorer, "display", lambda data, raw: forms.append(data))
    return forms


@pytest.fixture
def asked():
    return []


@pytest.fixture
def slider(asked):
    def attempt(**how):
        asked.append(how)
        return {
            "pattern": how.get("pattern", "none"),
            "zeros": 0.25,
            "perplexity": 33.3,
            "writes": f"move {len(asked)}",
        }

    return plots.Slider(attempt, SWEEP)


def test_every_setting_is_a_dot_and_the_last_move_is_ringed():
    figure = plots.perplexity_sweep(SWEEP, {"zeros": 0.3, "perplexity": 25.0})
    dots = {group.get_label(): group.get_offsets().tolist() for group in figure.axes[0].collections}
    assert dots == {
        "any weight may go": [[0, 20], [50, 40]],
        "2:4": [[50, 90]],
        "4:8": [[50, 60]],
        "now": [[30, 25]],
    }
    assert len({tuple(group.get_facecolor()[0]) for group in figure.axes[0].collections[:3]}) == 3
    assert "now" not in [group.get_label() for group in plots.perplexity_sweep(SWEEP).axes[0].collections]
    plt.close("all")


def test_a_move_asks_for_a_sparsity_or_a_pattern_and_never_both(slider, asked, capsys):
    assert asked == []  # nothing is pruned before somebody moves
    pictures = [slider.image.value]
    slider.sparsity.value = 0.3
    pictures.append(slider.image.value)
    assert "25% zeros, perplexity 33.3: 'move 1'" in capsys.readouterr().out
    slider.pattern.value = "2:4"
    assert slider.sparsity.disabled
    slider.pattern.value = "none"
    assert not slider.sparsity.disabled
    assert asked == [{"sparsity": 0.3}, {"pattern": "2:4"}, {"sparsity": 0.3}]
    assert pictures[0] != pictures[1] and not plt.get_fignums()  # nothing is left open


def test_widget_and_picture_are_one_output(slider, shown):
    slider._ipython_display_()
    (forms,) = shown
    assert forms["application/vnd.jupyter.widget-view+json"]["model_id"] == slider.widget.model_id
    assert plt.imread(io.BytesIO(forms["image/png"])).shape[1] == 700 * plt.rcParams["figure.dpi"] / 100
    assert forms["text/plain"] == "a slider over 4 settings"
    assert slider.pattern.options == ("none", "2:4", "4:8") and (slider.sparsity.min, slider.sparsity.max) == (0, 0.7)


def test_without_ipywidgets_the_picture_is_left(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    plots.Slider(None, SWEEP)._ipython_display_()
    assert set(shown[0]) == {"image/png", "text/plain"}
