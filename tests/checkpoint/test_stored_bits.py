"""Pruning a checkpoint on disk changes what is pruned and nothing else, in whatever dtype it computes."""

import json

import pytest
import torch
from folders import Killed, contents, load, rewrite, saved, stop_after, tensors
from tiny import tiny_model

import wanda_nb as wn

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(BITS[a.itemsize]), b.view(BITS[b.itemsize]))


def masked_by_hand(source, tokens, dtype, **how) -> dict[str, torch.Tensor]:
    """The stored tensors, with zeros where ``prune`` puts them in the model loaded in a dtype."""
    stored, model = tensors(source), load(source, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wn.prune(model, tokens, **how)
    for name, after in model.state_dict().items():
        if name in stored:
            stored[name][(after == 0) & (before[name] != 0)] = 0
    return stored


def assert_same(folder, expected) -> None:
    got = tensors(folder)
    assert got.keys() == expected.keys()
    assert [name for name, tensor in got.items() if not same_bits(tensor, expected[name])] == []


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(("stored", "computed"), [(F32, BF16), (F32, F16), (F16, F32), (BF16, F32), (BF16, F16)])
def test_what_is_kept_keeps_its_bits(stored, computed, architecture, tokens, tmp_path):
    source = saved(tiny_model(architecture, dtype=stored), tmp_path / "source")
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, dtype=computed, batch_size=2)
    assert report.reached == pytest.approx(0.5, abs=0.02)
    assert_same(tmp_path / "out", masked_by_hand(source, tokens, computed, batch_size=2))


@pytest.mark.parametrize("how", [{"pattern": "2:4"}, {"method": "ria", "sparsity": 0.3}, {"group": "layer"}], ids=str)
def test_every_mask_is_laid_on_what_is_stored(how, tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source")
    wn.prune_checkpoint(source, tmp_path / "out", tokens, dtype=BF16, **how)
    assert_same(tmp_path / "out", masked_by_hand(source, tokens, BF16, **how))


def test_the_config_may_name_a_smaller_dtype(tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert_same(tmp_path / "out", masked_by_hand(source, tokens, BF16))
    assert load(tmp_path / "out").dtype == BF16


def test_tensors_of_several_dtypes_keep_theirs(tokens, tmp_path):
    source = saved(tiny_model(dtype=BF16), tmp_path / "source")
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"):
        rewrite(source, name, lambda tensor: tensor.double() + 1e-9)
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert_same(tmp_path / "out", masked_by_hand(source, tokens, BF16))


def test_magnitude_compares_what_is_stored(tmp_path):
    """Rounded to bfloat16, many weights of a layer would tie."""
    source = saved(tiny_model(), tmp_path / "source")
    wn.prune_checkpoint(source, tmp_path / "out", None, "magnitude", dtype=BF16)
    assert_same(tmp_path / "out", masked_by_hand(source, None, F32, method="magnitude"))
    wn.prune_checkpoint(source, tmp_path / "out", None, "magnitude", dtype=F16)  # the same run: no dtype plays a part


def test_zeros_of_both_signs_and_values_too_small_to_compute_with(tokens, tmp_path):
    """All one score, so that the first half of each row goes and the second half stays, to the bit."""
    name = "model.layers.1.mlp.up_proj.weight"
    row = torch.tensor([1e-9, -1e-9, 0.0, -0.0] * 8)  # nothing in float16

    def plant(tensor):
        tensor[:3] = row
        return tensor

    source = saved(tiny_model(), tmp_path / "source")
    rewrite(source, name, plant)
    rewrite(source, "model.layers.1.input_layernorm.weight", lambda tensor: torch.where(tensor > 1, -0.0, tensor))
    wn.prune_checkpoint(source, tmp_path / "out", tokens, dtype=F16)
    expected = masked_by_hand(source, tokens, F16)
    expected[name][:3, :16] = 0.0
    assert_same(tmp_path / "out", expected)


@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_killed_run_goes_on_with_the_same_bits(blocks, method, tokens, tmp_path, monkeypatch):
    source = saved(tiny_model(), tmp_path / "source")
    wn.prune_checkpoint(source, tmp_path / "whole", tokens, method, dtype=BF16)
    stop_after(blocks, monkeypatch)
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, method, dtype=BF16)
    monkeypatch.undo()
    wn.prune_checkpoint(source, tmp_path / "out", tokens, method, dtype=BF16)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("stored", "computed"), [(F32, BF16), (F16, F32)])
@pytest.mark.parametrize("how", [{"method": "sparsegpt"}, {"update": "one-shot"}], ids=str)
def test_an_update_changes_the_linear_layers_alone(how, stored, computed, tokens, tmp_path):
    source = saved(tiny_model("opt", dtype=stored), tmp_path / "source")
    wn.prune_checkpoint(source, tmp_path / "out", tokens, dtype=computed, **how)
    before, after = tensors(source), tensors(tmp_path / "out")
    changed = {name for name in before if not same_bits(before[name], after[name])}
    layers = wn.linear_layers(wn.decoder_blocks(load(source))[0])
    assert changed == {f"model.decoder.layers.{i}.{name}.weight" for i in range(3) for name in layers}
    model = load(source, dtype=computed)
    wn.prune(model, tokens, **how)
    name = "model.decoder.layers.0.self_attn.q_proj.weight"  # later blocks see the rounded ones
    assert same_bits(after[name], model.state_dict()[name].to(stored))


def test_an_update_that_the_file_cannot_hold_is_refused(tokens, tmp_path, monkeypatch):
    source = saved(tiny_model(dtype=F16), tmp_path / "source")
    monkeypatch.setattr("wanda_nb.methods.obs_prune", lambda W, *args, **how: W.float() + 1e6)
    with pytest.raises(ValueError, match=r"layers.0.*updated and rounded to torch.float16 .* not finite"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, "sparsegpt", dtype=F32)


def test_a_dtype_too_small_for_the_weights_is_refused(tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source")
    rewrite(source, "model.layers.2.mlp.down_proj.weight", lambda tensor: tensor * 1e6)
    with pytest.raises(ValueError, match=r"mlp.down_proj.weight in torch.float16 has values .* not finite"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, dtype=F16)
