"""Pruned, then quantised: zeros stay zeros, weights are those of the file, and sizes add up."""

import json

import pytest
import torch
from test_gguf import byte_level, read, tiny
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.checkpoint.compressed import SHAPE


def weights(model):
    return [wn.weight_matrix(layer) for b in wn.decoder_blocks(model) for layer in wn.linear_layers(b).values()]


@pytest.mark.parametrize(("bits", "dtype", "most"), [(8, "Q8_0", 255), (4, "Q4_0", 16)])
def test_weights_are_those_of_the_gguf_file(bits, dtype, most, tokens, tmp_path):
    model = tiny("llama", intermediate_size=64)
    wn.prune(model, tokens, sparsity=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = wn.quantised(model, bits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    wn.save_gguf(model, byte_level(), tmp_path / "model.gguf", dtype)
    for W, found, stored in zip(weights(model), weights(copied), weights(read(tmp_path / "model.gguf")), strict=True):
        assert torch.equal(found, stored) and not torch.equal(found, W) and (found[W == 0] == 0).all()
        assert max(len(group.unique()) for group in found.reshape(-1, 32)) <= most
    others = [name for name in before if "proj" not in name]
    assert others and all(torch.equal(copied.state_dict()[name], before[name]) for name in others)


def test_conv1d_is_quantised_along_its_inputs(tokens):
    model = tiny_model("gpt2")
    for W, found in zip(weights(model), weights(wn.quantised(model, 8)), strict=True):
        groups, rounded = (tensor.reshape(-1, 32) for tensor in (W, found))
        step = groups.abs().amax(dim=1, keepdim=True) / 127
        assert ((rounded - groups).abs() <= step * 0.57).all()


def test_at_16_bits_it_is_what_save_compressed_writes(tokens, tmp_path):
    for sparsity in (0.01, 0.5, 0.7):  # the first would grow
        model = tiny_model(dtype=torch.bfloat16, tie_word_embeddings=True)
        wn.prune(model, tokens, sparsity=sparsity)
        size = wn.save_compressed(model, tmp_path / "small")
        with open(tmp_path / "small", "rb") as file:
            header = int.from_bytes(file.read(8), "little")
            names = json.loads(file.read(header))
        assert wn.stored_bytes(model) == size - 8 - header - 16 * sum(name.endswith(SHAPE) for name in names)


@pytest.mark.parametrize("bits", [8, 4])
def test_below_16_bits_it_is_codes_a_bitmask_and_steps(bits, tokens):
    model = tiny_model(intermediate_size=64)
    count = sum(W.numel() for W in weights(model))
    others = 2 * (sum(tensor.numel() for tensor in model.state_dict().values()) - count)
    steps = count // 32 * 2
    assert wn.stored_bytes(wn.quantised(model, bits), bits) == others + steps + count * bits // 8
    wn.prune(model, tokens, sparsity=0.75)
    copied = wn.quantised(model, bits)
    packed = sum(-(-int(W.count_nonzero()) * bits // 8) for W in weights(copied))
    assert wn.stored_bytes(copied, bits) == others + steps + count // 8 + packed < others + steps + count * bits // 8


def test_what_cannot_be_quantised_is_refused(model):
    with pytest.raises(ValueError, match="bits=2: expected 8 or 4"):
        wn.quantised(model, 2)
    with pytest.raises(ValueError, match="bits=32: expected 16, 8 or 4"):
        wn.stored_bytes(model, 32)
    with pytest.raises(ValueError, match=r"A layer has \(32, 48\) weights: expected rows of a multiple of 32"):
        wn.quantised(model)
