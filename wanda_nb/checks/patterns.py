"""Checks of notebook 04: N:M masks, what they store, and which weights fit them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..masks import nm_mask, prune_mask
from .core import done, judge


def _in_groups(rule: Callable) -> Callable:
    """rule: (groups of m, how many of each go) -> mask."""
    return lambda score, n, m: rule(score.reshape(-1, m), m - n).reshape(score.shape)


def _kth(groups, count):
    return groups.sort(dim=1).values[:, [count - 1]]


def _strided(score, n, m):  # the groups take every (in / m)-th column
    groups = score.reshape(len(score), m, -1).transpose(1, 2)
    return nm_mask(groups.reshape(-1, m), n, m).reshape(groups.shape).transpose(1, 2).reshape(score.shape)


NM_MASK = {
    "you removed n of every m. N:M says how many are kept: m - n of every m go.": (
        lambda score, n, m: nm_mask(score, m - n, m)
    ),
    "your groups lie down the columns. A group is m neighbours of one row, along the input.": (
        lambda score, n, m: nm_mask(score.T, n, m).T
    ),
    "your groups are not neighbours: m columns far apart. A group is columns 0 to m - 1, then m to 2m - 1.": _strided,
    "you removed the highest scores of each group. The lowest must go.": lambda score, n, m: nm_mask(-score, n, m),
    "you compared over the whole row. Each group of m competes by itself.": (
        lambda score, n, m: prune_mask(score, 1 - n / m)
    ),
    "`<=` a threshold removes all ties, and so too many. Exactly m - n of each group must go.": (
        _in_groups(lambda groups, count: groups <= _kth(groups, count))
    ),
    "`<` a threshold keeps all ties, and so removes too few. Exactly m - n of each group must go.": (
        _in_groups(lambda groups, count: groups < _kth(groups, count))
    ),
    "among equal scores you removed the later columns. The earlier go first, as in a stable sort.": (
        lambda score, n, m: nm_mask(score.flip(1), n, m).flip(1)
    ),
    "among equal scores topk takes any. The earlier column must go first: sort with stable=True.": _in_groups(
        lambda groups, count: torch.zeros_like(groups, dtype=torch.bool).scatter(
            1, groups.topk(count, dim=1, largest=False).indices, True
        )
    ),
}


def nm_mask_by_me(function, graded: bool = False) -> None:
    """Exercise 04.1: ``function(score, n, m)`` keeps the n highest of every m neighbours in a row.

    score (out, in) -> mask (out, in) bool, True = removed; ties to the earlier column. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 04, "Exercise 04.1".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    rows = [[9.0, 1, 8, 7, 2, 3, 6, 4], [1, 2, 3, 4, 9, 8, 7, 6], [5, 1, 6, 2, 7, 3, 8, 4], [4, 4, 2, 4, 5, 5, 5, 5]]
    cases = [(torch.tensor(rows), 2, 4), (torch.rand(4, 12, generator=draw), 1, 4)]
    cases += [(torch.randint(0, 3, (8, 16), generator=draw).float(), 2, 4)]  # ties everywhere
    if graded:
        cases += [(torch.randint(0, 9, (16, 32), generator=draw).bfloat16(), 4, 8)]
        cases += [(torch.rand(6, 10, generator=draw, dtype=torch.float64), 1, 2), (torch.zeros(4, 8), 3, 4)]
    judge(function, cases, nm_mask, NM_MASK)
    done("04.1", "n of every m neighbours stay, ties to the earlier column", graded)


def _bytes(values: float, bits: float) -> Callable:
    """values: how many are stored, bits: spent on positions; both for each weight of the full matrix."""
    return lambda out, width, itemsize: out * width * (values * itemsize + bits / 8)


TWO_FOUR_BYTES = {
    "you stored the values alone. Each also needs its position in the group, 0 to 3: 2 bits.": _bytes(1 / 2, 0),
    "you spent a byte on each position. 0 to 3 fit in 2 bits, four positions to a byte.": _bytes(1 / 2, 8 / 2),
    "you spent 2 bytes on each position. It takes 2 bits: divide by 8.": _bytes(1 / 2, 16 / 2),
    "one bit for each kept weight (2 bits a group) is too little. Each of the two in a group needs 2 bits.": (
        _bytes(1 / 2, 1 / 2)
    ),
    "you spent 2 bits on every weight. Only the kept half has positions to store.": _bytes(1 / 2, 2),
    "you numbered the six patterns of a group, in 3 bits. The hardware stores 2 bits for each kept weight.": (
        _bytes(1 / 2, 3 / 4)
    ),
    "you stored all values, the zeros too. Half of them are kept.": _bytes(1, 1),
    "this is the dense matrix. 2:4 stores half of the values, and their positions.": _bytes(1, 0),
    "you gave bits. The answer is in bytes: 8 bits each.": _bytes(8 / 2, 8),
}


def two_four_bytes(function, graded: bool = False) -> None:
    """Exercise 04.2: ``function(out_features, in_features, itemsize)`` -> bytes of a layer stored as 2:4.

    Half of the values, itemsize bytes each, and 2 bits for the position of each. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 04, "Exercise 04.2".
    """
    cases = [(1, 16, 2), (1536, 576, 2), (8, 32, 4)]
    if graded:
        cases += [(4096, 11008, 2), (3, 64, 1), (576, 1536, 8)]
    judge(function, cases, _bytes(1 / 2, 2 / 2), TWO_FOUR_BYTES, tolerance=1e-6)
    done("04.2", "half of the values, and 2 bits for the position of each", graded)


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
