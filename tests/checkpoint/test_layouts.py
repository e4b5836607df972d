"""Whatever checkpoint plain transformers reads: that model is pruned, and plain transformers reads it again."""

import json

import pytest
import torch
from folders import INDEX, load, rewrite, saved, tensors
from safetensors.torch import load_file, save_file
from tiny import tiny_model

import wanda_nb as wn

EMBEDDING = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def pruned(folder, tokens):
    model = load(folder)
    wn.prune(model, tokens)
    return model


@pytest.mark.parametrize("prefix", ["", "base"])
@pytest.mark.parametrize("architecture", EMBEDDING)
def test_a_tied_checkpoint_may_store_the_head_alone(architecture, prefix, tokens, tmp_path):
    """transformers reads a tied weight under either name; with the base model's prefix on the others, or without."""
    source, name = tmp_path / "source", EMBEDDING[architecture]
    model = tiny_model(architecture, tie_word_embeddings=True)
    saved(model, source, "1GB")
    (path,) = source.glob("*.safetensors")
    found = load_file(path)
    found["lm_head.weight"] = found.pop(name)
    if prefix:
        found = {name.removeprefix(model.base_model_prefix + "."): tensor for name, tensor in found.items()}
    save_file(found, path, metadata={"format": "pt"})
    assert torch.equal(load(source).get_input_embeddings().weight, model.get_input_embeddings().weight)
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    got = load(tmp_path / "out")
    assert same(got, pruned(source, tokens)) and set(tensors(tmp_path / "out")) == set(found)
    assert got.lm_head.weight is got.get_input_embeddings().weight


def test_what_a_tied_checkpoint_says_twice_is_read_as_it_is_said(tokens, tmp_path):
    """Two values for one tied weight: transformers does not tie them, so the embedding is the embedding's."""
    source = saved(tiny_model(), tmp_path / "source", "1GB")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert same(load(tmp_path / "out"), pruned(source, tokens))


@pytest.mark.parametrize(("tied", "name"), [(True, "model.embed_tokens.weight"), (False, "model.norm.weight")])
def test_a_parameter_stored_nowhere_is_refused_by_name(tied, name, tokens, tmp_path):
    source = saved(tiny_model(tie_word_embeddings=tied), tmp_path / "source", "1GB")
    rewrite(source, name, lambda tensor: None)
    with pytest.raises(ValueError, match=f"{name} is in no shard: expected all tensors"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert not (tmp_path / "out").exists()


def test_of_two_checkpoints_in_a_folder_the_one_that_transformers_reads(tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source")
    assert (source / INDEX).exists()
    other = tiny_model()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(-2)
    saved(other, tmp_path / "other", "1GB")
    (tmp_path / "other" / "model.safetensors").rename(source / "model.safetensors")
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert same(load(tmp_path / "out"), pruned(source, tokens))


def test_weights_under_another_file_name_are_refused(tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source", "1GB")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    with pytest.raises(ValueError, match=r"names other.safetensors as its weights"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)


def test_the_index_says_how_many_bytes_there_are(tokens, tmp_path):
    source = saved(tiny_model(dtype=torch.bfloat16), tmp_path / "source")
    rewrite(source, "model.norm.weight", lambda tensor: tensor.double())
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    stored = tensors(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values()) > 0
    assert set(index["weight_map"]) == set(stored)
