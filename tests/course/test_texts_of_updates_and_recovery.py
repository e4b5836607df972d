"""What notebooks 05 and 08 say in words of their records: a record measured again must not leave a text behind."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest

import wanda_nb as wn
from wanda_nb.evaluation.claims import by_draw, compared, way

PATTERNS = ("50%", "2:4")


TEXTS = ("c4", "wikitext")
SQUARES = "wanda + least squares"


def by_windows(before: str, after: str, pattern: str) -> dict[int, list]:
    """{windows: after minus before, on each text}, where both were measured."""
    found = {}
    for samples in (1, 4, 16, 64, 128):
        rows = [row for row in wn.measured("decisive")["rows"] if row.get("samples") == samples]
        found[samples] = [compared(by_draw(rows, text), (before, pattern), (after, pattern)) for text in TEXTS]
    return {samples: pair for samples, pair in found.items() if None not in pair}


def ahead_from(before: str, after: str, pattern: str) -> int:
    """From how many windows on the second is ahead on both texts."""
    found = by_windows(before, after, pattern)
    behind = [samples for samples, pair in found.items() if not all(c.below(0) for c in pair)]
    return min(samples for samples in found if samples > max(behind, default=0))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_update_overfits_one_window_and_helps_with_enough(pattern):
    for update in (SQUARES, "sparsegpt"):
        assert all(c.above(0) for c in by_windows("wanda", update, pattern)[1])
    assert ahead_from("wanda", SQUARES, pattern) <= 16 and ahead_from("sparsegpt", SQUARES, pattern) <= 64


def test_the_second_half_chooses_the_damping_that_is_best_on_wikipedia():
    book = nbformat.read(next((Path(__file__).parents[2] / "notebooks").glob("05_*.ipynb")), as_version=4)
    cell = next(cell for cell in book.cells if "def by_damping" in cell.source)
    table = cell.outputs[-1]["data"]["text/plain"].splitlines()[3:]
    rows = [[float(number) for number in line.split()[-5:]] for line in table]  # damping, then each layer and count
    half, wikipedia = rows[:4], rows[4:]
    chosen, best = ([min(text, key=lambda row: row[i])[0] for i in range(1, 5)] for text in (half, wikipedia))
    assert chosen == best and min(best) > 0.01
    assert best[0] > best[1] and best[2] > best[3]  # the fewer the tokens, the more damping


def with_damping(samples: int, damping: float) -> dict:
    """Losses after so many windows: of updates with this damping, and of Wanda alone."""
    rows = [row for row in wn.measured("damping")["rows"] if row.get("samples") == samples]
    return by_draw([row for row in rows if row.get("damping", damping) == damping])


def test_the_less_text_the_more_damping_for_least_squares():
    alone, updated = ("wanda", "50%"), (SQUARES, "50%")
    best = {}
    for samples in (1, 16, 64):
        found = {damping: compared(with_damping(samples, damping), alone, updated) for damping in (0.01, 0.1, 1.0)}
        best[samples] = min(found, key=lambda damping: found[damping].interval.value)
    assert best[1] > best[16] >= best[64]
    one, twice = (compared(with_damping(1, damping), alone, updated) for damping in (1.0, 0.01))
    assert 1.8 < math.exp(twice.interval.value) < 2.3 and one.below(0)
    assert round(100 * math.exp(one.interval.value)) == 97


def test_sparsegpt_gains_less_from_damping_and_too_much_of_it_hurts():
    sparsegpt = "sparsegpt", "50%"
    assert all(compared(with_damping(1, damping), ("wanda", "50%"), sparsegpt).above(0) for damping in (0.01, 0.1, 1.0))
    usual, much = (with_damping(16, damping)[sparsegpt] for damping in (0.01, 1.0))
    assert compared({("a", ""): usual, ("b", ""): much}, ("a", ""), ("b", "")).above(0)


def test_two_four_needs_less_text_and_sparsegpt_more():
    assert ahead_from("wanda", SQUARES, "2:4") < ahead_from("wanda", SQUARES, "50%")
    assert ahead_from("wanda", SQUARES, "50%") < ahead_from("wanda", "sparsegpt", "50%")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_most_of_the_gain_on_c4_carries_over(pattern):
    rows = [row for row in wn.measured("decisive")["rows"] if row.get("samples") == 64]
    pair = ("wanda", pattern), ("wanda + least squares", pattern)
    c4, wikitext = (compared(by_draw(rows, text), *pair).interval.value for text in ("c4", "wikitext"))
    assert 0.5 < wikitext / c4 < 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_order_of_the_updates_of_one_mask(pattern):
    losses = {
        (way(r), r["pattern"] or "50%"): {None: np.array(r["losses"])} for r in wn.measured("updates")["rows"][1:]
    }

    def ahead(a, b):
        return compared(losses, (b, pattern), (a, pattern)).below(0)

    assert ahead("wanda + one shot", "wanda") and ahead("wanda + least squares", "wanda + one shot")
    assert ahead("wanda + least squares", "sparsegpt") and ahead("sparsegpt + least squares", "sparsegpt")
    assert ahead("sparsegpt + least squares", "wanda + least squares") == (pattern == "2:4")
    assert ahead("magnitude + least squares", "wanda") == (pattern == "2:4")
    assert ahead("wanda", "magnitude + least squares") == (pattern == "50%")


def test_how_much_of_the_gap_training_closes():
    rows = {row["row"]: row for row in wn.measured("recovery")["rows"]}

    def fall(what, plan, seed):
        row = rows[f"{what}, {plan}" + (f", seed {seed}" if seed else "")]
        return np.mean(row["before"]) - np.mean(row["after"])

    before = {what: np.mean(rows[f"{what}, LoRA"]["before"]) for what in ("wanda 50%", "dense")}
    gap = before["wanda 50%"] - before["dense"]
    for seed in range(3):
        slow, fast, masked = (fall("wanda 50%", plan, seed) / gap for plan in ("LoRA", "fast LoRA", "masked"))
        control = fall("dense", "LoRA", seed) / gap
        assert slow < 0.1 and slow / 4 < control < slow / 3 and 0.05 < slow - control < 0.06
        assert slow < masked < fast and 3.5 < fast / slow < 4.5
        assert fall("dense", "fast LoRA", seed) > fall("dense", "LoRA", seed)


def test_how_much_of_what_training_won_a_merge_under_the_mask_keeps():
    rows = {row["row"]: row for row in wn.measured("recovery")["rows"]}
    for plan, least, most in (("LoRA", 0.8, 0.9), ("fast LoRA", 0.95, 1)):
        for seed in ("", ", seed 1", ", seed 2"):
            row = rows[f"wanda 50%, {plan}{seed}"]
            before, after, merged = (np.mean(row[end]) for end in ("before", "after", "merged"))
            assert least < (before - merged) / (before - after) < most


def test_from_four_windows_on_wanda_hardly_gains_and_the_updates_do():
    """Notebook 10: "gains a few per cent", whatever draws there are; with four windows at 50% it is still ahead."""
    rows = wn.measured("decisive")["rows"]
    assert all(c.above(0) for update in (SQUARES, "sparsegpt") for c in by_windows("wanda", update, "50%")[4])
    for text in ("c4", "wikitext"):
        fell = {}
        for method in ("wanda", "sparsegpt", "wanda + least squares"):
            losses = {n: [np.mean(r[text]["losses"]) for r in rows if known(r, method, n)] for n in (4, 64)}
            fell[method] = 1 - np.exp(np.median(losses[64]) - np.median(losses[4]))
        assert 0 < fell["wanda"] < 0.06 and min(fell["sparsegpt"], fell["wanda + least squares"]) > 0.2


def known(row, method, samples):
    return way(row) == method and not row["pattern"] and row.get("samples") == samples
