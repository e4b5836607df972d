"""Wrong answers that must be named, and right ones that must pass."""

import itertools
import math

import numpy as np
import torch

from wanda_nb import checks


def by_binomials(n, m):
    gone, p = m - n, 1 - n / m
    ways = [math.comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(m + 1)]
    return sum(way * min(k, gone) for k, way in enumerate(ways)) / gone


def by_enumeration(n, m):
    """Every way in which m weights can fall, as an array."""
    if m > 16:
        return by_binomials(n, m)
    removed = np.array(list(itertools.product((0, 1), repeat=m))).sum(axis=1)
    chance = (1 - n / m) ** removed * (n / m) ** (m - removed)
    return np.float64((chance * np.minimum(removed, m - n)).sum() / (m - n))


def from_what_comes_back(n, m):
    """1 - what comes back: the free mask's excess over m - n."""
    k = torch.arange(m + 1, dtype=torch.float64)
    share = torch.distributions.Binomial(m, torch.tensor(1 - n / m, dtype=torch.float64)).log_prob(k).exp()
    return 1 - (share * (k - (m - n)).clamp(min=0)).sum() / (m - n)


def mean_of(value, n, m, p=None):
    p = 1 - n / m if p is None else p
    return sum(math.comb(m, k) * p**k * (1 - p) ** (m - k) * value(k) for k in range(m + 1))


def fair_coins(n, m):
    return mean_of(lambda k: min(k, m - n), n, m, p=0.5) / (m - n)


def groups_that_fit(n, m):
    return mean_of(lambda k: k == m - n, n, m)


def of_all_weights(n, m):
    return mean_of(lambda k: min(k, m - n), n, m) / m


def kept_ones(n, m):
    return by_binomials(m - n, m)


def lost_ones(n, m):
    return 1 - by_binomials(n, m)


def two_draws(n, m):
    return (m - n) / m


def entries_alike(n, m):
    return 1 - mean_of(lambda k: abs(k - (m - n)), n, m) / m


def group_by_group(n, m):
    return mean_of(lambda k: min(k, m - n) / max(k, 1) if k else 1, n, m)


def n_removed_of_a_group(n, m):
    return mean_of(lambda k: min(k, n), n, m) / (m - n)


def percent(n, m):
    return 100 * by_binomials(n, m)


def dealt(score):
    """The loudest quarter to the first places of the groups, the next to the second places, and so on."""
    return score.sum(dim=0).argsort(descending=True).view(4, -1).T.flatten()


def loud_with_quiet(score):
    order = np.argsort(-score.numpy().mean(axis=0))
    half = len(order) // 2
    return np.stack([order[:half], order[half:][::-1]], axis=1).ravel().copy()


def by_exchange(score):
    """Begins with the deal, then exchanges columns between two groups where that keeps more."""
    order, draw = dealt(score), torch.Generator().manual_seed(0)

    def lost(columns):
        return float(score[:, columns].view(len(score), -1, 4).sort(dim=2).values[:, :, :2].sum())

    for _ in range(30):
        a, b = torch.randint(len(order), (2,), generator=draw).tolist()
        other = order.clone()
        other[[a, b]] = order[[b, a]]
        order = other if lost(other) < lost(order) else order
    return order.tolist()


def side_by_side(score):
    return score.norm(dim=0).argsort()


def loudest_with_middling(score):
    loud, quiet = score.sum(dim=0).argsort(descending=True).chunk(2)
    return torch.stack([loud, quiet], dim=1).flatten()


def each_row_its_own(score):
    return score.argsort(dim=1)


def of_rows(score):
    return score.sum(dim=1).argsort()


def new_places(score):
    return dealt(score).argsort()


def as_it_was(score):
    return torch.arange(score.shape[1])


def loudness(score):
    return score.sum(dim=0)


def only_the_loud(score):
    order = score.sum(dim=0).argsort(descending=True)[: score.shape[1] // 2]
    return torch.stack([order, order], dim=1).flatten()


def shuffled(score):
    return torch.randperm(score.shape[1], generator=torch.Generator().manual_seed(0))


def by_one_row(score):
    return dealt(score[:1])


def counted_in_numpy(W, n, m):
    groups = W.float().numpy().reshape(W.shape[0], W.shape[1] // m, m)
    return (np.count_nonzero(groups, axis=2) > n).sum(axis=1)


def too_few_zeros(W, n, m):
    zeros = torch.stack([(group == 0).sum(dim=1) for group in W.split(m, dim=1)], dim=1)
    return (zeros < m - n).sum(dim=1).float()


def exactly(W, n, m):
    return ((W.reshape(W.shape[0], -1, m) != 0).sum(-1) != n).sum(-1)


def n_zeros(W, n, m):
    return ((W.reshape(W.shape[0], -1, m) == 0).sum(-1) < n).sum(-1)


def overlapping(W, n, m):
    windows = torch.stack([(W[:, i : i + m] != 0).sum(1) for i in range(W.shape[1] - m + 1)], dim=1)
    return (windows > n).sum(1)


def excess(W, n, m):
    more = (W.reshape(W.shape[0], -1, m) != 0).sum(-1) - n
    return torch.where(more > 0, more, 0).sum(-1)


def of_the_columns(W, n, m):
    return counted_in_numpy(W.T.contiguous(), n, m)


def positive_only(W, n, m):
    return ((W.reshape(W.shape[0], -1, m) > 0).sum(-1) > n).sum(-1)


def that_fit(W, n, m):
    return W.shape[1] // m - counted_in_numpy(W, n, m)


def sparsity_of_rows(W, n, m):
    return ((W == 0).double().mean(dim=1) < 1 - n / m).int()


EXERCISES = {
    "ex04a": {
        "check": checks.survivors,
        "right": [by_binomials, by_enumeration, from_what_comes_back],
        "wrong": [
            (fair_coins, "you tossed fair coins"),
            (groups_that_fit, "groups that fit as they are"),
            (of_all_weights, "divided by all m"),
            (kept_ones, "the weights that are kept"),
            (lost_ones, "does not survive"),
            (two_draws, "independently"),
            (entries_alike, "all entries of the mask"),
            (group_by_group, "counts for more"),
            (n_removed_of_a_group, "you took min(k, n)"),
            (percent, "per cent"),
        ],
    },
    "ex04b": {
        "check": checks.column_order,
        "right": [dealt, loud_with_quiet, by_exchange, checks.one_order],
        "wrong": [
            (side_by_side, "worse than before"),
            (loudest_with_middling, "which one should stand beside the loudest"),
            (each_row_its_own, "an order of its own"),
            (of_rows, "you ordered the rows"),
            (new_places, "the new place of each column"),
            (as_it_was, "nothing has moved"),
            (loudness, "this is no order"),
            (only_the_loud, "this is no order"),
            (shuffled, "does not depend on the score"),
            (by_one_row, "of the loss came back"),
        ],
    },
    "ex04c": {
        "check": checks.misfits,
        "right": [counted_in_numpy, too_few_zeros],
        "wrong": [
            (exactly, "you asked for exactly n"),
            (n_zeros, "the number of zeros"),
            (overlapping, "overlap"),
            (excess, "each counts once"),
            (of_the_columns, "down the columns"),
            (positive_only, "negative weights"),
            (that_fit, "the groups that fit"),
            (sparsity_of_rows, "whole rows"),
        ],
    },
}
