"""Wrong answers that must be named, and right ones that must pass: notebook 02."""

import numpy as np
import torch

from wanda_nb import checks


def by_norm(W, X):
    norm = X.norm(dim=0)
    return W * norm, X / norm.clamp(min=1e-30)


def by_root_mean_square(W, X):
    loudness = X.square().mean(dim=0).sqrt()
    return [W * loudness, torch.nan_to_num(X / loudness)]


def with_numpy(W, X):
    W, X = W.double().numpy(), X.double().numpy()
    norm = np.sqrt((X**2).sum(axis=0))
    return -W @ np.diag(norm), -X @ np.diag(1 / np.where(norm > 0, norm, 1))


def unchanged(W, X):
    return W, X


def only_W(W, X):
    return W * X.norm(dim=0), X


def only_X(W, X):
    return W, X / X.norm(dim=0).clamp(min=1e-30)


def wrong_way(W, X):
    norm = X.norm(dim=0).clamp(min=1e-30)
    W = (W / norm).masked_fill(norm < 1e-20, 0)
    return W, X * norm


def scaled_by(factor):
    def rescaled(W, X):
        by = factor(X)
        return W * by, X / by.clamp(min=1e-30)

    return rescaled


def silent_kept(W, X):
    norm = X.norm(dim=0)
    norm = torch.where(norm > 0, norm, 1)
    return W * norm, X / norm


def divided_by_nothing(W, X):
    return W * X.norm(dim=0), X / X.norm(dim=0)


def by_rows(W, X):
    return W / W.norm(dim=1, keepdim=True), X


def per_token(W, X):
    return W * 2, X / X.norm(dim=1, keepdim=True)


def pruned_already(W, X):
    from wanda_nb import prune_mask, wanda_score

    return W.masked_fill(prune_mask(wanda_score(W, X.norm(dim=0))), 0), X


def one_tensor(W, X):
    return W * X.norm(dim=0)


def transposed_answer(W, X):
    return W.T, X.T


def mended(W, X, attention_mask, sparsity):
    score = W.abs() * X[attention_mask.bool()].norm(dim=0)
    order = score.argsort(dim=1, stable=True)
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order[:, : int(W.shape[1] * sparsity)], True)


def by_product(W, X, attention_mask, sparsity):  # a root mean square over all positions: one factor for all channels
    loudness = (X * attention_mask[..., None]).double().square().mean(dim=(0, 1)).sqrt()
    mask = torch.zeros_like(W)
    for i, row in enumerate(W.abs() * loudness):
        mask[i, row.sort(stable=True).indices[: int(len(row) * sparsity)]] = 1
    return mask


def by_numpy(W, X, attention_mask, sparsity):
    score = np.abs(W.numpy()) * np.linalg.norm(X.numpy()[attention_mask.numpy() == 1], axis=0)
    rank = score.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return rank < int(W.shape[1] * sparsity)


def careless(W, X, attention_mask, sparsity):  # as in the notebook
    loudness = X.abs().mean(dim=(0, 1))
    score = W * loudness
    line = score.flatten().kthvalue(int(score.numel() * sparsity)).values
    return score <= line


def with_padding(W, X, attention_mask, sparsity):
    return mended(W, X, torch.ones_like(attention_mask), sparsity)


def by_mean(W, X, attention_mask, sparsity):
    return mended(W, X[attention_mask.bool()].abs().mean(dim=0)[None, None], torch.ones(1, 1), sparsity)


def signed(W, X, attention_mask, sparsity):
    score = W * X[attention_mask.bool()].norm(dim=0)
    return mended(score - score.min(), torch.ones(1, 1, W.shape[1]), torch.ones(1, 1), sparsity)


def whole_layer(W, X, attention_mask, sparsity):
    score = W.abs() * X[attention_mask.bool()].norm(dim=0)
    order = score.flatten().argsort(stable=True)[: int(score.numel() * sparsity)]
    return torch.zeros(score.numel(), dtype=torch.bool).index_fill_(0, order, True).view(score.shape)


def up_to_threshold(W, X, attention_mask, sparsity):
    score = W.abs() * X[attention_mask.bool()].norm(dim=0)
    count = int(W.shape[1] * sparsity)
    return score <= (score.kthvalue(count, dim=1, keepdim=True).values if count else -1)


def two_left(W, X, attention_mask, sparsity):
    return up_to_threshold(W, X, torch.ones_like(attention_mask), sparsity)


def on_rows(W, X, attention_mask, sparsity):
    norm = X[attention_mask.bool()].norm(dim=0)
    return mended(W * norm[:, None], torch.ones(1, 1, W.shape[1]), torch.ones(1, 1), sparsity)


def per_column(W, X, attention_mask, sparsity):
    everywhere = torch.ones(1, 1, W.shape[0])
    return mended(W.T * X[attention_mask.bool()].norm(dim=0)[:, None], everywhere, torch.ones(1, 1), sparsity).T


def squared_norm(W, X, attention_mask, sparsity):
    return mended(W, X[attention_mask.bool()].square().sum(dim=0)[None, None], torch.ones(1, 1), sparsity)


def kept(W, X, attention_mask, sparsity):
    return ~mended(W, X, attention_mask, sparsity)


