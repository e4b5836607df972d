"""The drawing of a block: its shapes are the layers', and what is lit is what was asked."""

import matplotlib
import pytest
from matplotlib.colors import to_hex
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import plots

matplotlib.use("Agg")


@pytest.fixture
def layers():
    return wn.linear_layers(wn.decoder_blocks(tiny_model())[0])


def lit(figure):
    return sum(to_hex(patch.get_facecolor()) == plots.COLORS["wanda"] for patch in figure.axes[0].patches[:7])


def test_every_matrix_stands_there_with_its_shape(layers):
    figure = plots.llama_block(layers)
    texts = [text.get_text() for text in figure.axes[0].texts]
    for name, layer in layers.items():
        assert "{}\n{} × {}".format(name.split(".")[-1], *layer.weight.shape) in texts
    assert lit(figure) == 7


def test_only_what_is_named_is_lit(layers):
    assert lit(plots.llama_block(layers, ["mlp.down_proj"])) == 1
    with pytest.raises(ValueError, match="expected names such as self_attn"):
        plots.llama_block(layers, ["down_proj"])
