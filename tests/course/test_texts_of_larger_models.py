"""What notebook 11 says of its records, against the records."""

from pathlib import Path

import nbformat

import wanda_nb as wn
from wanda_nb.checks import larger

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "11_a_model_larger_than_memory.ipynb"


def text() -> str:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_fewer_bits_against_fewer_weights():
    rows = {(row["method"], row["bits"]): row for row in wn.measured("formats")["rows"]}
    assert len(rows) == 6
    half, whole = rows["wanda", 8], rows[None, 4]
    assert "**All of the weights at 4 bits win on both counts**" in text()
    assert whole["bytes"] < half["bytes"]
    difference = wn.paired_difference(half["losses"], whole["losses"], neighbours=False)
    assert difference.high < -0.3  # by far
    assert "rounding to 8 costs next to nothing, pruned or not" in text()
    for method in (None, "wanda"):
        assert abs(rows[method, 8]["perplexity"] / rows[method, 16]["perplexity"] - 1) < 0.01
        assert rows[method, 4]["zeros"] > rows[method, 8]["zeros"] >= rows[method, 16]["zeros"]


def test_memory_from_disk_to_disk():
    assert "less than a fifth of its own size in memory" in text()
    readme = (NOTEBOOK.parents[1] / "README.md").read_text(encoding="utf-8")
    most = max(row["ours"]["peak memory"] for row in wn.measured("speed")["rows"])
    assert f"(13.5 GB) took {most / 2**30:.1f} GiB of memory here" in readme
    for row in wn.measured("speed")["rows"]:
        ours = row["ours"]
        assert ours["peak memory"] < 0.2 * ours["written"]
        assert 0.6 < ours["peak memory"] / ours["predicted memory"] <= 1
    ratios = [row["ours"]["peak memory"] / row["ours"]["predicted memory"] for row in wn.measured("speed_gpu")["rows"]]
    assert "one of two runs took 2% more than that" in text()
    assert round(max(ratios), 2) == 1.02


def test_zeros_that_rounding_makes():
    rows = {(row["method"], row["bits"]): row for row in wn.measured("formats")["rows"]}
    assert "Of the dense model, 12% of the weights become zeros at 4 bits" in text()
    assert round(rows[None, 4]["zeros"] - rows[None, 16]["zeros"], 2) == 0.12


def test_what_takes_longest_and_why():
    record = wn.measured("speed")
    assert "*Capture* takes longest, and *select* is not far behind only because the text is short" in text()
    assert "1,024 tokens against 262,144 in the published runs" in text()
    assert record["samples"] * record["length"] == 1024 and record["runs"][0]["dtype"] == "bfloat16"
    for row in record["rows"]:
        phases = row["ours"]["phases"]
        assert max(phases, key=phases.get) == "capture" and 0.5 < phases["select"] / phases["capture"] < 1


def test_when_to_save_on_an_h200_and_where_a_block_takes_minutes():
    best = {seconds: larger._cheapest()(32, 0.1, seconds, 2) for seconds in (0.5, 300)}
    assert best == {0.5: 32, 300: 2}
    assert "On the H200: 32, so never" in text() and "With 300 seconds a block: 2." in text()
    row = wn.measured("speed_gpu")["rows"][0]["ours"]
    assert round(row["phases"]["propagate"] / 32, 1) == 0.5


def test_a_mean_of_squares_is_the_one_fault_that_changes_no_mask():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    printed = next(cell for cell in cells if "checks.shared_runs" in cell.source).outputs[0]["text"]
    rows = {line[0]: line.split()[-5:] for line in printed.splitlines()[1:]}
    same = {(a, b) for a in rows for b, places in zip(rows, rows[a], strict=True) if places == "0" and a < b}
    assert same == {("B", "C")} and "B took the mean of the squares" in text()
