"""calibrate on a pretended GPU, and pruning there by what it found: the CPU's norms and weights, bit for bit."""

import pretended_gpu
import pytest
import torch
from package import LITTLE, PADDING, assert_same, at_home, block_bytes, files, nothing_left, saved, weights
from tiny import tiny_model

import wanda_nb as wn

PLACES = {"gpu": {}, "cpu": {}, "file": {"budget": 0}}


def assert_equal(ours, theirs):
    assert ours.tokens == theirs.tokens
    assert_same(ours.sums, theirs.sums)
    assert {tensor.device.type for tensor in ours.sums.values()} == {"cpu"}


@pytest.mark.parametrize("how", [{}, {"attention_mask": PADDING}, {"statistic": "gram"}], ids=str)
def test_blocks_visit_once_and_go_home(how, tokens, gpu):
    model = tiny_model(**LITTLE)
    expected = wn.calibrate(model, tokens, **how)
    gpu.copies.clear()
    found = wn.calibrate(model, tokens, device="cuda", **how)
    assert gpu.peak > 0 and at_home(model)
    assert_equal(found, expected)
    visiting, whole = tiny_model(**LITTLE), tiny_model(**LITTLE).to("cuda")
    assert_equal(wn.calibrate(whole, tokens, **how), expected)
    cpu = tiny_model(**LITTLE)
    for model, where in ((cpu, {}), (visiting, {"device": "cuda"}), (whole, {})):
        wn.prune(model, calibration=found, method="sparsegpt" if how.get("statistic") else "wanda", **where)
    assert at_home(visiting)
    assert_same(weights(visiting), weights(cpu))
    assert_same(weights(whole), weights(cpu))
    del whole, model
    assert nothing_left(gpu)


@pytest.mark.parametrize("place", PLACES)
def test_streamed(place, tokens, tmp_path):
    saved(tmp_path / "dense", **LITTLE)
    how = {"batch_size": 2, "attention_mask": PADDING}
    expected = wn.calibrate(tmp_path / "dense", tokens, **how)
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "cpu", calibration=expected)
    with pretended_gpu.device() as gpu:
        gpu.free = None if place == "gpu" else 10
        found = wn.calibrate(tmp_path / "dense", tokens, device="cuda", kept=tmp_path / "kept", **how, **PLACES[place])
        assert_equal(found, expected)
        gpu.free = None
        wn.prune_checkpoint(tmp_path / "dense", tmp_path / "gpu", calibration=found, device="cuda")
        assert gpu.peak > 0 and nothing_left(gpu)
    assert files(tmp_path / "gpu") == files(tmp_path / "cpu")


def test_pruning_by_norms_copies_each_block_once(tokens, gpu):
    model = tiny_model()
    norms = wn.calibrate(model, tokens)
    gpu.copies.clear()
    wn.prune(model, calibration=norms, device="cuda")
    assert gpu.copied("in") < 1.1 * block_bytes(model)


def test_sums_are_in_float64_where_the_device_has_none(tokens):
    expected = wn.calibrate(tiny_model(**LITTLE), tokens)
    with pretended_gpu.device("mps", float64=False):
        for how in ({"device": "mps"}, {}):
            model = tiny_model(**LITTLE).to("cpu" if how else "mps")
            found = wn.calibrate(model, tokens, **how)
            assert {tensor.dtype for tensor in found.sums.values()} == {torch.float64}
            assert_equal(found, expected)
            wn.prune(model, calibration=found, **how)
