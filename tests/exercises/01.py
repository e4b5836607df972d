"""Wrong answers that must be named, and right ones that must pass: notebook 01."""

import numpy as np
import torch

from wanda_nb import checks


def from_zero(batches):
    squares = None
    for X in batches:
        energy = (X.float() ** 2).sum(0, keepdim=True)
        squares = energy if squares is None else squares + energy
    return squares.squeeze(0) ** 0.5


def by_pythagoras(batches):
    norm = torch.zeros(())
    for X in batches:
        norm = torch.hypot(norm, torch.linalg.vector_norm(X.double(), dim=0))
    return norm


def with_numpy(batches):
    return np.sqrt(sum((X.double().numpy() ** 2).sum(axis=0) for X in batches))


def never_rooted(batches):
    return sum(X.float().pow(2).sum(0) for X in batches)


def over_channels(batches):
    return torch.cat([X.float().pow(2).sum(-1).sqrt() for X in batches])


def of_each_batch(batches):
    norm = 0
    for X in batches:
        norm = norm + X.float().norm(dim=0)
    return norm


def overwritten(batches):
    for X in batches:
        squares = X.float().square().sum(dim=0)
    return squares.sqrt()


def too_early(batches):
    for X in batches:
        return X.float().square().sum(dim=0).sqrt()


def root_mean_square(batches):
    squares, tokens = 0, 0
    for X in batches:
        squares, tokens = squares + X.float().square().sum(dim=0), tokens + len(X)
    return (squares / tokens).sqrt()


def in_their_dtype(batches):
    squares = 0
    for X in batches:
        squares = squares + X.square().sum(dim=0)
    return squares.sqrt()


def squared_too_early(batches):
    squares = 0
    for X in batches:
        squares = squares + X.square().float().sum(dim=0)
    return squares.sqrt()


def all_at_once(batches):
    return torch.cat(list(batches)).float().norm(dim=0)


def nothing_returned(batches):
    sum(X.float().square().sum(dim=0) for X in batches).sqrt()


def by_product(X, attention_mask):
    return (X.float() * attention_mask.unsqueeze(-1)).square().sum(dim=(0, 1)).sqrt()


def by_numpy(X, attention_mask):
    return np.linalg.norm(X.double().numpy()[attention_mask.numpy() > 0], axis=0)


def in_place(X, attention_mask):
    X[attention_mask == 0] = 0
    return X.flatten(0, 1).double().norm(dim=0)


def sample_by_sample(X, attention_mask):
    squares = torch.zeros(X.shape[-1])
    for sample, mask in zip(X, attention_mask, strict=True):
        squares += sample[mask.bool()].float().pow(2).sum(0)
    return squares**0.5


def with_padding(X, attention_mask):
    return X.reshape(-1, X.shape[-1]).float().norm(dim=0)


def on_channels(X, attention_mask):
    return (X.float() * attention_mask[:, None, :]).square().sum(dim=(0, 1)).sqrt()


def without_axis(X, attention_mask):
    return (X.float() * attention_mask).square().sum(dim=(0, 1)).sqrt()


def swapped(X, attention_mask):
    return X.transpose(0, 1)[attention_mask.bool()].float().norm(dim=0)


def full_samples(X, attention_mask):
    full = attention_mask.sum(dim=1) == X.shape[1]
    return X[full].float().square().sum(dim=(0, 1)).sqrt()


def by_number(X, attention_mask):
    return X[attention_mask.long()].float().reshape(-1, X.shape[-1]).norm(dim=0)


def mean_over_real(X, attention_mask):
    real = X[attention_mask.bool()].float()
    return (real.square().sum(dim=0) / len(real)).sqrt()


def mean_of_sizes(X, attention_mask):
    return X[attention_mask.bool()].float().abs().mean(dim=0)


def sum_of_sizes(X, attention_mask):
    return (X.float().abs() * attention_mask[..., None]).sum(dim=(0, 1))


def squares_of_real(X, attention_mask):
    return X[attention_mask.bool()].float().square().sum(dim=0)


def only_padding(X, attention_mask):
    return X[~attention_mask.bool()].float().norm(dim=0)


def squared_in_16_bit(X, attention_mask):
    return X[attention_mask.bool()].square().float().sum(dim=0).sqrt()


def by_loop(norm, factor):
    limit = factor * sorted(norm.tolist())[len(norm) // 2]
    return sorted((c for c, value in enumerate(norm.tolist()) if value > limit), key=lambda c: -norm[c])


def by_sort(norm, factor):
    values, channels = norm.sort(descending=True)
    return channels[values / norm.median() > factor]


def in_numpy(norm, factor):
    norm = norm.numpy()
    channels = np.flatnonzero(norm > factor * np.median(norm))
    return channels[np.argsort(-norm[channels])]


def above_the_mean(norm, factor):
    channels = (norm / norm.mean() > factor).nonzero().flatten()
    return channels[norm[channels].argsort(descending=True)]


def unsorted(norm, factor):
    return torch.where(norm > factor * norm.median())[0]


def ascending(norm, factor):
    order = norm.argsort()
    return order[norm[order] > factor * norm.median()]


def at_least(norm, factor):
    values, channels = norm.sort(descending=True)
    return channels[values >= factor * norm.median()]


def squares(norm, factor):
    return by_sort(norm**2, factor)


def top_three(norm, factor):
    return norm.topk(3).indices


def among_themselves(norm, factor):
    return norm[norm > factor * norm.median()].sort(descending=True).indices


def the_norms(norm, factor):
    return norm[norm > factor * norm.median()]


def a_mask(norm, factor):
    return norm > factor * norm.median()


EXERCISES = {
    "ex01a": {
        "check": checks.streaming_norm,
        "right": [from_zero, by_pythagoras, with_numpy],
        "wrong": [
            (never_rooted, "squared norm"),
            (over_channels, "norm of each token"),
            (of_each_batch, "added the norms of the batches"),
            (overwritten, "only the last batch"),
            (too_early, "only the first batch"),
            (root_mean_square, "number of tokens, a mean"),
            (in_their_dtype, "in 16 bit"),
            (squared_too_early, "in 16 bit"),
            (all_at_once, "batches at once"),
            (nothing_returned, "None"),
        ],
    },
    "ex01b": {
        "check": checks.masked_norm,
        "right": [by_product, by_numpy, in_place, sample_by_sample],
        "wrong": [
            (with_padding, "counted the padding"),
            (on_channels, "masked channels"),
            (without_axis, "the mask as it is"),
            (swapped, "samples and length swapped"),
            (full_samples, "every sample that has padding"),
            (by_number, "picks sample 0 or 1"),
            (mean_over_real, "number of real tokens, a mean"),
            (mean_of_sizes, "the mean of |x|"),
            (sum_of_sizes, "added absolute values"),
            (squares_of_real, "squared norm"),
            (only_padding, "upside down"),
            (squared_in_16_bit, "in 16 bit"),
        ],
    },
    "ex01c": {
        "check": checks.outliers,
        "right": [by_loop, by_sort, in_numpy],
        "wrong": [
            (above_the_mean, "compared with the mean"),
            (unsorted, "by number"),
            (ascending, "loudest last"),
            (at_least, "exactly factor times the median"),
            (squares, "compared squared norms"),
            (top_three, "the 3 loudest"),
            (among_themselves, "places among the outliers"),
            (the_norms, "Are they norms?"),
            (a_mask, "torch.bool"),
        ],
    },
}
