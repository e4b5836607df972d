"""The paper's claims, one by one, with a verdict computed from our records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from ..reporting.records import measured
from . import claims
from .claims import BAND, BROKEN, FAR, MINUTE


class Claim(NamedTuple):
    """What the paper says, the comparisons that have to show it, and what else could."""

    test: Callable[[claims.Rows], list[claims.Tested]]
    text: str
    rule: str
    change: str


CLAIMS = {
    1: Claim(
        claims.usable,
        "usable as it is, without retraining",
        "Wanda at 50% over dense, perplexity: below the largest factor published for it; below "
        f"{BROKEN}, where a model counts as broken",
        "a larger model: the smallest in our published tables has 560M parameters",
    ),
    2: Claim(
        claims.far_ahead,
        "far better than magnitude",
        f"perplexity: magnitude over Wanda above {FAR} at 50%, 4:8 and 2:4; accuracy: Wanda ahead over seven tasks, "
        "and without BoolQ, where one constant answer beats every model, both on a GPU and on a CPU",
        "a model that knows something on more than two of the seven tasks",
    ),
    3: Claim(
        claims.on_par,
        "on par with SparseGPT or better",
        f"perplexity, Wanda over SparseGPT: below {1 + BAND} at 50%, 4:8 and 2:4",
        "a model of 7B: published, Wanda leads or ties every LLaMA-2 at 50% and 4:8",
    ),
    4: Claim(
        claims.larger_lose_less,
        "the loss shrinks as models grow",
        "accuracy of three sizes of one family or more; no record here has them",
        "OPT or Pythia from a hub, or the LLaMA rows on a large GPU",
    ),
    5: Claim(
        claims.hard_tasks,
        "ahead of SparseGPT on HellaSwag, ARC-c and OpenBookQA",
        "accuracy, Wanda minus SparseGPT: above 0 on each of the three",
        "more items, or a model above chance on ARC-c and OpenBookQA",
    ),
    6: Claim(
        claims.restored,
        "LoRA restores a part, cheaply",
        "share of the loss that pruning cost: above 0 with the dense model's own gain taken off; above the published "
        "share",
        "the budget of the published script: a thousand times our text",
    ),
    7: Claim(
        claims.in_order,
        "each block is best judged by what the pruned blocks before it put out",
        "loss with the dense model's norms minus in order: above 0 at 50%, 4:8 and 2:4",
        "more draws, or a deeper model, in which more blocks add to the drift",
    ),
    8: Claim(
        claims.seconds,
        "the selection takes seconds, not minutes",
        f"selection for all layers of a 7B model on a GPU, each way of running: below {MINUTE} s",
        "another GPU; on two CPU cores it does take minutes",
    ),
}


def scorecard(read: Callable[[str], dict] = measured) -> pd.DataFrame:
    """The paper's claims with a verdict for each model, from the records: a DataFrame, a row a claim and model.

    One rule for all. A comparison shows its claim if its 95% interval, paired by window (in blocks) or by item, lies
    wholly on the claimed side of the border, and so does every single draw. All comparisons show it: "reproduced".
    Some: "reproduced in part". None: "not reproduced", which is not "refuted": the interval says how far off it is.
    No rows at all: "not tested here"; one comparison without rows counts as not shown. Columns: claim, says, model,
    verdict, number, draws (of calibration text, the fewest), record, rule, and "what would change it".
    read: gives a record by name, as ``measured`` does. Introduced in notebook 10, "The scorecard".
    """

    def rows(name: str) -> list[dict]:
        try:
            return read(name)["rows"]
        except FileNotFoundError:
            return []

    found = []
    for number, claim in CLAIMS.items():
        for t in claim.test(rows):
            told = {"claim": number, "says": claim.text, "model": t.model, "verdict": verdict(t.shown)}
            told |= {"number": t.number, "draws": t.draws, "record": t.record, "rule": claim.rule}
            found.append(told | {"what would change it": claim.change})
    return pd.DataFrame(found)


def verdict(shown: Sequence[bool | None]) -> str:
    """The verdict on comparisons that do (True) or do not (False) show a claim, or have no rows (None)."""
    if all(one is None for one in shown):
        return "not tested here"
    return "reproduced" if all(shown) else "reproduced in part" if any(shown) else "not reproduced"
