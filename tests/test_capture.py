"""Input norms: against the definition, over batches, without padding, in float32."""

import threading

import numpy
import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import capture
from wanda_nb.capture import value_reads


def norms_by_definition(model, tokens, keep=None):
    """X.norm(dim=0) of everything that each layer of block 1 reads, kept whole, in float64."""
    kept = {}
    block = wn.decoder_blocks(model)[1]
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: kept.setdefault(name, args[0]))
        for name, layer in wn.linear_layers(block).items()
    ]
    with torch.no_grad():
        model(input_ids=tokens, attention_mask=keep)
    for hook in hooks:
        hook.remove()
    rows = slice(None) if keep is None else keep.bool()
    return {name: x[rows].reshape(-1, x.shape[-1]).double().norm(dim=0) for name, x in kept.items()}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_norms_are_the_definition_whatever_the_batch(model, batch):
    tokens = torch.randint(3, 96, (16, 12))
    expected = norms_by_definition(model, tokens)
    with wn.InputNorms(wn.decoder_blocks(model)[1]) as norms, torch.no_grad():
        for part in tokens.split(batch):
            model(input_ids=part)
    assert list(norms) == list(expected) == list(wn.linear_layers(wn.decoder_blocks(model)[1]))
    for name, norm in norms.items():
        assert norm.dtype == torch.float32
        torch.testing.assert_close(norm.double(), expected[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_in_no_norm(model, side):
    tokens = torch.randint(3, 96, (5, 12))
    keep = torch.ones_like(tokens)
    for row, padding in enumerate([0, 3, 7, 1, 11]):
        where = slice(0, padding) if side == "left" else slice(12 - padding, 12)
        keep[row, where] = 0
    expected = norms_by_definition(model, tokens, keep)
    blocks = wn.decoder_blocks(model)
    for batch in (1, 2, 5):
        states = wn.first_hidden_states(model, tokens, keep, batch_size=batch)
        with torch.no_grad(), wn.InputNorms(blocks[1]) as norms:
            states.advance(0, blocks[0], "cpu")
            states.capture(1, blocks[1], "cpu", norms)
        with torch.no_grad(), wn.InputNorms(blocks[1]) as by_hand:
            for part, real in zip(tokens.split(batch), keep.split(batch), strict=True):
                by_hand.token_mask = real
                model(input_ids=part, attention_mask=real)
        for name in expected:
            torch.testing.assert_close(norms[name].double(), expected[name], rtol=1e-4, atol=0)
            torch.testing.assert_close(by_hand[name].double(), expected[name], rtol=1e-5, atol=0)
    assert any((norms_by_definition(model, tokens)[n] > expected[n] * 1.01).any() for n in expected)


def test_pruning_with_a_mask_ignores_what_the_padding_says(tokens):
    """Other tokens under the mask, same pruned model; and without the mask another one."""
    keep = torch.ones_like(tokens)
    keep[:, 8:] = 0
    other = torch.where(keep.bool(), tokens, torch.full_like(tokens, 50))
    pruned = []
    for calibration, mask in ((tokens, keep), (other, keep), (tokens, None)):
        model = tiny_model()
        wn.prune(model, calibration, attention_mask=mask)
        pruned.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(pruned[0], pruned[1])
    assert not torch.equal(pruned[0], pruned[2])


def test_sums_of_squares_are_float32_for_half_precision_inputs():
    """300² overflows float16; so would the sum of 100,000 ones in bfloat16."""
    block = torch.nn.Sequential(torch.nn.Linear(4, 2)).half()
    with wn.InputNorms(block) as norms:
        for _ in range(3):
            block[0](torch.full((1, 10, 4), 300.0).half())
        norms.token_mask = torch.ones(1, 10)
        block[0](torch.full((1, 10, 4), 300.0).half())
    torch.testing.assert_close(norms["0"], torch.full((4,), 300.0 * 40**0.5))


@pytest.mark.parametrize("by_name", [False, True])
def test_grams_are_the_definition_and_norms_their_diagonal(by_name):
    layer, inputs = torch.nn.Linear(4, 2), torch.randn(3, 2, 5, 4, requires_grad=True)
    block = torch.nn.Sequential(layer)
    with wn.InputGrams(block) as grams, wn.InputNorms(block) as norms:
        for x in inputs:
            layer(input=x) if by_name else layer(x)
    X = inputs.detach().double().reshape(-1, 4)
    assert not grams["0"].requires_grad and not norms["0"].requires_grad  # which would hold every graph
    torch.testing.assert_close(grams["0"].double(), X.T @ X, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norms["0"].double(), X.norm(dim=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [wn.InputNorms, wn.InputGrams])
def test_sums_over_ranks_are_those_of_all_tokens(kind, monkeypatch):
    """Two ranks, here threads: a layer that one of them alone called, first or second, and one that neither did."""
    blocks = [torch.nn.Sequential(*(torch.nn.Linear(4, 2) for _ in range(4))) for _ in range(2)]
    read = [{0: torch.randn(3, 4), 1: torch.randn(2, 4)}, {0: torch.randn(5, 4), 3: torch.randn(1, 4)}]
    together, parts, found = threading.Barrier(2, timeout=5), {}, {}

    def all_reduce(tensor):
        parts[threading.current_thread().name] = tensor.clone()
        together.wait()
        one, other = parts["0"], parts["1"]
        together.wait()
        assert one.shape == other.shape
        return tensor.copy_(one + other)

    monkeypatch.setattr(capture, "world", lambda: (int(threading.current_thread().name), 2))
    monkeypatch.setattr(capture, "sum_over_ranks", all_reduce)

    def rank(number):
        with kind(blocks[number]) as sums, torch.no_grad():
            for layer, x in read[number].items():
                blocks[number][layer](x)
        sums.sum_over_ranks()
        found[number] = dict(sums)

    threads = [threading.Thread(target=rank, args=(number,), name=str(number)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with kind(blocks[0]) as alone, torch.no_grad():
        for each in read:
            for layer, x in each.items():
                blocks[0][layer](x)
    for sums in found[0], found[1]:
        assert list(sums) == list(alone) == ["0", "1", "3"]
        assert all(torch.allclose(sums[name], alone[name]) for name in sums)


def test_layers_that_read_one_tensor_share_its_norm(model, tokens):
    block = wn.decoder_blocks(model)[0]
    with wn.InputNorms(block) as norms, torch.no_grad():
        model(input_ids=tokens)
    assert torch.equal(norms["self_attn.q_proj"], norms["self_attn.v_proj"])
    assert torch.equal(norms["mlp.gate_proj"], norms["mlp.up_proj"])
    assert not torch.equal(norms["self_attn.q_proj"], norms["mlp.up_proj"])


def test_hooks_leave_with_the_statement_even_on_an_error(model, tokens):
    block = wn.decoder_blocks(model)[0]
    with pytest.raises(KeyboardInterrupt), wn.InputNorms(block):
        raise KeyboardInterrupt
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_opened_again_it_goes_on(model, tokens):
    with wn.InputNorms(wn.decoder_blocks(model)[0]) as whole, torch.no_grad():
        model(input_ids=tokens)
    norms = wn.InputNorms(wn.decoder_blocks(model)[0])
    for window in tokens:
        with norms, torch.no_grad():
            model(input_ids=window[None])
    for name in whole:
        torch.testing.assert_close(norms[name], whole[name])


def test_a_layer_that_saw_nothing_has_no_norm(model):
    with wn.InputNorms(wn.decoder_blocks(model)[0]) as norms:
        pass
    assert len(norms) == 0 and list(norms) == []
    with pytest.raises(KeyError):
        norms["mlp.down_proj"]


class TwoReaders(torch.nn.Module):
    """Two layers that read one buffer, with something done to it in between."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2), between

    def forward(self, x):
        self.first(x)
        self.between(x)
        return self.second(x)


@pytest.mark.parametrize(
    "between", [lambda x: x.fill_(3), lambda x: x.view(-1)[:4].add_(1), lambda x: x.detach().neg_().mul_(2)]
)
def test_a_buffer_that_is_written_into_is_read_again(between):
    block, buffer = TwoReaders(between), torch.ones(1, 3, 4)
    expected = {"first": [], "second": []}
    with wn.InputNorms(block) as norms, torch.no_grad():
        for value in (1.0, 2.0):  # refilled for the next batch, too
            buffer.fill_(value)
            expected["first"].append(buffer.clone())
            block(buffer)
            expected["second"].append(buffer.clone())
    for name, kept in expected.items():
        torch.testing.assert_close(norms[name], torch.cat(kept).reshape(-1, 4).norm(dim=0))


def test_a_buffer_refilled_where_torch_counts_no_writes():
    block = TwoReaders(lambda x: x.fill_(3))
    with torch.inference_mode(), wn.InputNorms(block) as norms:
        block(torch.ones(1, 3, 4))
    torch.testing.assert_close(norms["second"], torch.full((4,), 27**0.5))


def test_one_tensor_under_two_masks_is_summed_twice():
    block, x = torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.ones(1, 3, 4)
    with wn.InputNorms(block) as norms:
        for mask in (torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]]), torch.tensor([[0, 0, 1]]), None):
            norms.token_mask = mask
            block[0](x)
    torch.testing.assert_close(norms["0"], torch.full((4,), 7**0.5))


def test_a_tensor_is_summed_once_for_all_that_read_it(model, tokens, monkeypatch):
    sums = []
    whole = wn.InputNorms._addend
    monkeypatch.setattr(wn.InputNorms, "_addend", lambda self, X: sums.append(1) or whole(self, X))
    with wn.InputNorms(wn.decoder_blocks(model)[0]), torch.no_grad():
        model(input_ids=tokens)
    assert len(sums) == 4  # q, k and v; o; gate and up; down


def test_rows_that_the_mask_does_not_fit_are_refused():
    block = torch.nn.Sequential(torch.nn.Linear(4, 2))
    with wn.InputNorms(block) as norms:
        norms.token_mask = torch.ones(2, 3)
        block[0](torch.ones(6, 4))  # all of the batch's tokens, in a row
        with pytest.raises(ValueError, match=r"0 reads \(5, 4\), but token_mask is \(2, 3\): .* text by itself"):
            block[0](torch.ones(5, 4))


def test_a_capture_by_hand_never_stops_the_block(model, tokens):
    ran = []
    block = wn.decoder_blocks(model)[0]
    block.register_forward_hook(lambda *_: ran.append(1))
    with wn.InputNorms(block), torch.no_grad():
        for window in tokens:
            model(input_ids=window[None])
    assert len(ran) == len(tokens)


READS = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "int": lambda x: int(x[0]),
    "index": lambda x: range(9)[x.long()[1]],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: numpy.asarray(x),
    "dlpack": lambda x: torch.from_dlpack(x),
    "repr": lambda x: repr(x),
    "mask": lambda x: x[x > 1],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "bincount": lambda x: x.long().bincount(),
    "sorted": lambda x: sorted(x),
}
SUMS = {
    "matmul": lambda x: x @ x,
    "where": lambda x: torch.where(x > 1, x, 0),
    "top": lambda x: x.topk(2),
    "scatter": lambda x: x.scatter(0, x.argsort(), 1.0),
    "shape": lambda x: x.reshape(len(x) // 2, x.shape[-1] // 2).softmax(-1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_code_that_reads_values_is_noticed(read):
    with value_reads() as reads:
        read(torch.arange(4.0))
    assert reads


@pytest.mark.parametrize("compute", SUMS.values(), ids=SUMS)
def test_code_that_only_computes_is_not(compute):
    with value_reads() as reads:
        compute(torch.arange(4.0))
    assert not reads


def test_a_call_with_no_tokens_is_none():
    """As some code calls every expert, whether it was chosen or not: zeros would be taken for norms."""
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    with wn.InputNorms(layers) as norms:
        layers[0](torch.ones(0, 3))
        layers[1](torch.ones(0, 3))
        layers[1](torch.ones(4, 3))
    assert "0" not in norms and norms.tokens == {"1": 4} and norms["1"].tolist() == [2, 2, 2]
