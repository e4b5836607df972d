"""Checks of notebook 07: how many items a test of two models needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import binom

from .core import call, done, tensor

LEAD = (0.075, 0.05)  # HellaSwag, 200 items: right only with Wanda, only with magnitude
DRAWS, TOLERANCE = 2000, 0.045  # so many draws know a share to about 0.011
MANY = 20_000  # draws of our own


def _p(b, w):
    """McNemar's exact test, of counts (draws,)."""
    return 2 * binom.cdf(np.minimum(b, w), b + w, 0.5)  # 2 for no coin at all, and above 1 for a tie: never below 0.05


def _counts(better, worse, n, draw):
    return draw.multinomial(n, [better, worse, 1 - better - worse], size=MANY)[:, :2].T


def _apart(better, worse, n, draw):
    return draw.binomial(n, [[better], [worse]], size=(2, MANY))


def _share(found: Callable, counts: Callable = _counts) -> Callable:
    """The share of made-up tests in which something is found: right, or a mistake."""

    def share(better, worse, n, draw):
        b, w = counts(better, worse, n, draw)
        return float(np.mean(found(b, w, n)))

    return share


_right = _share(lambda b, w, n: _p(b, w) < 0.05)

POWER = {
    "this is the share of tests that find *nothing*. Power is the share with p < 0.05.": (
        _share(lambda b, w, n: _p(b, w) >= 0.05)
    ),
    "this is the mean of p. Count how often p is below 0.05.": _share(lambda b, w, n: np.minimum(_p(b, w), 1)),
    "this p is one-sided. McNemar's p counts tosses as uneven in either direction: twice the smaller tail.": (
        _share(lambda b, w, n: binom.cdf(np.minimum(b, w), b + w, 0.5) < 0.05)
    ),
    "you tossed a coin for each of the n items. Items on which both agree say nothing: toss b + w.": (
        _share(lambda b, w, n: 2 * binom.cdf(np.minimum(b, w), n, 0.5) < 0.05)
    ),
    "you took the tail on one side whichever count is smaller. Take the smaller of the two.": (
        _share(lambda b, w, n: 2 * binom.cdf(b, b + w, 0.5) < 0.05)
    ),
    "you count only the tests in which one and the same model leads. p < 0.05 counts whichever leads.": (
        _share(lambda b, w, n: (_p(b, w) < 0.05) & (b > w))
    ),
    "you count every test in which the better model leads. That may be luck: count those with p < 0.05.": (
        _share(lambda b, w, n: b > w)
    ),
    "this is the normal approximation, |b - w| > 1.96 sqrt(b + w). It finds more than the exact test does.": (
        _share(lambda b, w, n: np.abs(b - w) > 1.96 * np.sqrt(b + w))
    ),
    "you drew the two counts by themselves. No item is in both: draw the three kinds of items together.": (
        _share(lambda b, w, n: _p(b, w) < 0.05, _apart)
    ),
    "you compared two accuracies as if each model had items of its own. The items are the same: only b and w count.": (
        _share(lambda b, w, n: np.abs(b - w) > 1.96 * np.sqrt(n / 2))
    ),
}


def power_of_test(function, needed, graded: bool = False) -> None:
    """Exercise 07.1: ``function(better, worse, n, draws, draw)``: the power of McNemar's test; ``needed()``: items.

    function gives the share of ``draws`` made-up tests of n items with p < 0.05, a float; draw is a numpy Generator.
    needed gives the number of items with which 0.075 against 0.05 is found in 80% of the tests, within 3%. graded: on
    more cases. AssertionError, naming the mistake. Used in notebook 07, "Exercise 07.1".
    """
    cases = [(*LEAD, 200), (0.3, 0.1, 40), (0.1, 0.3, 40), (0.45, 0.35, 700)]
    cases += [(0.2, 0.2, 300), (0.02, 0.09, 150), (0.55, 0.44, 400)] if graded else []
    draw = np.random.default_rng(1 if graded else 0)
    found = [_read(function, case, DRAWS, draw) for case in cases]
    ours = [_right(*case, draw) for case in cases]
    wrong = [i for i, (got, own) in enumerate(zip(found, ours, strict=True)) if not abs(got - own) <= TOLERANCE]
    if wrong:
        raise AssertionError(_mistaken(cases, found, ours, wrong[0], draw))
    again = [[_read(function, case, 400, np.random.default_rng(5)) for case in cases[:3]] for _ in range(2)]
    if again[0] != again[1]:
        raise AssertionError("two generators of one seed gave two shares. Take all random numbers from draw.")
    if _read(function, cases[0], 1, draw) not in (0, 1):
        raise AssertionError("with draws=1 there is one test, so the share must be 0 or 1. Do you use draws?")
    done("07.1", _judge_needed(needed), graded)


def _read(function, case, draws, draw) -> float:
    return float(tensor(call(function, *case, draws, draw), (), "the share"))


def _mistaken(cases, found, ours, first, draw) -> str:
    where = "power({}, {}, {})".format(*cases[first])
    if all(abs(got - 100 * own) < 100 * TOLERANCE for got, own in zip(found, ours, strict=True)):
        return f"{where}: this is in per cent. Return a share, from 0 to 1."
    if all(abs(got - DRAWS * own) < DRAWS * TOLERANCE for got, own in zip(found, ours, strict=True)):
        return f"{where}: this is how many tests find it. Divide by draws."
    for said, mistaken in POWER.items():
        if all(abs(got - mistaken(*case, draw)) < TOLERANCE for case, got in zip(cases, found, strict=True)):
            return f"{where}: {said}"
    return f"{where}: expected about {ours[first]:.3f}, got {found[first]:.3f}."


def _judge_needed(needed) -> str:
    answer = call(needed)
    try:
        n = int(answer)
    except (TypeError, ValueError, OverflowError):
        raise AssertionError(f"needed: expected a number of items, got {answer!r}.") from None
    if not 1 <= n <= 10**6:
        raise AssertionError(f"needed: expected a number of items, from 1 to a million, got {n}.")
    share = _right(*LEAD, n, np.random.default_rng(0))
    if abs(share - 0.8) <= 0.03:
        return f"{n:,} items find this lead in {share:.0%} of the tests"
    hint = "Fewer are enough." if share > 0.8 else "More are needed."
    if abs(share - 0.5) < 0.04:
        hint = "There the lead is about two standard errors, and half of all tests miss it. More are needed."
    elif 4500 < n < 7000:
        hint = "So many are needed if each model has items of its own. Here both answer the same. Fewer are enough."
    elif 200 < n < 216:
        hint = "So many of the items *differ* in a test that is large enough. Count all items."
    raise AssertionError(f"needed: with {n:,} items, {share:.0%} of tests find this lead, not 80%. {hint}")
