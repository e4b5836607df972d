"""Models of images, speech and both, encoders and decoders: pruned by what enters their blocks, whatever that is."""

import pytest
import torch
from tiny import FAMILIES, tiny_family
from whole import prune_whole, same

import wanda_nb as wn


def in_batches(inputs, size):
    return [{name: tensor[start : start + size] for name, tensor in inputs.items()} for start in range(0, 5, size)]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_whole_model_calibration(family, batch_size):
    model, inputs, blocks = tiny_family(family)
    expected = prune_whole(tiny_family(family)[0], in_batches(inputs, batch_size), blocks=blocks)
    report = wn.prune(model, inputs, batch_size=batch_size, blocks=blocks)
    assert same(model, expected)
    assert report.reached == wn.sparsity(model, blocks) == 0.5
