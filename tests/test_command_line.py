"""python -m wanda_nb, on the small real model: prune, evaluate, recover, one after the other."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from tiny import ALPHABET, letters_of, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import wanda_nb as wn
from wanda_nb import calibration
from wanda_nb.__main__ import main, parser
from wanda_nb.recovery import training
from wanda_nb.reporting import unfinished

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


def test_an_update_takes_a_damping(small, tmp_path, capsys):
    given = ["prune", str(small / "a"), str(tmp_path / "out"), "--text", str(small / "text.txt"), "--device", "cpu"]
    given += [*LITTLE, "--damping", "0.5"]
    assert main(given) == 2 and "damping=0.5 with no update" in capsys.readouterr().err
    assert main([*given, "--update", "least-squares"]) == 0
    model, tokenizer = wn.load_model(small / "a", device="cpu", dtype=torch.float32)
    tokens = wn.calibration_tokens(tokenizer, source=small / "text.txt", samples=2, length=32)
    wn.prune(model, tokens, update="least-squares", damping=0.5)
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, got[name]) for name, tensor in model.state_dict().items())
    about = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert (about["weight update"], about["damping"]) == ("least-squares", 0.5)
    assert "least-squares update, damping 0.5:" in capsys.readouterr().out


def test_evaluate_keeps_a_record(pruned, tmp_path, capsys):
    record = tmp_path / "found.json"
    words = ["evaluate", str(pruned), "--length", "32", "--windows", "8", "--record", str(record), "--device", "cpu"]
    assert main([*words, "--tasks", "openbookqa", "--limit", "4"]) == 0
    found = json.loads(record.read_text())
    model, tokenizer = wn.load_model(str(pruned))
    expected = wn.perplexity(model, wn.evaluation_tokens(tokenizer, length=32, windows=8))
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
        found = ["evaluate", "smollm2-135m", "--length", "32", "--windows", "8", "--device", "cpu"]
        return [*found, "--tasks", "openbookqa", "--limit", "12", "--batch-size", "1", "--record", f"{tmp_path}/{name}"]

    def answered():
        answers = tmp_path / "killed.answers.tmp"
        return len(answers.read_text().splitlines()) - 1 if answers.exists() else 0

    process = subprocess.Popen([sys.executable, "-m", "wanda_nb", *words("killed.json")], stdout=subprocess.DEVNULL)
    while process.poll() is None and answered() < 5:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 5 <= answered() < 48 and not (tmp_path / "killed.json").exists()
    assert len((tmp_path / "killed.losses.tmp").read_text().splitlines()) == 9
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two models that read the real tokenizer's tokens, and text: in a folder, a, b and text.txt."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = AutoTokenizer.from_pretrained(wn.model_folder())
    for name, epsilon in (("a", 1e-6), ("b", 1e-2)):  # their weights are the same
        model = tiny_model(vocab_size=len(tokenizer), rms_norm_eps=epsilon)
        wn.prune(model, None, method="magnitude")
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name in ("text", "more"):
        (folder / f"{name}.txt").write_text(" ".join(f"Sentence {number} of {name}." for number in range(99)))
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_work(monkeypatch):
    for name in ("load_model", "training_tokens", "evaluation_tokens"):
        monkeypatch.setattr(wn, name, lambda *_, **__: pytest.fail("work was done"))


def calibrating(small, path, *more):
    return ["calibrate", str(small / "a"), str(path), "--text", str(small / "text.txt"), "--samples", "4",
            "--length", "16", "--device", "cpu", *more]  # fmt: skip


def test_calibrate_then_prune_without_text(small, tmp_path, monkeypatch, capsys):
    path = tmp_path / "norms.safetensors"
    assert main(calibrating(small, path, "--dry-run")) == 0 and not [*tmp_path.iterdir()]
    assert main(calibrating(small, path)) == 0 and [*tmp_path.iterdir()] == [path]
    shown = capsys.readouterr().out
    assert "estimate: memory" in shown and "norms of 21 layers of a over 64 tokens" in shown and "saved: " in shown
    tokenizer = AutoTokenizer.from_pretrained(small / "a")
    tokens = wn.calibration_tokens(tokenizer, small / "text.txt", samples=4, length=16)
    found, expected = wn.load_calibration(path), wn.calibrate(small / "a", tokens)
    assert all(torch.equal(found.sums[name], expected.sums[name]) for name in expected)
    told = {"source": str(small / "text.txt"), "samples": 4, "length": 16, "seed": 0}
    assert {key: found.texts()[0][key] for key in told} == told
    no_work(monkeypatch)
    monkeypatch.setattr(wn, "calibration_tokens", lambda *_, **__: pytest.fail("text was read"))
    words = ["prune", str(small / "a"), str(tmp_path / "out"), "--device", "cpu", "--pattern", "2:4"]
    assert main([*words, "--calibration", str(path)]) == 0
    assert "norms of the dense model" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(small / "a")
    wn.prune(model, calibration=expected, pattern="2:4")
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, got[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(SystemExit):
        main([*words, "--calibration", str(path), "--text", "wikipedia"])


def test_calibrate_overwrites_nothing_and_goes_on(small, tmp_path, monkeypatch, capsys):
    path, taken = tmp_path / "norms.safetensors", tmp_path / "notes"
    taken.write_text("my notes")
    assert main(calibrating(small, taken)) == 2 and "is there already" in capsys.readouterr().err
    assert main(calibrating(small, tmp_path / "no" / "folder")) == 2
    assert "in no folder that exists" in capsys.readouterr().err and taken.read_text() == "my notes"

    def breaks(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(calibration, "settle", breaks)
        main(calibrating(small, path))
    save, saved = calibration.Calibration.save, []
    monkeypatch.setattr(calibration.Calibration, "save", lambda part, path: saved.append(path) or save(part, path))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(calibration.Calibration, "save", lambda part, at: save(part, at) if at != path else breaks())
        main(calibrating(small, path))
    assert main(calibrating(small, path)) == 0 and saved == [path]
    assert {p.name for p in tmp_path.iterdir()} == {"norms.safetensors", "notes"}


def recovering(small, source, destination, *more):
    return ["recover", str(source), str(destination), "--text", str(small / "text.txt"), "--length", "16",
            "--batch-size", "2", "--steps", "2", "--device", "cpu", *more]  # fmt: skip


@pytest.mark.parametrize("destination", ["a", "link", "a/../a", "a/inside", ".", "deep/../a"])
def test_recover_never_writes_where_it_reads(small, destination, tmp_path, monkeypatch, capsys):
    shutil.copytree(small / "a", tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "deep").mkdir()
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    no_work(monkeypatch)
    assert main(recovering(small, tmp_path / "a", destination)) == 2
    assert "overlap: choose another destination" in capsys.readouterr().err and contents(tmp_path) == before


def test_recover_leaves_what_is_not_of_the_same_run(small, tmp_path, monkeypatch, capsys):
    shutil.copytree(small / "b", tmp_path / "other")
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "recovery.json").write_text('{"command": "recover", "steps": 2}')
    monkeypatch.setattr(wn, "load_model", lambda *_, **__: pytest.fail("work was done"))
    before = contents(tmp_path)
    for name, message in (("other", "is not empty"), ("record", "is no record of this command")):
        assert main(recovering(small, small / "a", tmp_path / name)) == 2
        assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("method", ["lora", "masked"])
def test_recover_goes_on_and_is_done_once(small, method, tmp_path, monkeypatch, capsys):
    how = ["--method", method]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(recovering(small, small / "a", straight, *how)) == 0

    def breaks(*_, **__):
        raise KeyboardInterrupt

    for what, name in ((training.Track, "on_step_end"), (wn, "sparsity")):  # in the first step; while writing the end
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(what, name, breaks)
            main(recovering(small, small / "a", broken, *how))
    assert main(recovering(small, small / "a", broken, *how)) == 0
    one, other = (json.loads((folder / "recovery.json").read_text()) for folder in (straight, broken))
    assert one.pop("seconds") and other.pop("seconds") is not None and one == other and len(one["loss"]) == 2
    assert (straight / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    before = contents(broken)
    capsys.readouterr()
    monkeypatch.setattr(wn, "recover", lambda *_, **__: pytest.fail("work was done"))
    assert main(recovering(small, small / "a", broken, *how)) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(recovering(small, small / "b", broken, *how)) == 2
    assert "with other arguments (model)" in capsys.readouterr().err
    words = ["--method", "lora" if method == "masked" else "masked", "--text", str(small / "more.txt"), "--steps", "3"]
    words += ["--accumulate", "2", "--learning-rate", "0.1", "--seed", "1", "--batch-size", "1"]
    assert main([*recovering(small, small / "a", broken), *words]) == 2
    keys = "method, text, tokens, steps, accumulate, learning_rate, seed, batch_size)"
    assert f"with other arguments ({keys}" in capsys.readouterr().err
    assert contents(broken) == before


def evaluating(small, name, *more):
    return ["evaluate", str(small / name), "--text", str(small / "text.txt"), "--length", "16", "--windows", "8",
            "--device", "cpu", *more]  # fmt: skip


def test_evaluate_overwrites_no_record_but_its_own(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(evaluating(small, "a")) == 0
    before = contents(tmp_path)
    assert list(before) == [Path("evaluation.json")]
    monkeypatch.setattr(wn, "window_losses", lambda *_, **__: pytest.fail("work was done"))
    capsys.readouterr()
    assert main(evaluating(small, "a")) == 0 and "finished before" in capsys.readouterr().out
    assert main(evaluating(small, "b")) == 2
    assert "with other arguments (model)" in capsys.readouterr().err
    monkeypatch.setattr(wn, "load_model", lambda *_, **__: pytest.fail("work was done"))
    words = ["--text", str(small / "more.txt"), "--windows", "9", "--limit", "4", "--tasks", "--source", "hub"]
    assert main(evaluating(small, "a", *words)) == 2
    assert "with other arguments (text, windows, tokens, limit, tasks, source)." in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_evaluate_leaves_a_foreign_record(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wn, "load_model", lambda *_, **__: pytest.fail("work was done"))
    record = tmp_path / "notes"
    record.write_text("my notes")
    assert main(evaluating(small, "a", "--record", str(record))) == 2
    assert "notes is no record of this command" in capsys.readouterr().err and record.read_text() == "my notes"


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"perplexity": 3.5}', b'{"asked": 1}', b"\xff\xfe", b"[" * 100_000, b"null"], ids=len
)
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "notes").write_bytes(content)
    with pytest.raises(FileExistsError, match="notes is no record of this command"):
        unfinished.same_call(tmp_path / "notes", {"text": "c4"})


@pytest.mark.parametrize("processes", [None, "2"])
@pytest.mark.parametrize(
    "device", ["foo", "cuda:99", "meta", "cpu:-1", ""] + ["cuda"] * (not torch.cuda.is_available())
)
@pytest.mark.parametrize("command", ["calibrate", "prune", "evaluate", "recover"])
def test_a_device_that_is_not_there_is_said_in_one_line(command, device, processes, monkeypatch, capsys):
    if processes:
        monkeypatch.setenv("WORLD_SIZE", processes)
        monkeypatch.setenv("LOCAL_RANK", "1")
    no_work(monkeypatch)
    assert main([command, "nothing", *["out"] * (command != "evaluate"), "--device", device]) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.startswith("error: device=") and len(shown.err.splitlines()) == 1
    assert "is not usable here: expected cpu" in shown.err


def test_the_library_says_the_same(tmp_path):
    model, tokens = tiny_model(), torch.ones(2, 4, dtype=torch.long)
    for call in (
        lambda: wn.load_model(device="foo"),
        lambda: wn.prune(model, tokens, device="foo"),
        lambda: wn.prune_checkpoint(tmp_path / "in", tmp_path / "out", tokens, device="foo"),
        lambda: wn.estimate_checkpoint(tmp_path / "in", tokens, device="foo"),
    ):
        with pytest.raises(ValueError, match="device='foo' is not usable here"):
            call()
    assert wn.sparsity(model) < 0.01 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "smollm2-135m", "out", *LITTLE],
        ["evaluate", "smollm2-135m", "--length", "32", "--windows", "8", "--tasks"],
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
        (["evaluate", "smollm2-135m", "--windows", "7"], "7 windows: expected 8 or more for an interval"),
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
    book = nbformat.read(Path(__file__).parent.parent / "notebooks" / "00_quickstart.ipynb", 4)
    last = next(place for place, cell in enumerate(book.cells) if "= wn.calibration_tokens(" in cell.source)
    book.cells = book.cells[: last + 1]  # what follows takes a minute, and no parameter
    nbformat.write(book, tmp_path / "in.ipynb")
    wanted = {"samples": 2, "length": 64, "windows": 2, "seed": 1}
    given, done = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    book = papermill.execute_notebook(given, done, wanted, kernel_name="python3", progress_bar=False)
    shown = [
        output["data"]["text/plain"] for cell in book.cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert "torch.Size([2, 64])" in shown and "torch.Size([2, 512])" in shown


def test_a_model_under_terms_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDA_NB_CACHE", str(tmp_path))
    monkeypatch.setattr("wanda_nb.inputs.assets.fetch", lambda wheel: {wheel: tmp_path / wheel})
    for command in (["prune", "gemma3-270m", str(tmp_path / "out")], ["evaluate", "gemma3-270m"]):
        assert main(command) == 2
        assert re.match(
            r"error: gemma3-270m may .* file:///.*\(--accept-terms on the command line\)\.\n$", capsys.readouterr().err
        )
