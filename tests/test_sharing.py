"""What is saved is what was pruned: plain transformers reads it, and the small file gives back every bit."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM

import wanda_nb as wn


class Tokenizer:
    """Stands in for a tokenizer that is saved."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def report(model, tokens):
    return wn.prune(model, tokens, pattern="2:4")


def test_plain_transformers_reads_it(model, report, tokens, tmp_path):
    about = {"source": "c4", "seed": 0}
    folder = wn.save_pruned(model, Tokenizer(), tmp_path / "pruned", report, calibration=about, perplexity=12.5)
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(again(tokens).logits, model(tokens).logits) and wn.sparsity(again) == 0.5
    noted = json.loads((folder / "pruning.json").read_text())
    assert (noted["method"], noted["pattern"], noted["sparsity"], noted["perplexity"]) == ("wanda", "2:4", 0.5, 12.5)
    assert noted["calibration"] == {
        "source": "c4", "seed": 0, "samples": 6, "length": 12, "windows begin with BOS": False,
    }  # fmt: skip
    assert {"torch", "transformers", "wanda-nb"} <= set(noted["versions"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "library_name: transformers" in card
    assert "| pattern | 2:4 |" in card and "source c4, seed 0" in card and "| perplexity | 12.5 |" in card
    assert os.fspath(tmp_path) not in card + (folder / "pruning.json").read_text()


def test_bos_in_every_window_is_said(model, tokens, tmp_path):
    tokens[:, 0] = model.config.bos_token_id
    report = wn.prune(model, tokens)
    assert report.bos is True and ", each window with BOS: " in report.headline()
    folder = wn.save_pruned(model, Tokenizer(), tmp_path / "pruned", report)
    assert json.loads((folder / "pruning.json").read_text())["calibration"]["windows begin with BOS"] is True
    tokens[-1, 0] = 5
    assert wn.prune(model, tokens).bos is False


def test_filled_zeros_are_noticed(model, report, tmp_path):
    wn.decoder_blocks(model)[0].self_attn.q_proj.weight.data.add_(0.1)
    with pytest.raises(ValueError, match="something filled zeros"):
        wn.save_pruned(model, Tokenizer(), tmp_path / "pruned", report)
    assert not (tmp_path / "pruned").exists()


def test_nothing_is_overwritten(model, report, tmp_path):
    (tmp_path / "mine.txt").write_text("work")
    with pytest.raises(FileExistsError, match="not empty"):
        wn.save_pruned(model, Tokenizer(), tmp_path, report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_compressed_gives_back_every_bit(architecture, dtype, tokens, tmp_path):
    model = tiny_model(architecture, dtype)
    wn.prune(model, tokens, sparsity=0.6)
    layer = next(iter(wn.linear_layers(wn.decoder_blocks(model)[0]).values()))
    layer.weight.data[0, :3] = torch.tensor([-0.0, torch.finfo(dtype).tiny / 2, -1.0])  # signed zero, subnormal
    size = wn.save_compressed(model, tmp_path / "small.safetensors")
    assert size == (tmp_path / "small.safetensors").stat().st_size
    empty = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    again = wn.load_compressed(empty, tmp_path / "small.safetensors").state_dict()
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name].view(bits), tensor.view(bits)), name


def test_the_size_shows_the_sparsity(tokens, tmp_path):
    sizes, pruned = {}, 0
    for sparsity in (0, 0.25, 0.5, 0.75):
        model = tiny_model(hidden_size=128, intermediate_size=256, num_attention_heads=4, head_dim=32)
        wn.prune(model, tokens, sparsity=sparsity)
        sizes[sparsity] = wn.save_compressed(model, tmp_path / f"{sparsity}.safetensors")
        pruned = sum(m.weight.numel() for b in wn.decoder_blocks(model) for m in wn.linear_layers(b).values())
    bitmask = pruned / 8
    for sparsity in (0.25, 0.5, 0.75):
        saved = sizes[0] - sizes[sparsity]
        assert saved == pytest.approx(4 * sparsity * pruned - bitmask, rel=0.02)  # and a few hundred bytes of names


def test_tied_weights_are_stored_once(tokens, tmp_path):
    tied, loose = (tiny_model(tie_word_embeddings=tie) for tie in (True, False))
    sizes = [wn.save_compressed(model, tmp_path / "x.safetensors") for model in (tied, loose)]
    assert sizes[1] - sizes[0] >= 96 * 32 * 4
    wn.save_compressed(tied, tmp_path / "tied.safetensors")
    again = wn.load_compressed(tiny_model(tie_word_embeddings=True, num_hidden_layers=3), tmp_path / "tied.safetensors")
    assert torch.equal(again.lm_head.weight, tied.lm_head.weight)


def test_files_that_do_not_fit(model, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no file of save_compressed"):
        wn.load_compressed(model, tmp_path / "other.safetensors")
    wn.save_compressed(model, tmp_path / "small.safetensors")
    for other in (tiny_model(num_hidden_layers=4), tiny_model(intermediate_size=64)):
        with pytest.raises(ValueError, match="does not fit"):
            wn.load_compressed(other, tmp_path / "small.safetensors")
