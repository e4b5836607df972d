"""Intervals that hold what they promise, and pairing."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import wanda_nb as wn


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = wn.mean_interval(draw.normal(3.0, 2.0, size=80), level=0.9, seed=trial)[1:]
        inside += low <= 3.0 <= high
    assert 0.84 <= inside / 200 <= 0.95  # 0.9, two standard errors and a little


def test_it_narrows_as_the_root_of_the_items():
    values = np.random.default_rng(1).normal(size=1600)
    few, many = wn.mean_interval(values[:100]), wn.mean_interval(values)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.25)
    expected = 2 * 1.96 * values.std() / 40
    assert many.high - many.low == pytest.approx(expected, rel=0.05)


def test_perplexity_interval_is_that_of_the_mean_loss():
    losses = torch.tensor([2.0, 2.5, 3.0, 3.5])
    value, low, high = wn.perplexity_interval(losses, seed=3)
    assert value == pytest.approx(math.exp(2.75))
    assert (math.log(low), math.log(high)) == pytest.approx(wn.mean_interval(losses, seed=3)[1:])
    assert low < value < high


def test_pairing_takes_out_what_both_find_hard():
    draw = np.random.default_rng(2)
    hard = draw.normal(3, 1, size=60)
    a, b = hard + draw.normal(0, 0.05, 60), hard + 0.1 + draw.normal(0, 0.05, 60)
    assert wn.mean_interval(a).high > wn.mean_interval(b).low  # by themselves they overlap
    difference = wn.paired_difference(a, b)
    assert difference.low > 0 and difference.value == pytest.approx((b - a).mean())
    assert difference.p is None  # losses are not right or wrong


def test_mcnemar_is_a_fair_coin_over_the_items_that_differ():
    a = [1] * 50 + [0] * 50
    b = [1] * 48 + [0] * 2 + [1] * 9 + [0] * 41  # 2 worse, 9 better
    difference = wn.paired_difference(a, b)
    assert (difference.higher, difference.lower, difference.value) == (9, 2, pytest.approx(0.07))
    assert difference.p == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    same = wn.paired_difference(a, a)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert "9 higher, 2 lower, p = 0.065" in str(difference)


@pytest.mark.parametrize("values", [[1.0], [], [1.0, math.nan], [[1.0, 2.0]]])
def test_too_little_or_not_finite(values):
    with pytest.raises(ValueError, match="expected two finite numbers"):
        wn.mean_interval(values)


def test_other_items():
    with pytest.raises(ValueError, match="same items"):
        wn.paired_difference([1.0, 0.0], [1.0, 0.0, 1.0])
