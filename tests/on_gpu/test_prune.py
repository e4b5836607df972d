"""prune on a pretended GPU: the CPU's weights bit for bit, and everything home again."""

from itertools import count

import pretended_gpu
import pytest
import torch
from package import HOW, LITTLE, PADDING, assert_same, at_home, block_bytes, nothing_left, text, weights
from tiny import ARCHITECTURES, tiny_model

import wanda_nb as wn


def pruned_on_cpu(how, tokens, **settings):
    model = tiny_model(**settings)
    wn.prune(model, text(how, tokens), **how)
    return weights(model)


@pytest.mark.parametrize("how", HOW)
def test_blocks_visit_and_go_home(how, tokens, request):
    how = HOW[how]
    expected, model = pruned_on_cpu(how, tokens, **LITTLE), tiny_model(**LITTLE)
    with pretended_gpu.device() as gpu:
        gpu.initialised = True  # issue item 1
        wn.prune(model, text(how, tokens), device="cuda", **how)
        assert gpu.peak > 0 and at_home(model) and nothing_left(gpu)
    assert_same(weights(model), expected)


@pytest.mark.parametrize("how", HOW)
def test_the_whole_model_is_there(how, tokens, gpu):
    how = HOW[how]
    model = tiny_model(**LITTLE).to("cuda")
    gpu.copies.clear()
    wn.prune(model, text(how, tokens), **how)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert gpu.copied("in") < block_bytes(model)  # tokens and masks, no weights
    assert_same(weights(model), pruned_on_cpu(how, tokens, **LITTLE))
    del model
    assert nothing_left(gpu)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture, tokens, gpu):
    how, model = {"attention_mask": PADDING}, tiny_model(architecture)
    wn.prune(model, tokens, device="cuda", **how)
    assert_same(weights(model), pruned_on_cpu(how, tokens, architecture=architecture))
    assert at_home(model) and nothing_left(gpu)


def test_one_block_at_a_time_is_there(tokens, gpu):
    model = tiny_model(num_hidden_layers=12)
    wn.prune(model, tokens[:1, :6], device="cuda")
    assert gpu.peak < 4 / 12 * block_bytes(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, torch.OutOfMemoryError])
@pytest.mark.parametrize("calls", [1, 9, 21])
def test_an_exception_in_the_middle_leaves_the_model_whole_and_home(calls, error, tokens, gpu):
    model, number = tiny_model(), count(1)
    before = weights(model)

    def score(W, norm):
        if next(number) == calls:
            raise error("in the middle")
        return W.abs() * norm

    with pytest.raises(error):
        wn.prune(model, tokens, method=score, device="cuda")
    assert at_home(model) and nothing_left(gpu)
    after = weights(model)
    for name, weight in before.items():  # pruned, or as it was
        assert torch.equal(after[name].where(after[name] != 0, weight), weight)
    wn.prune(model, tokens, device="cuda")
    assert wn.sparsity(model) == 0.5


def test_too_large_a_block_leaves_the_model_whole_and_home(tokens):
    model = tiny_model()
    before = weights(model)
    with pretended_gpu.device(total=2**15) as gpu:
        with pytest.raises((torch.OutOfMemoryError, ValueError)):
            wn.prune(model, tokens, device="cuda")
        assert at_home(model) and nothing_left(gpu)
    assert_same(weights(model), before)


def test_the_report_says_how_much_of_the_gpu_was_used(tokens, gpu):
    report = wn.prune(tiny_model(), tokens, device="cuda")
    assert report.peak_memory == gpu.peak > 0
