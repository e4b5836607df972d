"""Which model is this: everything that changes what it computes changes its identity, and nothing else does."""

import copy

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from wanda_nb.reporting.identity import identity


def changed(model, change):
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


def last_number(model):
    model.model.layers[-1].mlp.down_proj.weight.view(-1)[-1] += 1e-3


def swapped(model):
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def every_number(model):
    for parameter in model.parameters():
        parameter.mul_(torch.where(torch.arange(parameter.numel()) % 2 == 0, 1, 0).view(parameter.shape))


CHANGES = {
    "the last number of a weight": last_number,
    "another norm's epsilon": lambda model: setattr(model.config, "rms_norm_eps", 0.1),
    "another theta": lambda model: model.config.rope_parameters.update(rope_theta=5e5),
    "half the numbers": every_number,
    "dtype": lambda model: model.to(torch.bfloat16),
    "blocks that changed places": swapped,
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_the_model_changes_its_identity(model, change):
    assert identity(changed(model, CHANGES[change])) != identity(model)


def test_saving_and_loading_keeps_it(model, tmp_path):
    model.save_pretrained(tmp_path / "elsewhere")
    assert identity(AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere")) == identity(model)


def test_a_view_that_is_not_contiguous_is_read_in_order(model):
    weight = model.model.layers[0].mlp.up_proj.weight
    before = identity(model)
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous() and identity(model) == before


def test_adapters_count(model):
    peft = pytest.importorskip("peft")
    found = set()
    for alpha in (8, 16):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
        found.add(identity(peft.get_peft_model(copy.deepcopy(model), config)))
    assert len(found) == 2 and identity(model) not in found


def test_meta_is_refused():
    with pytest.raises(ValueError, match="meta device"):
        identity(tiny_model().to("meta"))
