"""Checks of notebook 04: what N:M leaves of a free choice, a better order of columns, and which weights fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..masks import nm_mask, prune_mask
from .core import call, done, judge, tensor


def _expected(value: Callable, chance=lambda n, m: 1 - n / m) -> Callable:
    """value: (k, n, m) averaged over k, how many of m neighbours a free mask removes, each with the same chance."""

    def mean(n, m):
        p = chance(n, m)
        return sum(math.comb(m, k) * p**k * (1 - p) ** (m - k) * value(k, n, m) for k in range(m + 1))

    return mean


def survive_by_chance(n: int, m: int) -> float:
    """The answer to Exercise 04.1: of a free mask's removals, the fraction that n:m removes too, for random scores.

    Used in notebook 04, "What it costs".
    """
    return _expected(lambda k, n, m: min(k, m - n) / (m - n))(n, m)


SURVIVORS = {
    "you tossed fair coins. With 1:4, three of four go: the chance to be removed is 1 - n / m.": (
        _expected(lambda k, n, m: min(k, m - n) / (m - n), lambda n, m: 0.5)
    ),
    "you gave the share of groups that fit as they are. In the others, some choices survive too.": (
        _expected(lambda k, n, m: k == m - n)
    ),
    "you divided by all m weights of a group. The question is what becomes of the m - n that are removed.": (
        _expected(lambda k, n, m: min(k, m - n) / m)
    ),
    "you followed the weights that are kept. n:m says how many are kept: m - n of every m are removed.": (
        _expected(lambda k, n, m: min(m - k, n) / n)
    ),
    "you gave the share that does not survive.": lambda n, m: 1 - survive_by_chance(n, m),
    "you drew the two masks independently. Both remove the lowest: the smaller choice is part of the larger.": (
        lambda n, m: 1 - n / m
    ),
    "you took all entries of the mask, those kept by both too. Ask only for what the free mask removed.": (
        _expected(lambda k, n, m: 1 - abs(k - (m - n)) / m)
    ),
    "you took min(k, n). n is how many n:m keeps: of m weights, it removes m - n.": (
        _expected(lambda k, n, m: min(k, n) / (m - n))
    ),
    "you averaged k first. min(mean of k, m - n) is not the mean of min(k, m - n).": lambda n, m: 1.0,
    "you gave weights a group. Divide by the m - n that a free mask removes on average.": (
        _expected(lambda k, n, m: min(k, m - n))
    ),
    "you averaged the share of each group. A group from which much was removed counts for more.": (
        _expected(lambda k, n, m: min(k, m - n) / k if k else 1.0)
    ),
    "you gave per cent. Give a fraction.": lambda n, m: 100 * survive_by_chance(n, m),
}


def survivors(function, graded: bool = False) -> None:
    """Exercise 04.1: ``function(n, m)`` -> the fraction of a free mask's removals that n:m removes too, by chance.

    For random scores, each weight of a group of m removed with the same chance 1 - n/m, one independent of the other.
    graded: on more patterns. AssertionError, naming the mistake. Used in notebook 04, "Exercise 04.1".
    """
    cases = [(2, 4), (1, 4), (4, 8)] + ([(1, 2), (3, 4), (16, 32), (2, 16)] if graded else [])
    judge(function, cases, survive_by_chance, SURVIVORS, tolerance=1e-6)
    done("04.1", "a binomial for the group, and the smaller of two choices in it", graded)


def _kept(score) -> float:  # (out, in) -> the share of the score that 2:4 keeps
    return float(score.masked_fill(nm_mask(score, 2, 4), 0).double().sum() / score.double().sum())


def _layer(draw, heads: int, size: int, out: int = 32) -> torch.Tensor:
    """Scores (out, heads * size) whose channels are loud or quiet by heads, as in o_proj."""
    loud = torch.randn(heads, 1, generator=draw) + 0.3 * torch.randn(heads, size, generator=draw)
    return torch.rand(out, heads * size, generator=draw) * loud.flatten().exp()


def one_order(score: torch.Tensor) -> torch.Tensor:
    """One answer to Exercise 04.2: score (out, in) -> (in,), the loudest column beside the quietest, and so on.

    Used in notebook 04, "Exercise 04.2".
    """
    loud, quiet = score.sum(dim=0).argsort(descending=True).chunk(2)
    return torch.stack([loud, quiet.flip(0)], dim=1).flatten()


def column_order(function, graded: bool = False) -> None:
    """Exercise 04.2: ``function(score)`` -> an order of the columns in which 2:4 keeps more of the score.

    score (out, in) -> (in,), the columns' numbers in their new order. Of what 2:4 loses against a free choice in the
    order given, 3/4 must come back. graded: on more layers. AssertionError, naming the mistake.
    Used in notebook 04, "Exercise 04.2".
    """
    draw, gained = torch.Generator().manual_seed(41), []
    for heads, size in ((16, 8), (16, 16)) + (((24, 8), (8, 32)) if graded else ()):
        score = _layer(draw, heads, size)
        gained.append(_gain(function, score))
    done("04.2", f"of what 2:4 loses, {min(gained):.0%} or more come back", graded)


def _gain(function: Callable, score: torch.Tensor) -> float:
    """The share of the loss that comes back, or AssertionError."""
    where, width = f"column_order(tensor {tuple(score.shape)}): ", score.shape[1]
    order = torch.as_tensor(call(function, score)).detach()
    if order.shape == score.shape:
        raise AssertionError(f"{where}every row has an order of its own. All rows read one input: one order for all.")
    if order.shape == (len(score),):
        raise AssertionError(f"{where}you ordered the rows. A group lies within a row: order the columns.")
    order = tensor(order, (width,), where.removesuffix(": "))
    if order.is_floating_point() or not torch.equal(order.sort().values.long(), torch.arange(width)):
        raise AssertionError(f"{where}this is no order: each column's number, 0 to {width - 1}, must be there once.")
    order = order.long()
    free = float(score.masked_fill(prune_mask(score, 0.5), 0).double().sum() / score.double().sum())
    as_given = _kept(score)

    def back(order):
        return (_kept(score[:, order]) - as_given) / (free - as_given)

    if back(order) >= 0.75:
        return back(order)
    if torch.equal(order, torch.arange(width)):
        raise AssertionError(f"{where}nothing has moved.")
    if back(order.argsort()) >= 0.75:
        raise AssertionError(f"{where}you gave the new place of each column. Give the columns, in their new order.")
    if back(order) < 0:
        raise AssertionError(
            f"{where}worse than before. Columns of like loudness are neighbours now: of four loud ones, two must go."
        )
    if torch.equal(order, torch.as_tensor(call(function, score.flip(1))).long()):
        raise AssertionError(f"{where}your order does not depend on the score, so only chance can make it better.")
    loud = score.sum(dim=0).argsort(descending=True).argsort() < width // 2  # (in,)
    question = "Which four columns lose little as a group?"
    if bool((loud[order].view(-1, 4).sum(dim=1) == 2).all()):
        question = "Each group has two loud columns and two quiet ones; but which one should stand beside the loudest?"
    raise AssertionError(f"{where}{back(order):.0%} of the loss came back, 75% are asked. {question}")


def _count(misfit: Callable) -> Callable:
    """misfit: (how many weights of each group are not 0, n, m) -> which groups to count, or by how much."""
    return lambda W, n, m: misfit((W != 0).reshape(len(W), -1, m).sum(dim=2), n, m).sum(dim=1)


_right = _count(lambda stored, n, m: stored > n)

MISFITS = {
    "you asked for exactly n. More zeros do no harm: a group fits if at most n of its weights are not 0.": (
        _count(lambda stored, n, m: stored != n)
    ),
    "a group with just n weights fits. Count those with more than n.": _count(lambda stored, n, m: stored >= n),
    "you compared the number of zeros with n. N:M says how many weights may be other than 0.": (
        _count(lambda stored, n, m: m - stored < n)
    ),
    "you counted the groups that fit. Count the others.": _count(lambda stored, n, m: stored <= n),
    "you counted the weights that are too many. Count groups: each counts once.": (
        _count(lambda stored, n, m: (stored - n).clamp(min=0))
    ),
    "you looked at whole rows. A row with zeros enough can still have groups that do not fit.": (
        lambda W, n, m: ((W != 0).sum(dim=1) > W.shape[1] * n // m).long()
    ),
    "your groups lie down the columns. A group is m neighbours of one row, along the input.": (
        lambda W, n, m: _right(W.T, n, m)
    ),
    "your groups overlap. They lie side by side: columns 0 to m - 1, then m to 2m - 1.": (
        lambda W, n, m: ((W != 0).unfold(1, m, 1).sum(dim=2) > n).sum(dim=1)
    ),
    "you took negative weights for zeros. All that is not 0 must be stored.": lambda W, n, m: _right(W.relu(), n, m),
}


def misfits(function, graded: bool = False) -> None:
    """Exercise 04.3: ``function(W, n, m)`` counts the groups of m in each row with more than n weights that are not 0.

    W (out, in) -> (out,) whole numbers. graded: on more cases. AssertionError, naming the mistake. Used in
    notebook 04, "Exercise 04.3".
    """
    draw = torch.Generator().manual_seed(3 if graded else 2)
    cases = [
        (torch.randn(16, 16, generator=draw) * (torch.rand(16, 16, generator=draw) < share), n, m)
        for share, n, m in ((0.6, 2, 4), (0.3, 1, 4))
    ]
    if graded:
        W = torch.randn(6, 24, generator=draw)
        cases += [(W.masked_fill(nm_mask(W.abs(), 4, 8), -0.0).bfloat16(), pair, 8) for pair in (4, 3)]
        cases += [(torch.zeros(3, 8, dtype=torch.float64), 1, 2), (W, 3, 4)]
    judge(function, cases, _right, MISFITS)
    done("04.3", "every group of m with more than n weights, none else", graded)