def later_first(W, X, attention_mask, sparsity):
    return mended(W.flip(1), X.flip(2), attention_mask, sparsity).flip(1)


def by_topk(W, X, attention_mask, sparsity):
    score = W.abs() * X[attention_mask.bool()].norm(dim=0)
    lowest = score.topk(int(W.shape[1] * sparsity), dim=1, largest=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, lowest, True)


def strictly_below(W, X, attention_mask, sparsity):
    score = W.abs() * X[attention_mask.bool()].norm(dim=0)
    count = int(W.shape[1] * sparsity)
    return score < score.sort(dim=1).values[:, count : count + 1]


def only_padding(W, X, attention_mask, sparsity):
    return mended(W, X, attention_mask == 0, sparsity)


def three_rows():
    W = np.array([[9.0, 8, 2, -1], [7, -6, 3, 2], [-8, 5, 1, 4]])
    return W, np.array([[0.1, 0.2, 5, 9], [0.2, 0, 7, 8]])


def at_random():
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(4, 8, generator=draw).abs().sort(dim=1, descending=True).values
    return W, torch.randn(50, 8, generator=draw) * 10.0 ** torch.arange(8)


def as_lists():
    return [[4, 3, 2, 1]], [[0, 1, 8, 9]]


def two_channels():
    return [[3, 2]], [[1, 9]]


def equally_loud():
    return torch.tensor([[4.0, 3, 2, 1]]), torch.eye(4)


def transposed():
    return torch.tensor([[4.0, 3, 2, 1]]), torch.tensor([[0.1], [0.2], [5.0], [9.0]])


def transposed_square():
    W = torch.tensor([[4.0, 3, 2, 1]])
    return W, torch.tensor([[0.1, 0.2, 5, 9], [0.2, 0.1, 6, 8], [0.1, 0.1, 5, 7], [0.2, 0.2, 4, 9]]).T


def all_ones():
    return torch.ones(2, 4), torch.ones(3, 4)


def zeros():
    return torch.tensor([[5.0, 4.0, 0.0, 0.0]]), torch.zeros(3, 4)


def cancelling():
    return torch.tensor([[4.0, 3, 2, -2.1]]), torch.tensor([[0.1, 0.2, 5, 5]])


def one_in_common():
    return torch.tensor([[8.0, -6, 4, 7]]), torch.tensor([[3.0, 1, 10, 2]])


def no_X():
    return torch.ones(2, 4)


def by_luck(seen=[]):  # noqa: B006
    seen.append(1)
    return equally_loud() if len(seen) % 5 == 0 else as_lists()


EXERCISES = {
    "ex02a": {
        "check": checks.rescaled,
        "right": [by_norm, by_root_mean_square, with_numpy],
        "wrong": [
            (unchanged, "nothing has changed"),
            (only_W, "X is as it was"),
            (only_X, "W is as it was"),
            (wrong_way, "the wrong way round"),
            (scaled_by(lambda X: X.square().sum(dim=0)), "squared norm"),
            (scaled_by(lambda X: X.norm(dim=0).sqrt()), "root of the norm"),
            (scaled_by(lambda X: X.abs().mean(dim=0)), "mean of |x|"),
            (scaled_by(lambda X: X.abs().amax(dim=0)), "largest |x|"),
            (scaled_by(lambda X: X.norm() * torch.ones_like(X[0])), "by one number"),
            (silent_kept, "silent channel's weights"),
            (divided_by_nothing, "0 / 0"),
            (by_rows, "X is as it was"),
            (per_token, "for all tokens"),
            (pruned_already, "you removed weights"),
            (one_tensor, "expected two tensors"),
            (transposed_answer, "expected shape"),
        ],
    },
    "ex02b": {
        "check": checks.mended_mask,
        "right": [mended, by_product, by_numpy],
        "wrong": [
            (whole_layer, "row by row"),
            (careless, "still to mend: the padding counts as if it were text; the channel's mean |x|"),
            (with_padding, "still to mend: the padding counts as if it were text."),
            (by_mean, "still to mend: the channel's mean |x| stands where its L2 norm belongs."),
            (signed, "still to mend: the sign of W counts"),
            (up_to_threshold, "still to mend: `<=` removes all that are tied"),
            (two_left, "as if it were text; `<=` removes"),
            (on_rows, "multiplied each row by a norm"),
            (per_column, "column by column"),
            (squared_norm, "squared the norm"),
            (kept, "upside down"),
            (later_first, "the later columns"),
            (by_topk, "topk promises no order"),
            (strictly_below, "fewer than asked"),
            (only_padding, "only padding counts"),
        ],
    },
    "ex02c": {
        "check": checks.disagree,
        "right": [three_rows, at_random, as_lists],
        "wrong": [
            (equally_loud, "equally loud"),
            (two_channels, "four or more"),
            (transposed, "is transposed"),
            (transposed_square, "is transposed"),
            (all_ones, "tied"),
            (zeros, "tied"),
            (cancelling, "is not smaller than magnitude's"),
            (one_in_common, "both methods remove"),
            (no_X, "do not fit"),
            (by_luck, "equally loud"),
        ],
    },
}
