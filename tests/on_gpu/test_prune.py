"""prune on a pretended GPU: the CPU's weights bit for bit, and everything home again."""

from itertools import count

import pretended_gpu
import pytest
import torch
from package import (
    HOW,
    LITTLE,
    PADDING,
    assert_same,
    at_home,
    block_bytes,
    inner,
    nothing_left,
    states_lie,
    text,
    weights,
)
from tiny import ARCHITECTURES, tiny_model, with_feed_forward

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


def test_parameters_stay_the_same_in_the_same_memory(tokens, gpu):
    model = tiny_model()
    before = [(id(parameter), parameter.data_ptr()) for parameter in model.parameters()]
    wn.prune(model, tokens, device="cuda")
    assert [(id(parameter), parameter.data_ptr()) for parameter in model.parameters()] == before


class Caching(torch.nn.Module):
    """Makes itself a new buffer when it runs, and counts in an old one."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("angles", torch.zeros(0))

    def forward(self, x):
        self.runs += 1
        if len(self.angles) < x.shape[1]:
            self.angles = torch.arange(x.shape[1], device=x.device).float()
        return self.mlp(x) + self.angles.sin()[:, None]


def test_what_a_block_writes_and_makes_comes_home_too(tokens, gpu):
    here, there = with_feed_forward(Caching), with_feed_forward(Caching)
    wn.prune(here, tokens, batch_size=2)
    wn.prune(there, tokens, batch_size=2, device="cuda")
    buffers, runs = dict(there.named_buffers()), there.model.layers[1].mlp.runs
    assert {buffer.device.type for buffer in buffers.values()} == {"cpu"} and nothing_left(gpu)
    assert runs == 6 == here.model.layers[1].mlp.runs - 1  # which was rehearsed
    assert torch.equal(buffers["model.layers.1.mlp.angles"], torch.arange(12).float())
    assert_same(weights(there), weights(here))


def test_an_overflow_stops_a_visit_at_its_block(tokens, gpu):
    """Nothing is rehearsed: it would take every block there twice."""
    model = tiny_model()
    for layer in (model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.down_proj):
        layer.weight.data.mul_(1e30)
    with pytest.raises(ValueError, match=r"in block [12] is not finite. Blocks before [12] are already pruned"):
        wn.prune(model, tokens, device="cuda")
    assert at_home(model) and nothing_left(gpu) and 0 < wn.sparsity(model) < 0.5


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


@pytest.mark.parametrize("how", [{"method": "magnitude"}, {"batch_size": 2}], ids=str)
def test_an_index_before_cuda_is_initialised(how, tokens):
    with pretended_gpu.device():
        wn.prune(tiny_model(), text(how, tokens), device="cuda:0", **how)


def test_padding_on_the_device_and_the_model_at_home(tokens, gpu):
    expected, model = tiny_model(), tiny_model()
    wn.prune(expected, tokens, attention_mask=PADDING)
    wn.prune(model, tokens.cuda(), attention_mask=PADDING.cuda(), device="cuda")
    assert_same(weights(model), weights(expected))


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_each_block_crosses_the_bus_once(method, tokens, gpu):
    model = tiny_model(num_hidden_layers=8)
    wn.prune(model, text({"method": method}, tokens[:2, :6]), method, device="cuda")
    assert 1 <= gpu.copied("in") / block_bytes(model) < 1.05
    assert 0.85 < gpu.copied("out") / block_bytes(model) < 1.05
    home = sum(copy.bytes for copy in gpu.copies if copy.way == "out" and copy.where.startswith("in_memory.py"))
    layers = [layer for block in wn.decoder_blocks(model) for layer in wn.linear_layers(block).values()]
    assert home == sum(layer.weight.nbytes for layer in layers)  # norms have not changed


@pytest.mark.parametrize("how", ["wanda", "padding"])
@pytest.mark.parametrize("there", [True, False], ids=["states there", "states at home"])
def test_what_is_alike_for_all_blocks_is_sent_once(there, how, tokens):
    copies, batch_size = {}, 2
    for layers in (4, 8):
        with pretended_gpu.device() as gpu, states_lie(there):
            model = tiny_model(num_hidden_layers=layers)
            wn.prune(model, tokens, device="cuda", batch_size=batch_size, **HOW[how])
            copies[layers] = sum(copy.way == "in" for copy in gpu.copies)
    own = len(list(wn.decoder_blocks(model)[0].parameters()))
    batches = 3 if how == "wanda" else 5  # a window with padding is one by itself
    states = 0 if there else 2 * batches  # to capture and to propagate
    masks = 0 if there or how == "wanda" else 2 * 2 * 3  # cos, sin and mask of those: there is no room for them
    assert copies[8] - copies[4] == 4 * (own + states + masks)


def test_what_one_block_reads_is_sent_when_it_is_used_and_not_kept(gpu):
    hidden, common, own = torch.ones(1, 4, 8, device="cuda"), torch.ones(4), [torch.ones(8), torch.ones(8)]
    sent = inner("Sent")[0].Sent([[((common,), {"own": own[0]}), ((common,), {"own": own[1]})]], hidden)
    before = gpu.alive
    for index in (0, 1, 0, 1):
        assert sent.call(0, index, "cuda")[1]["own"].is_cuda
    assert [copy.bytes for copy in gpu.copies] == [16, 32, 32, 32, 32] and gpu.alive == before + 16


def test_a_model_that_is_there_is_rehearsed(tokens, gpu):
    model = tiny_model()
    for layer in (model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.down_proj):
        layer.weight.data.mul_(1e30)
    with pytest.raises(ValueError, match="Nothing was changed"):
        wn.prune(model.to("cuda"), tokens, device="cuda")
    assert wn.sparsity(model) == 0
