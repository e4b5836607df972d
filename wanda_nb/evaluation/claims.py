"""What the records say of each claim of the paper: paired comparisons, by window or item and by draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..inputs.tasks import PAPER_TASKS
from ..reporting.records import published
from .uncertainty import Difference, Interval, mean_interval, paired_difference, ratio_interval

BAND = 0.02  # a factor in perplexity that still counts as the same number: notebook 10, "What counts as reproduced?"
FAR = 2  # magnitude is "far" behind with this factor in perplexity or more
BROKEN = 2  # a model is broken beyond this factor of its dense perplexity: notebook 09, "How much can go?"
MINUTE = 60  # seconds
LOOKED_AT = 200  # items of each task that notebook 07 saw before it named its test; claim 2 is judged on the others
PATTERNS = ("50%", "4:8", "2:4")
SMOL, GEMMA, SHAPE = "SmolLM2-135M", "Gemma 3 270M", "LLaMA-7B's shape"
WIKITEXT = {SMOL: ("wikitext", None), GEMMA: ("second", "wikitext")}  # the records on WikiText-2, and where losses lie
ORDER = {SMOL: "order", GEMMA: "order_gemma"}
NOT_BOOLQ = [task for task in PAPER_TASKS if task != "boolq"]
HARD_TASKS = ("hellaswag", "arc_challenge", "openbookqa")
Rows = Callable[[str], list[dict]]  # the rows of a record by its name; none if there is no such record


class Tested(NamedTuple):
    """One claim on one model. shown: for each comparison of its rule True, False, or None where rows are missing."""

    model: str
    shown: Sequence[bool | None]
    number: str
    draws: int
    record: str


class Compared(NamedTuple):
    """A paired difference, the mean over draws of calibration text, and the mean of each draw."""

    interval: Interval
    draws: tuple[float, ...]

    def above(self, border: float) -> bool:
        """Whether the interval, and every draw, lies above a border."""
        return self.interval.low > border and min(self.draws) > border

    def below(self, border: float) -> bool:
        """Whether the interval, and every draw, lies below a border."""
        return self.interval.high < border and max(self.draws) < border

    def __str__(self) -> str:
        return "{:.3g} [{:.3g}, {:.3g}]".format(*(math.exp(nats) for nats in self.interval))


def by_draw(rows: list[dict], domain: str | None = None) -> dict[tuple[str, str], dict[int | None, np.ndarray]]:
    """Losses (windows,) by (method or kind of norms, pattern) and draw; None for what reads no text, or once."""
    found: dict[tuple[str, str], dict[int | None, np.ndarray]] = {}
    for row in rows:
        name = row.get("norms") or way(row)
        pattern = row.get("pattern") or f"{row.get('sparsity') or 0.5:.0%}"
        found.setdefault((name, pattern), {})[row.get("seed")] = np.array((row[domain] if domain else row)["losses"])
    return found


def way(row: dict) -> str:
    """How a row was pruned, in words: "dense", "wanda", "wanda + least squares"."""
    method = row.get("method") or "dense"
    return f"{method} + {row['update'].replace('-', ' ')}" if row.get("update") else method


def compared(losses: dict, a: tuple[str, str], b: tuple[str, str]) -> Compared | None:
    """The loss of b minus that of a, paired by window and by the draws that both have; None if there are none."""
    first, second = losses.get(a, {}), losses.get(b, {})
    pairs = [(first.get(d, first.get(None)), second.get(d, second.get(None))) for d in dict.fromkeys([*first, *second])]
    differences = [y - x for x, y in pairs if x is not None and y is not None]
    if not differences:
        return None
    means = tuple(float(one.mean()) for one in differences)
    return Compared(mean_interval(np.mean(differences, axis=0), neighbours=True), means)


def _at_patterns(losses: dict, a: str, b: str) -> dict[str, Compared | None]:
    return {pattern: compared(losses, (a, pattern), (b, pattern)) for pattern in PATTERNS}


def _told(found: dict[str, Compared | None], unit: str, write: Callable[[Compared], str] = str) -> str:
    """The lowest and the highest of some comparisons, and which have no rows."""
    known = {pattern: c for pattern, c in found.items() if c}
    ends = sorted(known, key=lambda pattern: known[pattern].interval.value)
    told = [f"{write(known[pattern])} ({pattern})" for pattern in dict.fromkeys(ends[:1] + ends[-1:])]
    missing = [f"no rows at {', '.join(p for p in found if p not in known)}"] if len(known) < len(found) else []
    return "; ".join([f"{unit}: {' to '.join(told)}"] * bool(told) + missing)


def _draws(*found: Compared | None) -> int:
    return min((len(c.draws) for c in found if c), default=0)


def _share(part: np.ndarray, whole: np.ndarray) -> Compared:
    """The share of a whole that a part is, both (draws, windows)."""
    each = part.mean(axis=1) / whole.mean(axis=1)
    return Compared(ratio_interval(part.mean(axis=0), whole.mean(axis=0)), tuple(each.tolist()))


def _accuracy(items: dict, a: str, b: str, tasks: Sequence[str], start: int = 0) -> Difference | None:
    """The accuracy of b minus that of a on the items of some tasks, from a number on; None where rows are missing."""
    if not {a, b} <= set(items):
        return None
    first, second = ([right for task in tasks for right in items[name][task]["acc"][start:]] for name in (a, b))
    return paired_difference(first, second)


def _points(accuracy: Difference) -> str:
    return _signed(accuracy, 1, 100)


def _signed(interval: Sequence[float], digits: int, scale: float = 1) -> str:
    value, low, high = (f"{scale * end:+.{digits}f}".replace("-", "−") for end in interval[:3])
    return f"{value} [{low}, {high}]"


def usable(rows: Rows) -> list[Tested]:
    """1: Wanda at 50% over dense."""
    table = published("wikitext").set_index(["model", "size", "context"])
    dense = table.loc[table["method"] == "dense", "perplexity"]
    half = table.loc[(table["method"] == "wanda") & (table["pattern"] == "50%"), "perplexity"]
    largest, found = float((half / dense).max()), []
    for model, (name, domain) in WIKITEXT.items():
        c = compared(by_draw(rows(name), domain), ("dense", "50%"), ("wanda", "50%"))
        shown = [c and c.below(math.log(limit)) for limit in (largest, BROKEN)]
        number = f"perplexity over dense at 50% (published, at most {largest:.3g}): {c}" if c else ""
        found.append(Tested(model, shown, number, _draws(c), name))
    return found


def far_ahead(rows: Rows) -> list[Tested]:
    """2: magnitude over Wanda, and accuracy on the items that notebook 07 had not seen when it named its test.

    The answers were measured on a GPU and on a CPU. In bfloat16 these round differently, and 2% of the answers differ.
    """
    asked, told = [], []
    for where, name in (("", "thousand"), ("again, on a CPU: ", "thousand_cpu")):
        items = {row["row"]: row["items"] for row in rows(name)}
        both = [_accuracy(items, "magnitude 50%", "wanda 50%", tasks, LOOKED_AT) for tasks in (PAPER_TASKS, NOT_BOOLQ)]
        if all(both):
            asked += both
            told.append(f"{where}{_points(both[0])} points, without BoolQ {_points(both[1])}")
    found = []
    for model, (name, domain) in WIKITEXT.items():
        factors = _at_patterns(by_draw(rows(name), domain), "wanda", "magnitude")
        accuracy = [a.low > 0 for a in asked] if model == SMOL and asked else [None]
        shown = [c and c.above(math.log(FAR)) for c in factors.values()] + accuracy
        number = _told(factors, "magnitude's perplexity over Wanda's")
        number += f"; accuracy {'; '.join(told)}" if model == SMOL and asked else "; accuracy not tested"
        record = f"{name}, thousand, thousand_cpu" if model == SMOL else name
        found.append(Tested(model, shown, number, _draws(*factors.values()), record))
    return found


def on_par(rows: Rows) -> list[Tested]:
    """3: Wanda over SparseGPT."""
    found = []
    for model, (name, domain) in WIKITEXT.items():
        factors = _at_patterns(by_draw(rows(name), domain), "sparsegpt", "wanda")
        shown = [c and c.below(math.log(1 + BAND)) for c in factors.values()]
        number = _told(factors, "perplexity over SparseGPT's")
        found.append(Tested(model, shown, number, _draws(*factors.values()), name))
    return found


def larger_lose_less(rows: Rows) -> list[Tested]:
    """4: only published; no record here has sizes of one family."""
    table = published("zero_shot")
    table = table[table["task"] == "mean of seven"].set_index(["size", "method"])["accuracy"]
    told = [f"{table[size, 'dense']} → {table[size, 'wanda']} at {size}" for size in ("7B", "65B")]
    return [Tested("–", [None], f"published accuracy (grade C): {', '.join(told)}", 0, "–")]


def hard_tasks(rows: Rows) -> list[Tested]:
    """5: accuracy on three tasks, all items."""
    items = {row["row"]: row["items"] for row in rows("thousand")}
    asked = {task: _accuracy(items, "sparsegpt 50%", "wanda 50%", [task]) for task in HARD_TASKS}
    told = [f"{_points(a)} points on {task}" for task, a in asked.items() if a]
    return [Tested(SMOL, [a and a.low > 0 for a in asked.values()], ", ".join(told), 1 if told else 0, "thousand")]


def restored(rows: Rows) -> list[Tested]:
    """6: the share of the loss that pruning cost which LoRA wins back at the published rate."""
    runs = {row["row"].partition(", seed")[::2]: row for row in rows("recovery")}
    ends = {key: [np.array(row[end]) for end in ("before", "after")] for key, row in runs.items() if "before" in row}
    seeds = [seed for name, seed in ends if name == "wanda 50%, LoRA" and ("dense, LoRA", seed) in ends]
    if not seeds:
        return [Tested(SMOL, [None], "", 0, "recovery")]
    pruned, dense = (np.array([ends[f"{what}, LoRA", seed] for seed in seeds]) for what in ("wanda 50%", "dense"))
    gap, gained, new_text = pruned[:, 0] - dense[:, 0], pruned[:, 0] - pruned[:, 1], dense[:, 0] - dense[:, 1]
    share, net = (_share(part, gap) for part in (gained, gained - new_text))
    table = published("recovery").set_index("what")["value"]
    before, after, added = (table[what] for what in table.index)
    of_dense = published("wikitext").set_index(["model", "size", "method", "context"])["perplexity"]
    stated = math.log(before / after) / math.log(before / of_dense["LLaMA", "7B", "dense", 2048])
    row = runs["wanda 50%, LoRA", seeds[0]]
    number = "closes {:.0%} [{:.0%}, {:.0%}] of the gap, ".format(*share.interval)
    number += "{:.0%} [{:.0%}, {:.0%}] with dense's own gain taken off, ".format(*net.interval)
    number += f"by {row['trainable'] / row['parameters']:.2%} of the parameters; published {stated:.0%}, by {added}%"
    return [Tested(SMOL, [net.above(0), share.above(stated)], number, len(seeds), "recovery")]


def in_order(rows: Rows) -> list[Tested]:
    """7: norms of the dense model in place of those of the pruned blocks so far."""
    found = []
    for model, name in ORDER.items():
        losses = _at_patterns(by_draw(rows(name)), "sequential", "dense norms")
        what = "loss with dense norms minus loss with norms taken in order, nats"
        number = _told(losses, what, lambda c: _signed(c.interval, 3))
        shown = [c and c.above(0) for c in losses.values()]
        found.append(Tested(model, shown, number, _draws(*losses.values()), name))
    return found


def seconds(rows: Rows) -> list[Tested]:
    """8: the phase in which weights are scored and chosen, over all layers."""
    ways = ("ours", "in memory", "visiting")
    found = [row[way]["phases"]["select"] for row in rows("speed_gpu") for way in ways if way in row]
    cpu = [row["ours"]["phases"]["select"] for row in rows("speed")]
    number = f"{min(found):.2f} to {max(found):.2f} s on a GPU" if found else ""
    number += f"; {min(cpu):.0f} to {max(cpu):.0f} s on two CPU cores" if cpu else ""
    return [Tested(SHAPE, [took < MINUTE for took in found] or [None], number, 0, "speed_gpu")]
