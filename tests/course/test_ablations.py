"""What notebook 09 says of its records: every verdict, and the numbers as they are written in it."""

import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

import wanda_nb as wn
from wanda_nb.evaluation.claims import compared

BOOK = next((Path(__file__).parents[2] / "notebooks").glob("09_*.ipynb"))
TEXT = "\n".join(c.source for c in nbformat.read(BOOK, as_version=4).cells if c.cell_type == "markdown")


def setting(record, **values):
    """Losses (windows,) by draw; None for a setting that reads no text."""
    rows = [row for row in wn.measured(record)["rows"] if all(row[key] == value for key, value in values.items())]
    assert rows, (record, values)
    return {None if len(rows) == 1 else row["seed"]: np.array(row["losses"]) for row in rows}


def sparsity(method, share):
    return setting("sparsity", method=method, sparsity=share)


def group(method, by):
    return setting("groups", method=method, group=by)


def text(source, samples):
    return setting("calibration", source=source, samples=samples)


# a, b, and how many per cent the perplexity of b is above that of a, as it is written; None: no winner, and what is
# written is half the width of the interval; "": no winner, for another reason
SAID = [
    (sparsity("wanda", 0.5), sparsity("sparsegpt", 0.5), -1, "7%"),
    (sparsity("wanda", 0.1), sparsity("magnitude", 0.1), -1, "1%"),
    (sparsity("wanda", 0.2), sparsity("magnitude", 0.2), 1, "5%"),
    (group("wanda", "output"), group("wanda", "layer"), 1, "26%"),
    (group("magnitude", "output"), group("magnitude", "layer"), 1, "23%"),
    (group("magnitude", "output"), group("magnitude", "input"), -1, "64%"),
    (group("ria", "output"), group("ria", "layer"), 0, "1.5%"),
    (group("wanda", "output"), group("ria", "output"), 0, "2.2%"),
    (group("wanda", "output"), group("ria", "layer"), 0, "2.2%"),
    (group("wanda", "output"), group("wanda-variant", None), 1, "4%"),
    (group("wanda", "layer"), group("wanda-variant", None), -1, "17%"),
    (text("c4", 1), text("c4", 4), -1, "11.5%"),
    (text("wikipedia", 1), text("wikipedia", 4), -1, "9.5%"),
    (text("c4", 4), text("c4", 16), 0, "2.0%"),
    (text("c4", 16), text("c4", 64), 0, "2.0%"),
    (text("c4", 4), text("c4", 64), -1, "2.7%"),
    (text("wikipedia", 4), text("wikipedia", 16), -1, "4.2%"),
    (text("wikipedia", 16), text("wikipedia", 64), 0, "0.9%"),
    (text("c4", 1), text("wikipedia", 1), 0, ""),
    (text("c4", 4), text("wikipedia", 4), 0, ""),
    (text("c4", 16), text("wikipedia", 16), -1, "3.9%"),
    (text("c4", 64), text("wikipedia", 64), -1, "3.3%"),
    (text("c4", 1), text("c4", 64), -1, "14%"),
    (text("wikipedia", 1), text("wikipedia", 64), -1, "13%"),
]


@pytest.mark.parametrize("a, b, side, written", SAID)
def test_each_difference_is_as_written(a, b, side, written):
    found = compared({"a": a, "b": b}, "a", "b")
    assert (found.above(0) - found.below(0)) == side
    value, low, high = found.interval
    if not written:
        assert min(found.draws) < 0 < max(found.draws)
        return
    number = math.expm1(value if side else (high - low) / 2)
    assert f"{100 * abs(number):.{1 if '.' in written else 0}f}%" == written
    assert re.search(rf"(?<![\d.]){re.escape(written)}", TEXT)


def test_where_each_method_breaks():
    record = wn.measured("sparsity")
    medians = {
        (method, share): np.median([r["perplexity"] for r in record["rows"] if (r["method"], r["sparsity"]) == key])
        for key in {(r["method"], r["sparsity"]) for r in record["rows"]}
        for method, share in [key]
    }
    for method, below, above in (("magnitude", 0.3, 0.4), ("wanda", 0.4, 0.5)):
        assert medians[method, below] < 2 * record["dense"] < medians[method, above]
    assert 2 * record["dense"] < medians["sparsegpt", 0.5] < 1.02 * 2 * record["dense"]  # "just above"


def test_by_input_magnitude_and_wanda_are_one_method():
    (alone,) = group("magnitude", "input").values()
    assert all(np.array_equal(alone, one) for one in group("wanda", "input").values())


def test_sparsegpts_lead_grows_with_sparsity_whatever_draws_there_are():
    said = {0.6: ("by about a fifth at 60%", 0.15, 0.25), 0.8: ("at 80% its perplexity is less than a tenth", 0.9, 1)}
    leads = []
    for share in (0.5, 0.6, 0.7, 0.8):
        found = compared({"a": sparsity("wanda", share), "b": sparsity("sparsegpt", share)}, "a", "b")
        assert found.below(0)
        leads.append(-math.expm1(found.interval.value))
        text, least, most = said.get(share, ("", 0, 1))
        assert text in TEXT and least < leads[-1] < most
    assert leads == sorted(leads)


def test_how_far_wandas_draws_lie_apart():
    assert "about 1% or less up to 50%, by about 6% at 60%, 9% at 70%, and by a factor of two at 80%" in TEXT
    said = {0.1: (0, 0.0125), 0.5: (0, 0.0125), 0.6: (0.055, 0.065), 0.7: (0.085, 0.095), 0.8: (1, 1.5)}
    for share, (least, most) in said.items():
        rows = [r for r in wn.measured("sparsity")["rows"] if (r["method"], r["sparsity"]) == ("wanda", share)]
        found = [row["perplexity"] for row in rows]
        assert least < max(found) / min(found) - 1 < most


def test_published_by_input_is_worse_than_by_layer_for_wanda_and_better_for_magnitude():
    """As in the record, where both scores are one method by input."""
    table = wn.published("ablations")
    table = table[table["samples"].fillna(128) == 128].set_index(["method", "group"])["perplexity"]
    assert table["wanda", "input"] == table["magnitude", "input"]
    assert table["wanda", "input"] > table["wanda", "layer"] > table["wanda", "output"]
    assert table["magnitude", "input"] < table["magnitude", "layer"]
    for scored, better in (("wanda", "layer"), ("magnitude", "input")):
        worse = "input" if better == "layer" else "layer"
        assert compared({"a": group(scored, better), "b": group(scored, worse)}, "a", "b").above(0)
