"""Models of images and speech visit the device like those of text; a model spread over devices stays where it is."""

import accelerate
import pytest
import torch
from package import assert_same, at_home, inner, nothing_left, weights
from tiny import tiny_family, tiny_model

import wanda_nb as wn


@pytest.mark.parametrize("family", ["vit", "convnext", "whisper decoder", "llava's images", "llava's language"])
def test_visits_give_the_weights_of_the_cpu_and_take_what_is_foretold(family, gpu, monkeypatch):
    model, inputs, blocks = tiny_family(family)
    wn.prune(model, inputs, batch_size=2, blocks=blocks)
    visiting, found = tiny_family(family)[0], []
    Need = inner("Need")[0].Need
    monkeypatch.setattr(Need, "check", lambda need, device: found.append(need.hidden + need.others))
    wn.prune(visiting, inputs, batch_size=2, blocks=blocks, device="cuda")
    assert_same(weights(visiting), weights(model))
    assert at_home(visiting) and nothing_left(gpu)
    assert 1 <= found[0] / gpu.peak <= 1.25, found[0] / gpu.peak


def test_a_model_spread_over_devices_is_pruned_where_it_lies(gpu, tokens):
    expected, model = tiny_model(), tiny_model()
    wn.prune(expected, tokens, batch_size=4)
    places = {"model.embed_tokens": "cuda:0", "model.layers.0": "cuda:0", "model.layers.1": "cuda:0"}
    places |= {"model.layers.2": "cpu", "model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}
    with torch.no_grad():
        for name, place in places.items():
            model.get_submodule(name).to(place)
    for name, place in places.items():
        hook = accelerate.hooks.AlignDevicesHook(execution_device=torch.device(place), io_same_device=False)
        accelerate.hooks.add_hook_to_module(model.get_submodule(name), hook)
    before = [parameter.device for parameter in model.parameters()]
    wn.prune(model, tokens, batch_size=4)
    assert_same(weights(model), weights(expected))
    assert [parameter.device for parameter in model.parameters()] == before
