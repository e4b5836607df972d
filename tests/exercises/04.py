"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

from wanda_nb import checks


def in_numpy(score, n, m):
    groups = score.float().numpy().reshape(-1, m)
    mask = np.zeros_like(groups, dtype=bool)
    np.put_along_axis(mask, np.argsort(groups, axis=1, kind="stable")[:, : m - n], True, axis=1)
    return mask.reshape(score.shape)


def by_ranks(score, n, m):
    groups = score.double().view(score.shape[0], score.shape[1] // m, m)
    ranks = groups.argsort(dim=-1, stable=True).argsort(dim=-1)
    return (ranks < m - n).flatten(1)


def with_loops(score, n, m):
    mask = torch.zeros(score.shape)  # 0 and 1 do as well
    for row in range(score.shape[0]):
        for start in range(0, score.shape[1], m):
            order = sorted(range(start, start + m), key=lambda column: float(score[row, column]))
            mask[row, order[: m - n]] = 1
    return mask


def n_go(score, n, m):
    groups = score.reshape(-1, m)
    gone = groups.argsort(dim=1, stable=True)[:, :n]
    return torch.zeros_like(groups).scatter(1, gone, 1).reshape(score.shape).bool()


def down_the_columns(score, n, m):
    mask = torch.zeros_like(score, dtype=torch.bool)
    for start in range(0, score.shape[0], m):
        order = score[start : start + m].argsort(dim=0, stable=True)[: m - n]
        mask[start : start + m].scatter_(0, order, True)
    return mask


def far_apart(score, n, m):
    groups = score.reshape(score.shape[0], m, -1)
    order = groups.argsort(dim=1, stable=True)[:, : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(1, order, True).reshape(score.shape)


def highest_go(score, n, m):
    groups = score.reshape(-1, m)
    order = groups.argsort(dim=1, descending=True, stable=True)[:, : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(1, order, True).reshape(score.shape)


def whole_rows(score, n, m):
    order = score.argsort(dim=1, stable=True)[:, : score.shape[1] * (m - n) // m]
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, order, True)


def up_to_threshold(score, n, m):
    groups = score.float().reshape(-1, m)
    return (groups <= groups.kthvalue(m - n, dim=1, keepdim=True).values).reshape(score.shape)


def later_first(score, n, m):
    groups = score.reshape(-1, m)
    kept = groups.argsort(dim=1, descending=True, stable=True)[:, :n]
    return torch.ones_like(groups, dtype=torch.bool).scatter(1, kept, False).reshape(score.shape)


def what_is_kept(score, n, m):
    return ~by_ranks(score, n, m)


def in_bits_first(out_features, in_features, itemsize):
    kept = out_features * in_features // 2
    return (kept * itemsize * 8 + kept * 2) // 8


def group_by_group(out_features, in_features, itemsize):
    return out_features * (in_features // 4) * (2 * itemsize + 0.5)


def no_positions(out_features, in_features, itemsize):
    return out_features * in_features // 2 * itemsize


def byte_each(out_features, in_features, itemsize):
    return out_features * in_features // 2 * (itemsize + 1)


def bit_each(out_features, in_features, itemsize):
    return out_features * in_features // 2 * itemsize + out_features * in_features // 2 // 8


def two_bits_for_all(out_features, in_features, itemsize):
    numel = out_features * in_features
    return numel / 2 * itemsize + 2 * numel / 8


def zeros_too(out_features, in_features, itemsize):
    numel = out_features * in_features
    return numel * itemsize + numel // 2 * 2 // 8


def bits(out_features, in_features, itemsize):
    return 8 * in_bits_first(out_features, in_features, itemsize)


def three_bits_a_group(out_features, in_features, itemsize):
    groups = out_features * in_features / 4
    return groups * 2 * itemsize + groups * 3 / 8


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
        "check": checks.nm_mask_by_me,
        "right": [in_numpy, by_ranks, with_loops],
        "wrong": [
            (n_go, "you removed n of every m"),
            (down_the_columns, "down the columns"),
            (far_apart, "not neighbours"),
            (highest_go, "removed the highest"),
            (whole_rows, "over the whole row"),
            (up_to_threshold, "removes all ties"),
            (later_first, "removed the later columns"),
            (what_is_kept, "upside down"),
        ],
    },
    "ex04b": {
        "check": checks.two_four_bytes,
        "right": [in_bits_first, group_by_group],
        "wrong": [
            (no_positions, "the values alone"),
            (byte_each, "a byte on each position"),
            (bit_each, "one bit for each kept weight"),
            (two_bits_for_all, "2 bits on every weight"),
            (zeros_too, "the zeros too"),
            (bits, "you gave bits"),
            (three_bits_a_group, "in 3 bits"),
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
