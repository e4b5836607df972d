"""Intervals that hold what they promise, and pairing."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm, t

import wanda_nb as wn
from wanda_nb.evaluation import uncertainty


def by_hand(values, level=0.95, seed=0, neighbours=False):
    """The stated resampling, one draw and one window at a time, from the same random numbers."""
    n, draw, means = len(values), np.random.default_rng(seed), []
    length = max(found for found in range(1, n + 1) if found**5 <= n**3) if neighbours else 1
    blocks = math.ceil(n / length)
    for _ in range(9999):
        resample = []
        for start in draw.integers(n, size=blocks):
            resample += [values[(start + step) % n] for step in range(length)]
        means.append(sum(resample) / len(resample))
    means.sort()
    mean, k, ends = sum(values) / n, n / length, []
    for share in ((1 - level) / 2, (1 + level) / 2):
        whole, part = divmod(share * 9998, 1)
        end = means[int(whole)] * (1 - part) + means[int(whole) + 1] * part
        student = t.ppf((1 + level) / 2, k - 1) / norm.ppf((1 + level) / 2)
        ends.append(mean + (end - mean) * student * math.sqrt(blocks / (k - 1)))
    return mean, *ends


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (2, {}),
        (5, {"level": 0.9, "seed": 4}),
        (9, {"neighbours": True}),  # three blocks of three
        (10, {"level": 0.8, "neighbours": True}),  # four blocks of three: two more than there are windows
        (32, {"seed": 2, "neighbours": True}),  # 32 to the 0.6 is exactly 8
    ],
)
def test_it_is_the_resampling_that_it_says(n, settings):
    values = np.random.default_rng(n).exponential(size=n).tolist()
    assert tuple(wn.mean_interval(values, **settings)) == pytest.approx(by_hand(values, **settings), rel=1e-12)


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("n", [8, 32, 148])
def test_95_per_cent_cover_95_per_cent(n, neighbours, monkeypatch):
    """Independent items, and windows with a correlation of 0.5 with the next. A mean is linear in the values, so that
    the intervals of one value at each place give those of all trials at once."""
    monkeypatch.setattr(uncertainty, "DRAWS", 1999)
    trials, draw = 4000, np.random.default_rng(n)
    values = draw.normal(size=(trials, n))
    if neighbours:
        for i in range(1, n):
            values[:, i] = 0.5 * values[:, i - 1] + math.sqrt(0.75) * values[:, i]
    length = int(n**0.6 + 1e-9) if neighbours else 1
    blocks = math.ceil(n / length)
    weights = np.stack([uncertainty.resampled_means(one, length, blocks, 0) for one in np.eye(n)])  # (n, draws)
    mean = values.mean(axis=1)
    wider = t.ppf(0.975, n / length - 1) / norm.ppf(0.975) * math.sqrt(blocks / (n / length - 1))
    low, high = mean + wider * (np.quantile(values @ weights, [0.025, 0.975], axis=1) - mean)
    for i in range(3):
        found = wn.mean_interval(values[i], neighbours=neighbours)
        assert found == pytest.approx((mean[i], low[i], high[i]), rel=1e-9)
    assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.97


def test_memory_is_bounded_and_the_slab_changes_nothing(monkeypatch):
    values = np.random.default_rng(3).normal(size=3000)
    tracemalloc.start()
    found = wn.mean_interval(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 2**20  # all at once would be 458 MiB
    monkeypatch.setattr(uncertainty, "SLAB", 77_777)  # divides nothing
    assert wn.mean_interval(values) == found
    few = wn.mean_interval(values[:40])
    monkeypatch.setattr(uncertainty, "SLAB", 39)  # less than one draw
    assert wn.mean_interval(values[:40]) == few


def test_it_narrows_as_the_root_of_the_items():
    values = np.random.default_rng(1).normal(size=1600)
    few, many = wn.mean_interval(values[:100]), wn.mean_interval(values)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.25)
    expected = 2 * 1.96 * values.std() / 40
    assert many.high - many.low == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("neighbours", [False, True])
def test_perplexity_interval_is_that_of_the_mean_loss(neighbours):
    losses = torch.linspace(0, 3, 20).exp().roll(7) / 5
    value, low, high = wn.perplexity_interval(losses, 0.9, seed=3, neighbours=neighbours)
    assert value == pytest.approx(math.exp(losses.double().mean()))
    expected = wn.mean_interval(losses, 0.9, seed=3, neighbours=neighbours)
    assert (math.log(low), math.log(high)) == pytest.approx(expected[1:])
    assert low < value < high


def test_windows_are_neighbours_unless_it_is_said():
    """And right or wrong is of items that know nothing of each other."""
    losses = np.repeat(np.random.default_rng(4).normal(3, 1, size=8), 4)  # four in a row are equal
    assert wn.perplexity_interval(losses) == wn.perplexity_interval(losses, neighbours=True)
    zeros, right = np.zeros(32), (losses > 3).astype(float)
    for a, b, default in ((zeros, losses, True), (losses, right, True), (zeros, right, False)):
        found = {said: wn.paired_difference(a, b, neighbours=said) for said in (None, False, True)}
        assert found[None] == found[default] != found[not default]
        assert found[True].high - found[True].low > 1.5 * (found[False].high - found[False].low)


def test_level_and_seed_are_95_per_cent_and_0_unless_said():
    a, b = np.random.default_rng(6).exponential(size=(2, 9))
    assert wn.mean_interval(a) == wn.mean_interval(a, 0.95, 0)
    assert wn.perplexity_interval(a) == wn.perplexity_interval(a, 0.95, 0)
    assert wn.paired_difference(a, b) == wn.paired_difference(a, b, 0.95, 0)


@pytest.mark.parametrize("neighbours", [False, True])
def test_values_that_do_not_differ(neighbours):
    assert wn.mean_interval([0.1] * 9, neighbours=neighbours) == (0.1, 0.1, 0.1)
    difference = wn.paired_difference(np.arange(9.0), np.arange(9.0) + 0.5, neighbours=neighbours)
    assert difference[:5] == (0.5, 0.5, 0.5, 9, 0)


def test_pairing_takes_out_what_both_find_hard():
    draw = np.random.default_rng(2)
    hard = draw.normal(3, 1, size=60)
    a, b = hard + draw.normal(0, 0.05, 60), hard + 0.1 + draw.normal(0, 0.05, 60)
    assert wn.mean_interval(a).high > wn.mean_interval(b).low  # by themselves they overlap
    difference = wn.paired_difference(a, b)
    assert difference.low > 0 and difference.value == pytest.approx((b - a).mean())
    assert difference.p is None  # losses are not right or wrong


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_difference_has_the_interval_of_the_differences(neighbours):
    a, b = np.random.default_rng(5).exponential(size=(2, 20))
    found = wn.paired_difference(a, b, 0.8, seed=3, neighbours=neighbours)
    assert found[:3] == wn.mean_interval(b - a, 0.8, seed=3, neighbours=neighbours)


def test_mcnemar_is_a_fair_coin_over_the_items_that_differ():
    a = [1] * 50 + [0] * 50
    b = [1] * 48 + [0] * 2 + [1] * 9 + [0] * 41  # 2 worse, 9 better
    difference = wn.paired_difference(a, b)
    assert (difference.higher, difference.lower, difference.value) == (9, 2, pytest.approx(0.07))
    assert difference.p == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    same = wn.paired_difference(a, a)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert "9 higher, 2 lower, p = 0.065" in str(difference)
    for better, worse in ((6, 0), (0, 6)):  # all to one side
        difference = wn.paired_difference([0] * better + [1] * worse + [1], [1] * better + [0] * worse + [1])
        assert difference.p == pytest.approx(2 * 0.5**6) and difference[3:5] == (better, worse)


def test_right_and_wrong_in_whatever_numbers():
    """Booleans, too, which numpy does not subtract; plain numbers come back, which JSON knows."""
    a, b = [1, 0, 1, 1], [1, 1, 1, 1]
    expected = wn.paired_difference(a, b)
    assert expected.p == 1 and expected.value == 0.25
    for dtype in (bool, np.uint8, np.float16):
        assert wn.paired_difference(np.array(a, dtype), np.array(b, dtype)) == expected
    assert wn.paired_difference(torch.tensor(a).bool(), torch.tensor(b).bool()) == expected
    for found in (expected, wn.mean_interval([0.1] * 3), wn.mean_interval(a)):
        assert {type(number) for number in found} <= {float, int}
    assert wn.paired_difference([1, 0, 1], [1, 0, 0.5], neighbours=False).p is None  # half right is neither


def test_they_print_as_a_value_and_its_range():
    assert str(uncertainty.Interval(1 / 3, -0.25, 12345.6)) == "0.3333 [-0.25, 1.235e+04]"
    difference = uncertainty.Difference(1 / 3, -0.25, 0.5, 9, 2, None)
    assert str(difference) == "+0.3333 [-0.25, +0.5], 9 higher, 2 lower"
    assert str(difference._replace(p=1 / 30)) == "+0.3333 [-0.25, +0.5], 9 higher, 2 lower, p = 0.033"


@pytest.mark.parametrize("values", [[1.0], [], [1.0, math.nan], [[1.0, 2.0], [3.0, 4.0]]])
def test_too_little_or_not_finite(values):
    with pytest.raises(ValueError, match="expected two finite numbers"):
        wn.mean_interval(values)


def test_other_items():
    with pytest.raises(ValueError, match="same items"):
        wn.paired_difference([1.0, 0.0], [1.0, 0.0, 1.0])


def test_too_few_neighbours():
    losses = torch.arange(7.0)
    with pytest.raises(ValueError, match="7 neighbouring windows are too few for an interval: expected 8 or more"):
        wn.perplexity_interval(losses)
    with pytest.raises(ValueError, match="give neighbours=False"):
        wn.paired_difference(losses, 2 * losses)
    assert wn.perplexity_interval(losses, neighbours=False).low > 0


@pytest.mark.parametrize("level", [0, 1, 95, math.nan])
def test_a_level_that_is_no_fraction(level):
    with pytest.raises(ValueError, match="expected a fraction between 0 and 1"):
        wn.mean_interval([1.0, 2.0], level)


def test_the_ratio_of_two_means_has_an_interval():
    draw = np.random.default_rng(0)
    whole = 2 + 0.3 * draw.standard_normal(64)
    part = 0.25 * whole + 0.02 * draw.standard_normal(64)
    found = uncertainty.ratio_interval(part, whole)
    assert found.value == pytest.approx(part.mean() / whole.mean()) and found.low < 0.25 < found.high
    assert found.high - found.low < 0.1 * (wn.mean_interval(part, neighbours=True)[2] - found.low)  # pairing helps
    assert uncertainty.ratio_interval(0.25 * whole, whole) == pytest.approx(
        (0.25, 0.25, 0.25)
    )  # nothing varies but the scale
    constant = uncertainty.ratio_interval(part, np.full(64, 2.0))
    assert constant == pytest.approx([end / 2 for end in wn.mean_interval(part, neighbours=True)])
    for wrong in (whole[:-1], np.tile([1.0, -1.0], 32)):
        with pytest.raises(ValueError, match="same items"):
            uncertainty.ratio_interval(part, wrong)
