"""Wrong answers that must be named, and right ones that must pass: notebook 02."""

import numpy as np
import torch

from wanda_nb import checks


def with_numpy(W, norm):
    return np.abs(W.double().numpy()) * norm.double().numpy()[None, :]


def column_by_column(W, norm):
    score = W.abs().float()
    for j, loudness in enumerate(norm.tolist()):
        score[:, j] *= loudness
    return score


def by_diagonal(W, norm):
    return W.abs().double() @ torch.diag(norm.double())


def squared_norm(W, norm):
    return W.abs() * norm**2


def signed(W, norm):
    return W * norm.unsqueeze(0)


def along_outputs(W, norm):
    return W.abs() * norm.unsqueeze(1)


def of_rows(W, norm):
    return W.abs() * W.float().norm(dim=1)[:, None]


def squared_weight(W, norm):
    return W**2 * norm


def without_norm(W, norm):
    return W.abs()


def rounded(W, norm):
    return (W.abs() * norm).to(W.dtype)


def by_sort(score, sparsity):
    mask = torch.zeros_like(score, dtype=torch.bool)
    for i, row in enumerate(score):
        mask[i, row.sort(stable=True).indices[: int(len(row) * sparsity)]] = True
    return mask


def by_numpy(score, sparsity):
    rank = score.double().numpy().argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return rank < int(score.shape[1] * sparsity)


def by_counting(score, sparsity):
    earlier = torch.ones(score.shape[1], score.shape[1]).tril(-1).bool()  # [j, i]: i stands before j
    own, other = score[:, :, None], score[:, None, :]
    before = (other < own) | ((other == own) & earlier)
    return (before.sum(dim=2) < int(score.shape[1] * sparsity)).int()


def whole_layer(score, sparsity):
    order = score.flatten().argsort(stable=True)[: int(score.numel() * sparsity)]
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.view(score.shape)


def per_column(score, sparsity):
    return by_sort(score.T, sparsity).T


def highest(score, sparsity):
    return by_sort(-score, sparsity)


def kept(score, sparsity):
    return ~by_sort(score, sparsity)


def up_to_threshold(score, sparsity):
    count = int(score.shape[1] * sparsity)
    return score <= score.float().kthvalue(max(count, 1), dim=1, keepdim=True).values


def later_first(score, sparsity):
    width = score.shape[1]
    order = width - 1 - score.flip(1).argsort(dim=1, stable=True)
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, order[:, : int(width * sparsity)], True)


def rounded_up(score, sparsity):
    order = score.argsort(dim=1, stable=True)
    count = -int(-score.shape[1] * sparsity // 1)
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, order[:, :count], True)


def what_to_keep(score, sparsity):
    return by_sort(score, 1 - sparsity)


def three_rows():
    W = np.array([[9.0, 8, 2, -1], [7, -6, 3, 2], [-8, 5, 1, 4]])
    return W, np.array([[0.1, 0.2, 5, 9], [0.2, 0, 7, 8]])


def at_random():
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(4, 8, generator=draw).abs().sort(dim=1, descending=True).values
    return W, torch.randn(50, 8, generator=draw) * 10.0 ** torch.arange(8)


def as_lists():
    return [[3, 2]], [[1, 9]]


def equally_loud():
    return torch.tensor([[4.0, 3, 2, 1]]), torch.eye(4)


def transposed():
    return torch.tensor([[2.0, 1.0]]), torch.tensor([[0.1], [5.0]])


def transposed_square():
    W = torch.tensor([[2.0, 1.0]])
    return W, torch.tensor([[0.1, 5.0], [0.2, 4.0]]).T


def all_ones():
    return torch.ones(2, 4), torch.ones(3, 4)


def zeros():
    return torch.tensor([[5.0, 4.0, 0.0, 0.0]]), torch.zeros(3, 4)


def cancelling():
    return torch.tensor([[4.0, 3, 2, -2.1]]), torch.tensor([[0.1, 0.2, 5, 5]])


def one_in_common():
    return torch.tensor([[8.0, -6, 4, 7]]), torch.tensor([[3.0, 1, 10, 2]])


def only_W():
    return torch.ones(2, 4)


def by_luck(seen=[]):  # noqa: B006
    seen.append(1)
    return equally_loud() if len(seen) % 5 == 0 else as_lists()


EXERCISES = {
    "ex02a": {
        "check": checks.my_wanda_score,
        "right": [with_numpy, column_by_column, by_diagonal],
        "wrong": [
            (squared_norm, "squared the norm"),
            (signed, "kept the sign"),
            (along_outputs, "multiplied each row by a norm"),
            (of_rows, "W's own rows"),
            (squared_weight, "squared W"),
            (without_norm, "this is magnitude"),
            (rounded, "16 bit"),
        ],
    },
    "ex02b": {
        "check": checks.row_mask,
        "right": [by_sort, by_numpy, by_counting],
        "wrong": [
            (whole_layer, "over the whole layer"),
            (per_column, "column by column"),
            (highest, "removed the highest"),
            (kept, "upside down"),
            (up_to_threshold, "removes all ties"),
            (later_first, "the later columns"),
            (rounded_up, "sparsity up"),
            (what_to_keep, "the fraction to remove"),
        ],
    },
    "ex02c": {
        "check": checks.disagree,
        "right": [three_rows, at_random, as_lists],
        "wrong": [
            (equally_loud, "equally loud"),
            (transposed, "is transposed"),
            (transposed_square, "is transposed"),
            (all_ones, "tied"),
            (zeros, "tied"),
            (cancelling, "is not smaller than magnitude's"),
            (one_in_common, "both methods remove"),
            (only_W, "do not fit"),
            (by_luck, "equally loud"),
        ],
    },
}
