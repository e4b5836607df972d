"""python -m wanda_nb, on the small real model: prune, evaluate, recover, one after the other."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import ALPHABET, letters_of, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import wanda_nb as wn
from wanda_nb.__main__ import main, parser

LITTLE = ["--samples", "2", "--length", "32"]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pruned"
    assert main(["prune", "smollm2-135m", str(folder), "--pattern", "2:4", "--device", "cpu", *LITTLE]) == 0
    return folder


def test_prune_does_what_the_library_does(pruned):
    model, tokenizer = wn.load_model()
    wn.prune(model, wn.calibration_tokens(tokenizer, samples=2, length=32), pattern="2:4")
    got = AutoModelForCausalLM.from_pretrained(pruned).state_dict()
    assert all(torch.equal(tensor, got[name]) for name, tensor in model.state_dict().items())
    about = json.loads((pruned / "pruning.json").read_text())
    told = {"source": "c4", "samples": 2, "length": 32, "seed": 0, "windows begin with BOS": False}
    assert about["calibration"] == told
    assert AutoTokenizer.from_pretrained(pruned)("pruned")["input_ids"]


def test_evaluate_keeps_a_record(pruned, tmp_path, capsys):
    record = tmp_path / "found.json"
    words = ["evaluate", str(pruned), "--length", "32", "--windows", "3", "--record", str(record), "--device", "cpu"]
    assert main([*words, "--tasks", "openbookqa", "--limit", "4"]) == 0
    found = json.loads(record.read_text())
    model, tokenizer = wn.load_model(str(pruned))
    expected = wn.perplexity(model, wn.evaluation_tokens(tokenizer, length=32, windows=3))
    assert found["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert found["interval"][0] <= found["perplexity"] <= found["interval"][1]
    assert found["sparsity"] == pytest.approx(0.5, abs=1e-4) and found["tasks"]["openbookqa"]["items"] == 4
    assert found["windows begin with BOS"] is False
    shown = capsys.readouterr().out
    assert "estimate:" in shown and "openbookqa" in shown


@pytest.mark.parametrize("family, words", [("gemma", []), ("llama", ["--bos"]), ("gemma", ["--no-bos"]), ("llama", [])])
def test_bos_is_as_the_family_needs_it_or_as_asked(family, words, tmp_path):
    bos = {"--bos": True, "--no-bos": False}.get("".join(words))
    expected = family == "gemma" if bos is None else bos
    tiny_model().save_pretrained(tmp_path / "tiny")
    letters_of(family).save_pretrained(tmp_path / "tiny")
    (tmp_path / "text.txt").write_text(3 * ALPHABET)
    words = [str(tmp_path / "tiny"), "--text", str(tmp_path / "text.txt"), "--length", "8", "--device", "cpu", *words]
    assert main(["evaluate", *words, "--record", str(tmp_path / "found.json")]) == 0
    words.insert(1, str(tmp_path / "out"))
    assert main(["prune", *words, "--samples", "2"]) == 0
    found, about = (json.loads((tmp_path / name).read_text()) for name in ("found.json", "out/pruning.json"))
    assert found["windows begin with BOS"] is about["calibration"]["windows begin with BOS"] is expected
    windows = wn.evaluation_tokens(letters_of(family), tmp_path / "text.txt", length=8, bos=bos)
    assert found["perplexity"] == pytest.approx(wn.perplexity(tiny_model(), windows), rel=1e-4)


def test_evaluate_killed_goes_on(tmp_path):
    def words(name):
        found = ["evaluate", "smollm2-135m", "--length", "32", "--windows", "4", "--device", "cpu"]
        return [*found, "--tasks", "openbookqa", "--limit", "12", "--batch-size", "1", "--record", f"{tmp_path}/{name}"]

    def answered():
        answers = tmp_path / "killed.answers.tmp"
        if not answers.exists():
            return 0
        try:
            with sqlite3.connect(answers) as file:
                return file.execute("select count(*) from unnamed").fetchone()[0]
        except sqlite3.OperationalError:  # no table yet, or being written
            return 0

    process = subprocess.Popen([sys.executable, "-m", "wanda_nb", *words("killed.json")], stdout=subprocess.DEVNULL)
    while process.poll() is None and answered() < 5:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 5 <= answered() < 48 and not (tmp_path / "killed.json").exists()
    assert len((tmp_path / "killed.losses.tmp").read_text().splitlines()) == 5
    assert main(words("killed.json")) == main(words("whole.json")) == 0
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("killed.json", "whole.json"))
    assert one.pop("seconds") and other.pop("seconds") and one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.json", "whole.json"]


@pytest.mark.parametrize("method", ["lora", "masked"])
def test_recover_keeps_the_zeros_and_goes_on(method, pruned, tmp_path, capsys):
    words = ["recover", str(pruned), str(tmp_path / "out"), "--method", method, "--length", "32", "--windows", "2"]
    words += ["--batch-size", "1", "--steps", "2", "--device", "cpu"]
    assert main(words) == 0
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (pruned, tmp_path / "out"))
    changed = 0
    for one, other in zip(wn.decoder_blocks(before), wn.decoder_blocks(after), strict=True):
        for a, b in zip(wn.linear_layers(one).values(), wn.linear_layers(other).values(), strict=True):
            assert not b.weight[a.weight == 0].any()
            changed += int((a.weight != b.weight).any())
    assert changed >= 30
    record = json.loads((tmp_path / "out" / "recovery.json").read_text())
    assert record["windows begin with BOS"] is False and record["steps"] == 2
    assert record["sparsity"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "smollm2-135m", "out", *LITTLE],
        ["evaluate", "smollm2-135m", "--length", "32", "--windows", "2", "--tasks"],
        ["recover", "smollm2-135m", "out", "--length", "32", "--windows", "2"],
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_estimates_and_leaves_nothing(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "estimate:" in shown and "GiB" in shown and "at least" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune", "no/such-model", "out"], "No model 'no/such-model'"),
        (["prune", "smollm2-135m", "out", "--sparsity", "1.5", *LITTLE], "sparsity=1.5"),
        (["prune", "smollm2-135m", "out", "--text", "nothing.txt", *LITTLE], "No text source 'nothing.txt'"),
        (["prune", "smollm2-135m", "out", "--samples", "9", "--length", "100000"], "Too little text"),
        (["evaluate", "smollm2-135m", "--windows", "1"], "--windows 2 or more"),
        (["recover", "smollm2-135m", "out", "--length", "9999999"], "Too little text"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


def test_the_readmes_commands_are_commands():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    lines = [line.partition("#")[0] for line in readme.splitlines() if "-m wanda_nb " in line]
    asked = [parser().parse_args(line.partition("-m wanda_nb ")[2].split()) for line in lines]
    assert {one.command for one in asked} == {"prune", "evaluate", "recover"} and len(asked) == 5


def test_help_and_version_as_a_newcomer_types_them():
    for words, expected in ((["--help"], "recover"), (["prune", "--help"], "--dry-run"), (["--version"], "wanda-nb ")):
        done = subprocess.run(
            [sys.executable, "-m", "wanda_nb", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "99"},
        )
        assert done.returncode == 0 and expected in done.stdout and not done.stderr, done


def test_a_notebook_takes_parameters(tmp_path):
    papermill = pytest.importorskip("papermill")
    source = Path(__file__).parent.parent / "notebooks" / "00_quickstart.ipynb"
    wanted = {"samples": 2, "length": 64, "windows": 2, "seed": 1}
    book = papermill.execute_notebook(source, tmp_path / "out.ipynb", wanted, kernel_name="python3", progress_bar=False)
    shown = [
        output["data"]["text/plain"] for cell in book.cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert "torch.Size([2, 64])" in shown and "torch.Size([2, 512])" in shown
