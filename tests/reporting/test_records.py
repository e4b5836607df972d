"""What the README and data/README say of the measurements is what the files say."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.checkpoint.skeleton import Skeleton
from wanda_nb.reporting import records

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))
NORMS = ROOT / "data" / "results" / "norms.safetensors"
README = (ROOT / "README.md").read_text(encoding="utf-8")


sys.path.insert(0, str(ROOT / "data"))
from experiments.figures import for_readme, order_for_readme  # noqa: E402


def test_the_readmes_tables_are_made_from_the_files():
    """`python data/measure.py figures` prints it."""
    assert for_readme(wn.measured("wikitext")) in README
    assert order_for_readme() in README


def test_the_readmes_table_tells_an_updated_mask_from_a_bare_one():
    rows = [
        {"method": None, "pattern": None, "losses": [1.0] * 8},
        {"method": "wanda", "pattern": None, "losses": [2.0] * 8},
        {"method": "wanda", "update": "least-squares", "pattern": None, "losses": [3.0] * 8},
    ]
    lines = for_readme({"rows": rows}).splitlines()
    assert "| wanda | 7.4 (7.4–7.4) |" in lines[3] and "| wanda + least squares | 20.1 (20.1–20.1) |" in lines[5]


def test_every_file_of_results_is_described():
    described = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (*RESULTS, NORMS, *(ROOT / "data" / "paper").glob("*.csv")):
        assert f"`{path.parent.name}/{path.name}`" in described, path.name


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_holds_what_is_needed_to_run_it_again(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    _, script, *words = record["command"].split()
    code = (ROOT / script).read_text(encoding="utf-8")
    assert script != "data/measure.py" or f'"{words[0]}": ' in code, "the command does not know this record"
    needed = {
        "model",
        "weights",
        "data",
        "dtype",
        "device",
        "machine",
        "python",
        "versions",
        "script",
        "commit",
        "date",
    }
    assert all(needed <= set(run) for run in record["runs"])
    assert record["rows"] and {row["run"] for row in record["rows"]} == set(range(len(record["runs"])))


@pytest.mark.parametrize("name", ["wikitext", "zero_shot", "seconds", "ablations", "recovery", "shapes"])
def test_published_numbers_have_a_source_and_a_grade(name):
    table = wn.published(name)
    assert len(table) and table["source"].notna().all() and table["grade"].isin(["A", "B", "C"]).all()


def test_published_numbers_as_they_were_published():
    """A few, against the README of the authors' repository and the paper's first version."""
    table = wn.published("wikitext").set_index(["model", "size", "pattern", "method", "context"])["perplexity"]
    assert table["LLaMA-2", "7B", "50%", "wanda", 4096] == 6.42
    assert table["LLaMA-2", "70B", "2:4", "sparsegpt", 4096] == 5.40
    assert table["LLaMA-2", "13B", "dense", "dense", 4096] == 4.57
    recovery = wn.published("recovery").set_index("what")["value"]
    assert recovery["perplexity before"] == 7.26 and recovery["perplexity after LoRA"] == 6.87


def test_links_in_the_pages_resolve():
    for page in (
        ROOT / "README.md",
        ROOT / "data" / "README.md",
        ROOT / "notebooks" / "README.md",
        ROOT / "CONTRIBUTING.md",
    ):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_shipped_norms_are_of_the_pinned_model_and_of_no_other():
    norms = wn.load_calibration("smollm2-135m")
    skeleton = Skeleton(wn.model_folder("smollm2-135m"))
    norms.check(skeleton.identity())
    layers = {f"model.layers.{b}.{name}" for b, block in enumerate(skeleton.blocks) for name in wn.linear_layers(block)}
    assert set(norms) == layers
    with pytest.raises(ValueError, match="The calibration is of another model than LlamaForCausalLM"):
        wn.prune(tiny_model(), calibration=norms)


def test_the_shipped_norms_are_made_by_the_command_that_is_stated():
    described = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    command = re.search(r"`python -m wanda_nb calibrate smollm2-135m (.*?)`", described)[1]
    assert command == "data/results/norms.safetensors --samples 128 --length 256"
    norms = wn.load_calibration("smollm2-135m")
    (text,) = norms.texts()
    made = {"source": "c4", "samples": 128, "length": 256, "seed": 0, "windows begin with BOS": False}
    assert made.items() <= text.items() and set(norms.tokens.values()) == {128 * 256}
    assert norms.statistic == "norm" and norms.about["texts"][0]["made"]["dtype"] == "float32"


def test_a_package_without_its_repository_brings_the_norms(tmp_path, monkeypatch):
    """What pyproject.toml puts into a wheel is found where the wheel is unpacked."""
    built = re.search(r"^force-include = \{(.*)\}", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    for source, target in re.findall(r'"([^"]+)" = "([^"]+)"', built):
        shutil.copytree(ROOT / source, tmp_path / target)
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "wanda_nb")
    assert wn.load_calibration("smollm2-135m").digest() == wn.load_calibration(NORMS).digest()
    assert wn.measured("order")["rows"]
    (tmp_path / "wanda_nb" / "data" / "results" / "norms.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no data/results/norms\.safetensors"):
        wn.load_calibration("smollm2-135m")
