"""Pruned, then quantised: zeros stay zeros, every weight is the nearest that its bits allow, and sizes add up."""

import builtins
import json

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.checkpoint.compressed import SHAPE


def layers_of(model):
    return {
        f"{number} {name}": layer
        for number, block in enumerate(wn.decoder_blocks(model))
        for name, layer in block.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


@pytest.mark.parametrize(("bits", "group"), [(8, 16), (4, 16), (4, 8), (8, None), (4, None)])
def test_zeros_stay_zeros_and_all_else_is_nearest(bits, group, model, tokens):
    pytest.importorskip("torchao")
    wn.prune(model, tokens, sparsity=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = wn.quantised(model, bits, group)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name, layer in layers_of(copied).items():
        W, found = layers_of(model)[name].weight.detach(), layer.weight.dequantize()
        assert (found[W == 0] == 0).all()
        W, found = (tensor.reshape(-1, group or W.shape[1]) for tensor in (W, found))
        step = W.abs().amax(dim=1, keepdim=True) / (2**bits - 1) * 2
        codes = found / step.half()
        assert (codes - codes.round()).abs().max() < 1e-3 and codes.round().aminmax() == (
            -(2 ** (bits - 1)),
            2 ** (bits - 1) - 1,
        )
        assert ((found - W).abs() <= step * (0.5 + 2**bits / 4096)).all()  # nearest, but for the 16 bits of a step
    assert torch.equal(copied.lm_head.weight, model.lm_head.weight)
    losses = wn.window_losses(copied, tokens)
    for layer in layers_of(copied).values():
        layer.weight = torch.nn.Parameter(layer.weight.dequantize())
    torch.testing.assert_close(losses, wn.window_losses(copied, tokens))


def test_a_plain_model_takes_what_save_compressed_writes(tokens, tmp_path):
    for sparsity in (0.01, 0.5, 0.7):  # the first would grow
        for dtype in (torch.float32, torch.bfloat16):
            model = tiny_model(dtype=dtype, tie_word_embeddings=True)
            wn.prune(model, tokens, sparsity=sparsity)
            size = wn.save_compressed(model, tmp_path / "small")
            with open(tmp_path / "small", "rb") as file:
                header = int.from_bytes(file.read(8), "little")
                names = json.loads(file.read(header))
            assert wn.stored_bytes(model) == size - 8 - header - 16 * sum(name.endswith(SHAPE) for name in names)


@pytest.mark.parametrize(("bits", "group"), [(8, 16), (4, None)])
def test_a_quantised_model_takes_its_bits_a_bitmask_and_steps(bits, group, model, tokens):
    pytest.importorskip("torchao")
    dense = model.state_dict()
    others = sum(4 * tensor.numel() for name, tensor in dense.items() if "proj" not in name)
    matrices = [layer.weight for layer in layers_of(model).values()]
    steps = sum(2 * len(W) * (W.shape[1] // group if group else 1) for W in matrices)
    values = sum(W.numel() for W in matrices) * bits // 8
    assert wn.stored_bytes(wn.quantised(model, bits, group)) == others + steps + values
    wn.prune(model, tokens, sparsity=0.75)
    copied = wn.quantised(model, bits, group)
    kept = [int(layer.weight.dequantize().count_nonzero()) for layer in layers_of(copied).values()]
    bitmask = sum(W.numel() // 8 for W in matrices)
    packed = sum(-(-count * bits // 8) for count in kept)
    assert wn.stored_bytes(copied) == others + steps + bitmask + packed


def test_what_reads_weights_refuses_them(model, tokens, tmp_path):
    pytest.importorskip("torchao")
    copied = wn.quantised(model, 8, 16)
    refused = {
        "prune": lambda: wn.prune(copied, tokens),
        "magnitude": lambda: wn.prune(copied, method="magnitude"),
        "calibrate": lambda: wn.calibrate(copied, tokens),
        "recover": lambda: wn.recover(copied, tokens, steps=1),
        "sparsity": lambda: wn.sparsity(copied),
        "norms": lambda: wn.InputNorms(copied.model.layers[0]),
        "save_pruned": lambda: wn.save_pruned(copied, None, tmp_path / "folder", None),
        "again": lambda: wn.quantised(copied),
    }
    for call in refused.values():
        with pytest.raises(ValueError, match=r"q_proj in LlamaDecoderLayer holds quantised weights \(IntxUnpacked"):
            call()
    with pytest.raises(ValueError, match=r"q_proj.weight is quantised .*: save the model as it was before"):
        wn.save_compressed(copied, tmp_path / "small")
    with pytest.raises(ValueError, match="holds quantised weights"):
        wn.save_gguf(copied, None, tmp_path / "model.gguf")
    assert not [*tmp_path.iterdir()]


def test_arguments_are_checked_before_the_model_is_copied(model, monkeypatch):
    with pytest.raises(ValueError, match="bits=2: expected 8 or 4"):
        wn.quantised(model, 2)
    with pytest.raises(ValueError, match=r"group=32 does not divide the 48 columns of mlp.down_proj"):
        wn.quantised(model)
    with pytest.raises(ValueError, match=r"group=0 does not divide the 32 columns"):
        wn.quantised(model, group=0)
    with pytest.raises(ValueError, match=r"attn.c_attn is a Conv1D: torchao quantises nn.Linear alone"):
        wn.quantised(tiny_model("gpt2"))
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torchao"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "wanda-nb\[quantise\]"'):
        wn.quantised(model, group=16)
