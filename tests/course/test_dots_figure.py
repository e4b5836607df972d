"""Dots in multiples of dense: one colour a method, intervals where they were measured."""

import matplotlib
import pytest
from matplotlib.colors import to_hex

from wanda_nb import plots

matplotlib.use("Agg")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dense", "dense"),
        ("50%, magnitude 2:4", "magnitude"),
        ("50%, Wanda 2:4", "2:4"),
        ("wanda 4:8", "4:8"),
        ("75%, Wanda 1:4", "wanda"),
    ],
)
def test_one_colour_a_method(name, key):
    (container,) = plots.times_dense({name: (2.0, 1.5, 3.0)}).axes[0].containers
    dot, _, (bar,) = container.lines
    assert to_hex(dot.get_color()) == plots.COLORS[key]
    assert bar.get_segments()[0][:, 0].tolist() == [1.5, 3.0]


def test_patterns_have_their_own_colours_in_the_sweep():
    import pandas as pd

    sweep = pd.DataFrame(
        {"pattern": ["none", "2:4", "4:8"], "zeros": [0.3, 0.5, 0.5], "perplexity": [20.0, 99.0, 60.0]}
    )
    colors = [to_hex(dots.get_facecolor()[0]) for dots in plots.perplexity_sweep(sweep).axes[0].collections]
    assert colors == [plots.COLORS[key] for key in ("wanda", "2:4", "4:8")]
