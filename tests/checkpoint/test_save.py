"""What is saved is what was pruned: plain transformers reads it, and the small file gives back every bit."""

import json
import os

import pytest
import torch
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


class Failing(Tokenizer):
    def save_pretrained(self, folder):
        super().save_pretrained(folder)
        raise OSError("disk full")


@pytest.mark.parametrize("exists", [False, True])
def test_it_is_there_whole_or_not_at_all(exists, model, report, tmp_path):
    folder = tmp_path / "deep" / "pruned"
    if exists:
        folder.mkdir(parents=True)
    with pytest.raises(OSError, match="disk full"):
        wn.save_pruned(model, Failing(), folder, report)
    assert list((tmp_path / "deep").rglob("*")) == [folder] * exists
    assert wn.save_pruned(model, Tokenizer(), folder, report) == folder
    assert AutoModelForCausalLM.from_pretrained(folder) and list((tmp_path / "deep").iterdir()) == [folder]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_it_gets_its_name_when_all_is_on_the_disk(model, report, tmp_path, monkeypatch):
    synced, folder = set(), tmp_path / "pruned"
    monkeypatch.setattr("wanda_nb.checkpoint.save.sync", lambda path: synced.add((path.name, folder.exists())))
    wn.save_pruned(model, Tokenizer(), folder, report)
    assert synced == {(path.name, False) for path in (folder, *folder.iterdir())} | {(tmp_path.name, True)}


def test_a_file_of_that_name_is_left_alone(model, report, tmp_path):
    (tmp_path / "mine").write_text("work")
    with pytest.raises(FileExistsError, match="not empty"):
        wn.save_pruned(model, Tokenizer(), tmp_path / "mine", report)
