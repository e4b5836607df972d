"""Checks of notebook 03 on cost: what the block loop leaves in memory, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from operator import gt, ne

from .core import call, done, judge

STEPS = "in", "capture", "select", "propagate", "out"
BLOCK, NORMS, HIDDEN = 14_155_776, 19_968, 2_359_296  # bytes, as in the notebook


def _log(blocks: int = 3, leaks: dict | None = None, first: int = 0, *, hidden=HIDDEN, home=BLOCK, staged=0) -> list:
    """Readings of a loop in which a step leaves more behind than it should, from block ``first`` on.

    leaks: {step: bytes that stay}; home: bytes of a block that go home; staged: bytes needed only while it comes in.
    """
    now, log = hidden, [{"block": 0, "step": "hidden states", "now": hidden, "most": hidden}]
    change = {"in": BLOCK, "capture": NORMS, "select": -NORMS, "propagate": 0, "out": -home}
    on_top = {"in": staged, "capture": 12_976_128, "select": 9_700_000, "propagate": 12_976_128, "out": 0}
    for block in range(blocks):
        for step in STEPS:
            before, now = now, now + change[step] + ((leaks or {}).get(step, 0) if block >= first else 0)
            log.append({"block": block, "step": step, "now": now, "most": max(before, now) + on_top[step]})
    return log


def logs() -> dict[str, list]:
    """Readings of memory from six loops, {"A": [{"block", "step", "now", "most"}, ...], ...}, in bytes.

    What is wrong with each, if anything, is for the reader to find out. Used in notebook 03, "Exercise 03.2".
    """
    return {
        "A": _log(leaks={"select": 884_736}, first=1),
        "B": _log(leaks={"out": BLOCK}, staged=589_824),
        "C": _log(),
        "D": _log(leaks={"capture": 2 * BLOCK}, staged=589_824),
        "E": _log(leaks={"propagate": 2048}, first=2),
        "F": _log(leaks={"select": NORMS, "out": -NORMS}, first=1),  # norms that stay until the block goes home
    }


LEVEL = {"in": (1, 0), "capture": (1, 1), "select": (1, 0), "propagate": (1, 0), "out": (0, 0)}


def _audit(level=LEVEL, kind="now", found=lambda wrong: wrong[0]["step"], log=lambda readings: readings[1:], off=ne):
    """The audit of a log, or a mistake in it. level: {step: (blocks, norms) there at its end}."""

    def faulty_step(readings, block_bytes, norm_bytes):
        def should(step):
            return readings[0]["now"] + level[step][0] * block_bytes + level[step][1] * norm_bytes

        wrong = [r for r in log(readings) if off(r[kind], should(r["step"]))]
        return found(wrong) if wrong else "none"

    return faulty_step


def _largest(readings, block_bytes, norm_bytes):
    growth = [(b["now"] - a["now"], b["step"]) for a, b in pairwise(readings)]
    return max(growth)[1]


def _by_the_end(readings, block_bytes, norm_bytes):
    return "out" if readings[-1]["now"] != readings[0]["now"] else "none"


FAULTY_STEP = {
    "you took the step with the largest growth. A block is meant to be large: ask what should be there.": (_largest),
    "you compared `most`, which holds what was there for a moment only. What stays is in `now`.": _audit(kind="most"),
    "the norms of a block may be there from capture to select: that is no fault.": (
        _audit(dict.fromkeys(STEPS[:4], (1, 0)) | {"out": (0, 0)})
    ),
    "a block is meant to be there during its visit. Compare with what should be there after each step.": (
        _audit(dict.fromkeys(STEPS, (0, 0)))
    ),
    "you compared the end with the beginning: that says whether memory leaks, not which step does it.": _by_the_end,
    "you read the first block only. A loop can go wrong later.": (
        _audit(log=lambda readings: [r for r in readings[1:] if r["block"] == 0])
    ),
    "you gave the last step that is off. Stop at the first: whatever stays there is still there later.": (
        _audit(found=lambda wrong: wrong[-1]["step"])
    ),
    "you gave the step before. `now` is read after a step, so the first one that is off did it.": (
        _audit(found=lambda wrong: STEPS[STEPS.index(wrong[0]["step"]) - 1])
    ),
    "you found nothing. At least one of these loops keeps what it should let go.": lambda *case: "none",
}
NORMS_KEPT = "norms are needed until select is done, not until the block is home. Kept longer, they are a fault."
KEEP_NORMS = [
    _audit(LEVEL | dict.fromkeys(steps, (1, 1)), off=off) for steps in (STEPS[2:3], STEPS[2:4]) for off in (ne, gt)
]


def faulty_step(function, graded: bool = False) -> None:
    """Exercise 03.2: ``function(readings, block_bytes, norm_bytes)`` -> the first step that leaves too much, or "none".

    readings: what the loop of the notebook notes after every step. graded: on more logs. AssertionError, naming the
    mistake. Used in notebook 03, "Exercise 03.2".
    """
    cases = [(log, BLOCK, NORMS) for log in logs().values()]
    if graded:
        wide = _log(blocks=2, leaks={"in": BLOCK}, home=2 * BLOCK)  # comes in twice as wide as it should
        cases += [(log, BLOCK, NORMS) for log in (wide, _log(5, {"out": 1}, first=4), _log(1), _log(hidden=0))]
    answers = [call(function, *case) for case in cases]
    right = _audit()
    wrong = [case for case, answer in zip(cases, answers, strict=True) if answer != right(*case)]
    if wrong:
        for said, mistaken in [*FAULTY_STEP.items(), *((NORMS_KEPT, kept) for kept in KEEP_NORMS)]:
            if all(answer == mistaken(*case) for case, answer in zip(cases, answers, strict=True)):
                raise AssertionError(f"faulty_step: {said}")
        number = cases.index(wrong[0])
        where = f"log {'ABCDEF'[number]}" if number < 6 else "another log"
        raise AssertionError(f"faulty_step: {where}: {answers[number]!r} is not it (one of {STEPS}, or 'none').")
    done("03.2", "what should be there after each step, and the first step that leaves more", graded)


def _loop_seconds(weights, last_layer, attention, blocks, tokens, first_batch, rate):
    whole = (2 * weights + attention) * tokens  # one pass of all tokens through one block
    saved = 2 * last_layer * (tokens - first_batch)
    return (blocks * (whole - saved) + (blocks - 1) * whole) / rate


def _passes(count: Callable) -> Callable:
    """count(blocks) whole passes of a block, and nothing saved."""
    return lambda w, last, a, blocks, tokens, first, rate: (2 * w + a) * tokens * count(blocks) / rate


LOOP_SECONDS = {
    "one pass. The loop runs each block twice, to capture and to propagate.": _passes(lambda blocks: blocks),
    "two whole passes. The last block needs no propagate, and capture stops before a block's last layer multiplies.": (
        _passes(lambda blocks: 2 * blocks)
    ),
    "capture stops before a block's last layer multiplies, in all batches but the first. You ran all of it.": (
        _passes(lambda blocks: 2 * blocks - 1)
    ),
    "you propagated the last block too. Nobody reads what leaves it.": (
        lambda w, last, a, blocks, tokens, first, rate: (
            _loop_seconds(w, last, a, blocks, tokens, first, rate) + (2 * w + a) * tokens / rate
        )
    ),
    "capture runs its first batch to the end: only the tokens after it save the last layer.": (
        lambda w, last, a, blocks, tokens, first, rate: _loop_seconds(w, last, a, blocks, tokens, 0, rate)
    ),
    "propagate needs the last layer: only capture may leave it out.": (
        lambda w, last, a, blocks, tokens, first, rate: (
            _loop_seconds(w, last, a, blocks, tokens, first, rate) - (blocks - 1) * 2 * last * (tokens - first) / rate
        )
    ),
    "what is saved takes 2 operations for each weight and token, too: last_layer counts weights.": (
        lambda w, last, *others: _loop_seconds(w, last / 2, *others)
    ),
    "every block runs its first batch to the end, not block 0 alone.": (
        lambda w, last, a, blocks, tokens, first, rate: _loop_seconds(w, last, a, blocks, tokens, first / blocks, rate)
    ),
    "you left out attention's own products.": (lambda w, last, a, *others: _loop_seconds(w, last, 0, *others)),
    "you counted multiplications only. Each comes with an addition, so 2 operations for each weight and token.": (
        lambda w, last, a, *others: _loop_seconds(w / 2, last / 2, a, *others)
    ),
    "attention is operations already, not multiplications: do not double it.": (
        lambda w, last, a, *others: _loop_seconds(w, last, 2 * a, *others)
    ),
    "these are operations, not seconds. Divide by the operations a second.": (
        lambda w, last, a, blocks, tokens, first, rate: _loop_seconds(w, last, a, blocks, tokens, first, 1)
    ),
}


def loop_seconds(function, graded: bool = False) -> None:
    """Exercise 03.3: seconds of the block loop, from its operations and what the machine does in a second.

    ``function(weights, last_layer, attention, blocks, tokens, first_batch, flops_per_second)``: every block captures,
    without its last layer after the first batch, and every block but the last propagates. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 03, "Exercise 03.3".
    """
    cases = [(1000, 300, 50, 3, 10, 4, 60.0), (3_538_944, 884_736, 294_912, 30, 1024, 512, 1.2e11)]
    if graded:
        cases += [(202_375_168, 45_088_768, 33_554_432, 32, 128 * 2048, 8192, 4e14), (500, 100, 40, 1, 7, 2, 10.0)]
    judge(function, cases, _loop_seconds, LOOP_SECONDS, tolerance=1e-6)
    done("03.3", "capture without its last layers, propagate without the last block", graded)
