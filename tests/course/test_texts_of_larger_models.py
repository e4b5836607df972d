"""What notebook 11 says of its records, against the records."""

from pathlib import Path

import nbformat

import wanda_nb as wn

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
