"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
from scipy.stats import binom

from wanda_nb import checks


def drawn(better, worse, n, draws, draw):  # (draws,), (draws,): right only with the first, only with the second
    return draw.multinomial(n, [better, worse, 1 - better - worse], size=draws)[:, :2].T


def exact(b, w):
    return 2 * binom.cdf(np.minimum(b, w), b + w, 0.5)


def by_counts(*case):
    return (exact(*drawn(*case)) < 0.05).mean()


def item_by_item(better, worse, n, draws, draw):
    u = draw.random((draws, n))
    return float(np.mean(exact((u < better).sum(axis=1), (u > 1 - worse).sum(axis=1)) < 0.05))


def differing_first(better, worse, n, draws, draw):  # how many differ, then how many of these are better
    toss = draw.binomial(n, better + worse, size=draws)
    b = draw.binomial(toss, better / (better + worse))
    return np.mean(exact(b, toss - b) < 0.05)


def enough():
    return 1650


def in_floats():
    return 1.6e3


def nothing_found(*case):
    return 1 - by_counts(*case)


def mean_p(*case):
    return np.minimum(exact(*drawn(*case)), 1).mean()


def one_sided(*case):
    return (exact(*drawn(*case)) < 0.1).mean()


def all_tossed(better, worse, n, draws, draw):
    b, w = drawn(better, worse, n, draws, draw)
    return (2 * binom.cdf(np.minimum(b, w), n, 0.5) < 0.05).mean()


def one_tail(*case):
    b, w = drawn(*case)
    return (2 * binom.cdf(b, b + w, 0.5) < 0.05).mean()


def one_direction(*case):
    b, w = drawn(*case)
    return ((exact(b, w) < 0.05) & (b > w)).mean()


def leads(*case):
    b, w = drawn(*case)
    return (b > w).mean()


def normal(*case):
    b, w = drawn(*case)
    return (np.abs(b - w) > 1.96 * np.sqrt(b + w)).mean()


def by_themselves(better, worse, n, draws, draw):
    return (exact(draw.binomial(n, better, draws), draw.binomial(n, worse, draws)) < 0.05).mean()


def unpaired(better, worse, n, draws, draw):
    b, w = drawn(better, worse, n, draws, draw)
    return (np.abs(b - w) / n > 1.96 * (2 * 0.25 / n) ** 0.5).mean()


def per_cent(*case):
    return 100 * by_counts(*case)


def how_many(*case):
    return (exact(*drawn(*case)) < 0.05).sum()


def each_of_them(*case):
    return exact(*drawn(*case)) < 0.05


def own_luck(better, worse, n, draws, draw):
    return by_counts(better, worse, n, draws, np.random.default_rng())


def own_draws(better, worse, n, draws, draw):
    return by_counts(better, worse, n, 3000, draw)


def always(better, worse, n, draws, draw):
    return 0.8


def check_power(answer, graded=False):  # what is not given is right
    power, needed = answer if isinstance(answer, tuple) else (answer, enough)
    checks.power_of_test(power, needed, graded=graded)


EXERCISES = {
    "ex07a": {
        "check": check_power,
        "right": [by_counts, item_by_item, differing_first, (by_counts, in_floats)],
        "wrong": [
            (nothing_found, "find *nothing*"),
            (mean_p, "the mean of p"),
            (one_sided, "one-sided"),
            (all_tossed, "toss b + w"),
            (one_tail, "Take the smaller of the two"),
            (one_direction, "whichever leads"),
            (leads, "That may be luck"),
            (normal, "normal approximation"),
            (by_themselves, "draw the three kinds of items together"),
            (unpaired, "items of its own"),
            (per_cent, "per cent"),
            (how_many, "Divide by draws"),
            (each_of_them, "the share: expected"),
            (own_luck, "from draw"),
            (own_draws, "Do you use draws"),
            (always, "power(0.075, 0.05, 200): expected about"),
            (lambda *case: float("nan"), "got nan"),
            ((by_counts, lambda: 800), "half of all tests miss it"),
            ((by_counts, lambda: 5500), "items of its own"),
            ((by_counts, lambda: 206), "Count all items"),
            ((by_counts, lambda: 200), "of tests find this lead, not 80%. More"),
            ((by_counts, lambda: 2500), "Fewer are enough"),
            ((by_counts, lambda: 0.8), "from 1 to a million"),
            ((by_counts, lambda: float("inf")), "expected a number of items, got inf"),
            ((by_counts, lambda: (1650, 0.8)), "expected a number of items"),
        ],
    },
}
