"""What the README and data/README say of the measurements is what the files say."""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

import pytest

import wanda_nb as wn
from wanda_nb import results
from wanda_nb.sharing import write_card

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def measure():
    spec = importlib.util.spec_from_file_location("measure", ROOT / "data" / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_table_is_made_from_the_file():
    """`python data/measure.py figures` prints it."""
    assert measure().for_readme(wn.measured("wikitext")) in README


def test_every_file_of_results_is_described():
    described = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (*RESULTS, *(ROOT / "data" / "paper").glob("*.csv")):
        assert f"`{path.parent.name}/{path.name}`" in described, path.name


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_holds_what_is_needed_to_run_it_again(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["command"].startswith("python data/")
    assert {"model", "dtype", "device", "machine", "python", "versions", "date", "rows"} <= set(record)
    assert len(record["rows"]) >= 2


@pytest.mark.parametrize("name", ["wikitext", "zero_shot", "seconds", "ablations", "recovery"])
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
    origin = results.provenance(model)
    assert origin["versions"]["wanda-nb"] == "unknown" != origin["versions"]["torch"]
    write_card(tmp_path, wn.prune(model, tokens), 0.5, origin, {}, {})
    address = re.search(r'^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
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
    assert results.model_name(folder) == results.model_name(f"{folder}/") == name
    assert results.model_name("meta-llama/Llama-2-7b-hf") == "meta-llama/Llama-2-7b-hf"
    revision = folder.name if path.startswith("models--") else None
    assert results.revision(folder) == revision and results.revision("meta-llama/Llama-2-7b-hf") is None


def test_links_in_the_pages_resolve():
    for page in (
        ROOT / "README.md",
        ROOT / "data" / "README.md",
        ROOT / "notebooks" / "README.md",
        ROOT / "CONTRIBUTING.md",
    ):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)
