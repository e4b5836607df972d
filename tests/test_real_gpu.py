"""On a real GPU, where there is one: its masks are the CPU's. Everything else about devices is tested in on_gpu/."""

import copy

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM

import wanda_nb as wn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
WAYS = {
    "wanda": {},
    "wanda 2:4": {"pattern": "2:4"},
    "wanda 4:8": {"pattern": "4:8"},
    "wanda by layer": {"group": "layer"},
    "wanda by input": {"group": "input"},
    "magnitude": {"method": "magnitude"},
    "ria": {"method": "ria"},
    "wanda-variant": {"method": "wanda-variant"},
}


@pytest.mark.parametrize("way", WAYS)
def test_masks_in_float32_are_those_of_the_cpu(way):
    model = tiny_model()
    there, visiting = copy.deepcopy(model).cuda(), copy.deepcopy(model)
    tokens = torch.randint(model.config.vocab_size, (8, 64), generator=torch.Generator().manual_seed(0))
    wn.prune(model, tokens, **WAYS[way])
    wn.prune(there, tokens, **WAYS[way])
    wn.prune(visiting, tokens, **WAYS[way], device="cuda")
    for name, weight in model.state_dict().items():
        assert torch.equal(there.state_dict()[name].cpu(), weight), name
        assert torch.equal(visiting.state_dict()[name], weight), name


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_pruned_there_is_the_model_pruned_there(way, tmp_path):
    tiny_model(dtype=torch.bfloat16).save_pretrained(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.bfloat16)
    tokens = torch.randint(model.config.vocab_size, (8, 64), generator=torch.Generator().manual_seed(0))
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "pruned", tokens, **WAYS[way], device="cuda")
    wn.prune(model.cuda(), tokens, **WAYS[way])
    pruned = type(model).from_pretrained(tmp_path / "pruned", dtype=torch.bfloat16)
    for name, weight in pruned.state_dict().items():
        assert torch.equal(model.state_dict()[name].cpu(), weight), name
