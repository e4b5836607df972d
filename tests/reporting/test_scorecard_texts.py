"""The README and notebook 10 say of the paper's claims what the rule says."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

import wanda_nb as wn
from wanda_nb.evaluation.claims import by_draw, compared

ROOT = Path(__file__).parents[2]
VERDICTS = "reproduced in part|not reproduced|not tested here|reproduced"
NUMBER = re.compile(r"[Cc]laim (\d)\b")

sys.path.insert(0, str(ROOT / "data"))
from experiments.figures import scorecard_for_readme  # noqa: E402


@pytest.fixture(scope="module")
def card():
    return wn.scorecard()


def stated(text: str) -> list[tuple[int, str]]:
    """The verdicts in italics, each with the last claim that was named before it; 0 if none was."""
    found = []
    for verdict in re.finditer(rf"(?<!\*)\*({VERDICTS})\*(?!\*)", text):
        named = NUMBER.findall(text[: verdict.start()].rpartition("\n")[2])
        found.append((int(named[-1]) if named else 0, verdict[1]))
    return found


def test_verdicts_in_a_text_are_found():
    text = "- *reproduced in part*: some\n- claim 2 is so, claim 3 is *not reproduced*.\n**reproduced** *not tested*"
    assert stated(text) == [(0, "reproduced in part"), (3, "not reproduced")]


def test_the_readme_shows_the_scorecard(card):
    """`python data/measure.py figures` prints it."""
    table = scorecard_for_readme(card)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n\n{table}\n\n" in readme and table.count("\n") == 9
    assert readme.index(table) < readme.index("\n## ")  # on the first screen
    for row in card.itertuples():
        assert f"| {row.claim} | {row.says} |" in table and row.verdict in table.split("\n")[row.claim + 1]
        assert row.number.partition(": ")[2] in table


def test_what_the_readme_says_of_least_squares():
    """Wherever SparseGPT was measured after as much text, on every domain and in every draw."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "ahead of SparseGPT on both models once its kept weights are solved again" in readme
    for record in ("decisive", "second"):
        rows = [row for row in wn.measured(record)["rows"] if row.get("samples") == 64]
        for domain in ("c4", "wikitext"):
            losses = by_draw(rows, domain)
            patterns = [pattern for method, pattern in losses if method == "sparsegpt"]
            assert len(patterns) >= 2
            for pattern in patterns:
                assert compared(losses, ("sparsegpt", pattern), ("wanda + least squares", pattern)).below(0)


def test_what_the_readme_says_of_how_much_text_an_update_needs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "from 16 windows on least squares was ahead of Wanda with every draw, and SparseGPT from 64" in readme
    worse = []
    for domain in ("c4", "wikitext"):
        by_samples = {
            samples: by_draw([row for row in wn.measured("decisive")["rows"] if row.get("samples") == samples], domain)
            for samples in (1, 4, 16, 64, 128)
        }
        for update in ("sparsegpt", "wanda + least squares"):
            behind = [compared(by_samples[n], ("wanda", "50%"), (update, "50%")) for n in (1, 4)]
            assert all(c.interval.value > 0 for c in behind)
            worse.append(math.exp(behind[0].interval.value))
            ahead = [n for n in by_samples if max(compared(by_samples[n], ("wanda", "50%"), (update, "50%")).draws) < 0]
            assert ahead == ([64, 128] if update == "sparsegpt" and domain == "wikitext" else [16, 64, 128])
    least, most = (f"{end(worse):.1f}" for end in (min, max))
    assert f"made SparseGPT and least squares {least} to {most} times as bad as Wanda alone" in readme


def test_the_text_of_notebook_10_gives_the_verdicts_of_the_rule(card):
    book = json.loads((ROOT / "notebooks" / "10_reproduce_the_paper.ipynb").read_text(encoding="utf-8"))
    texts = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown"]
    ruled = set(zip(card["claim"], card["verdict"], strict=True))
    claims = [said for text in texts for said in stated(text) if said[0]]
    assert len(claims) >= 4 and set(claims) <= ruled
    models = card.groupby("claim")["verdict"].nunique()
    assert all(models[claim] == 1 for claim, _ in claims)  # where models differ, a verdict alone would be wrong
    elsewhere = [text for text in texts if any(claim == 0 for claim, _ in stated(text))]
    assert len(elsewhere) == 1 and elsewhere[0].startswith("## The scorecard")  # where the rule is stated


def test_notebook_10_names_every_published_number_beside_its_command():
    """Also where the table leaves the context empty, as for BLOOM."""
    book = json.loads((ROOT / "notebooks" / "10_reproduce_the_paper.ipynb").read_text(encoding="utf-8"))
    printed = "".join(text for cell in book["cells"] for out in cell.get("outputs", []) for text in out.get("text", []))
    lines = re.findall(r"^# (\S+) (\S+), published for Wanda at 50%: (.*)$", printed, re.M)
    rows = wn.published("wikitext").query("method == 'wanda' and pattern == '50%'")
    assert len(lines) >= 9
    for model, size, said in lines:
        known = rows[(rows["model"] == model) & (rows["size"] == size)]
        assert (said == "nothing that we know of") == known.empty
        assert all(str(row.perplexity) in said for row in known.itertuples() if row.grade == "A")


def test_what_the_readme_says_of_damping():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def update(samples: int, damping: float) -> list[dict]:
        found = [row for row in wn.measured("damping")["rows"] if row.get("samples") == samples]
        return [row for row in found if row.get("damping", damping) == damping]

    alone, squares = ("wanda", "50%"), ("wanda + least squares", "50%")
    one = compared(by_draw(update(1, 1.0)), alone, squares)
    value, low, high = (math.exp(nats) for nats in one.interval)
    assert (
        len(one.draws) == 3
        and one.below(0)
        and f"{value:.2f} [{low:.2f}, {high:.2f}] times Wanda's over three draws" in readme
    )
    assert all(
        compared(by_draw(update(1, 0.01)), alone, (way, "50%")).above(math.log(1.8))
        for way in ("sparsegpt", squares[0])
    )
    less, more = (by_draw(update(16, damping))[squares] for damping in (0.01, 0.1))
    better = compared({alone: less, squares: more}, alone, squares)
    assert better.below(0) and f"{-math.expm1(better.interval.value):.0%} better than with 0.01" in readme
