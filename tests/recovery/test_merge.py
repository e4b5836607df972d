"""A merge does as it is told: under the mask or densely, each adapter that is active, once."""

import copy

import peft
import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.recovery import merge as merging


@pytest.fixture
def adapted(pruned, text):
    return wn.recover(pruned, text, steps=6, batch_size=2, learning_rate=1e-2).model


def updates(model):
    """B A alpha / r of each adapted layer, from its own matrices."""
    found = {}
    for name, layer in merging.lora_layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found[name] = (b @ a * 16 / 8).detach()
    return found


def test_a_merge_under_the_mask_keeps_zeros_and_says_what_it_cost(adapted):
    before = {name: layer.get_base_layer().weight.clone() for name, layer in merging.lora_layers(adapted)}
    added = updates(adapted)
    merged, table = wn.merge_lora(adapted, keep_zeros=True)
    assert wn.sparsity(merged) == 0.5 and not hasattr(merged, "peft_config")
    for row in table.itertuples():
        W, update = before[row.layer], added[row.layer]
        expected = torch.where(W == 0, 0.0, W + update)
        torch.testing.assert_close(merged.get_submodule(row.layer).weight.detach(), expected)
        assert row.lost == pytest.approx(float(update[W == 0].pow(2).sum() / update.pow(2).sum()), rel=1e-4)
        assert (row._2, row._3) == (0.5, 0.5)
    assert len(table) == 6


def test_a_dense_merge_is_what_peft_does_and_must_be_asked_for(adapted, text):
    theirs = copy.deepcopy(adapted).merge_and_unload()
    with pytest.raises(ValueError, match="Give keep_zeros=True"):
        wn.merge_lora(adapted)
    expected = adapted(text[:2]).logits
    merged, table = wn.merge_lora(adapted, keep_zeros=False)
    torch.testing.assert_close(merged(text[:2]).logits, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(merged.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert table["sparsity after"].max() < 0.01 and (table["lost"] == 0).all()


def test_a_merge_needs_adapters(pruned):
    with pytest.raises(ValueError, match="no LoRA adapters"):
        wn.merge_lora(pruned, keep_zeros=True)


def with_adapters(dtype=torch.float32, of=torch.float32, names=("one",), **settings):
    """A pruned model with random adapters of a dtype."""
    model = tiny_model(dtype=dtype)
    wn.prune(model, None, method="magnitude")
    config = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **settings}
    model = peft.get_peft_model(model, peft.LoraConfig(**config), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, peft.LoraConfig(**config))
    model.base_model.set_adapter(list(names))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(of)
    return model


def by_hand(model, adapters):
    """The sum in float32, rounded once, of each adapted weight."""
    found = {}
    for name, layer in merging.lora_layers(model):
        weight = layer.get_base_layer().weight.detach()
        update = sum(
            layer.lora_B[one].weight.float() @ layer.lora_A[one].weight.float() * layer.scaling[one] for one in adapters
        )
        found[name] = (weight.float() + update).to(weight.dtype).detach()
    return found


@pytest.mark.parametrize("names", [("one",), ("one", "two")], ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16])
def test_the_update_is_added_in_float32_and_rounded_once(dtype, of, names):
    model = with_adapters(dtype, of, names)
    expected, zeros = by_hand(model, names), {n: x.get_base_layer().weight == 0 for n, x in merging.lora_layers(model)}
    theirs = copy.deepcopy(model).merge_and_unload() if dtype == of == torch.float32 else None
    dense = wn.merge_lora(copy.deepcopy(model), keep_zeros=False)[0]
    masked = wn.merge_lora(model, keep_zeros=True)[0]
    for name, weight in expected.items():
        assert torch.equal(dense.get_submodule(name).weight, weight)
        assert torch.equal(masked.get_submodule(name).weight, weight.masked_fill(zeros[name], 0))
        assert len(names) > 1 or theirs is None or torch.equal(theirs.get_submodule(name).weight, weight)
        assert theirs is None or torch.allclose(theirs.get_submodule(name).weight, weight)


def test_an_adapter_that_is_not_active_is_not_merged():
    model = with_adapters(names=("one", "two"))
    model.base_model.set_adapter("two")
    expected, logits = by_hand(model, ["two"]), model(torch.arange(3, 9)[None]).logits
    merged = wn.merge_lora(model, keep_zeros=False)[0]
    assert all(torch.equal(merged.get_submodule(name).weight, weight) for name, weight in expected.items())
    torch.testing.assert_close(merged(torch.arange(3, 9)[None]).logits, logits, rtol=1e-4, atol=1e-4)


def test_an_active_adapter_may_stand_beside_other_layers():
    model = with_adapters(names=("one",), target_modules=["q_proj"])
    model.add_adapter("two", peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["one", "two"])
    theirs = copy.deepcopy(model).merge_and_unload().state_dict()
    merged, table = wn.merge_lora(model, keep_zeros=False)
    assert len(table) == 6 and all(torch.equal(theirs[name], tensor) for name, tensor in merged.state_dict().items())


def test_adapters_that_are_switched_off_are_not_merged():
    model = with_adapters()
    base = {name: layer.get_base_layer().weight.clone() for name, layer in merging.lora_layers(model)}
    model.base_model.disable_adapter_layers()
    merged, table = wn.merge_lora(model, keep_zeros=False)
    assert all(torch.equal(merged.get_submodule(name).weight, weight) for name, weight in base.items())
    assert (table["sparsity before"] == table["sparsity after"]).all()


def test_what_is_merged_already_is_not_added_twice():
    model = with_adapters()
    model.merge_adapter()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"merged already.*unmerge_adapter"):
        wn.merge_lora(model, keep_zeros=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["fc1"]}], ids=str)
def test_adapters_that_are_more_than_a_product_are_refused(settings):
    model = tiny_model("opt") if "lora_bias" in settings else tiny_model()
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, **settings})
    model = peft.get_peft_model(model, config)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="expected plain LoRA"):
        wn.merge_lora(model, keep_zeros=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
