"""What the README and data/README say of the measurements is what the files say."""

import json
import re
import sys
from pathlib import Path

import pytest

import wanda_nb as wn

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


sys.path.insert(0, str(ROOT / "data"))
from experiments.figures import for_readme, order_for_readme  # noqa: E402


def test_the_readmes_tables_are_made_from_the_files():
    """`python data/measure.py figures` prints it."""
    assert for_readme(wn.measured("wikitext")) in README
    assert order_for_readme() in README


def test_every_file_of_results_is_described():
    described = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (*RESULTS, *(ROOT / "data" / "paper").glob("*.csv")):
        assert f"`{path.parent.name}/{path.name}`" in described, path.name


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_holds_what_is_needed_to_run_it_again(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["command"].startswith("python data/")
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
