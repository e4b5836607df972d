"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

from wanda_nb import checks


def wanda(W, norm):
    return torch.abs(W) * norm[None, :]


def root(W, norm):
    return W.abs() * norm.sqrt()


def squared_in_numpy(W, norm):
    return (W.numpy().astype(float) * norm.numpy()) ** 2


def logarithm(W, norm):  # minus infinity where W is zero: an order all the same
    return W.abs().log() + norm.log()


def in_place(W, norm):
    W.abs_()
    norm.clamp_(max=float(10 * norm.median()))
    return W.mul_(norm)


def sum_of_two(W, norm):
    return W.abs() / W.abs().mean() + norm / norm.mean()


def magnitude(W, norm):
    return W.abs()


def magnitude_in_disguise(W, norm):
    return (W**2) * norm.mean()


def one_a_channel(W, norm):
    return W.abs().mean(dim=0) * norm


def upside_down(W, norm):
    return 1 / (1e-9 + W.abs() * norm)


def quiet_first(W, norm):
    return W.abs() / (norm + 1e-12)


def signed(W, norm):
    return W * norm


def norm_alone(W, norm):
    return 0 * W + norm


def roots_of_negatives(W, norm):
    return torch.sqrt(W * norm)


def shares(W, norm):  # fine, but for a column of zeros
    return W.abs() / W.abs().sum(dim=0) * norm


def far_too_loud(W, norm):
    return W.abs() * norm**6


def transposed(W, norm):
    return (W.abs() * norm).T


def forgot(W, norm):
    W.abs() * norm


def by_ranges(a, b):
    if a.max() < b.min():
        return -1
    return 1 if b.max() < a.min() else 0


def all_pairs(a, b):
    differences = a[:, None] - b[None, :]
    return int((differences > 0).all()) - int((differences < 0).all())


def sorted_in_numpy(a, b):
    a, b = np.sort(a.numpy()), np.sort(b.numpy())
    return np.int64(b[-1] < a[0]) - np.int64(a[-1] < b[0])


def means(a, b):
    return -1 if a.mean() < b.mean() else 1


def means_with_ties(a, b):
    return 0 if a.mean() == b.mean() else means(a, b)


def best(a, b):
    return int(torch.sign(min(a) - min(b)))


def worst(a, b):
    return int(torch.sign(max(a) - max(b)))


def medians(a, b):
    return int(np.sign(np.sort(a.numpy())[(len(a) - 1) // 2] - np.sort(b.numpy())[(len(b) - 1) // 2]))


def paired(a, b):
    ahead = (a - b).sign()
    return int(ahead[0]) if len(set(ahead.tolist())) == 1 else 0


def swapped(a, b):
    return -by_ranges(a, b)


def touching(a, b):
    if max(a) <= min(b):
        return -1
    return 1 if max(b) <= min(a) else 0


def only_one_side(a, b):
    return -1 if max(a) < min(b) else 0


def deviations(a, b):
    (a, s), (b, t) = ((x.mean(), x.std(correction=min(1, len(x) - 1))) for x in (a, b))
    return -1 if a + s < b - t else int(b + t < a - s)


EXERCISES = {
    "ex09a": {
        "check": checks.clear_winner,
        "right": [by_ranges, all_pairs, sorted_in_numpy],
        "wrong": [
            (means, "means only"),
            (means_with_ties, "means only"),
            (medians, "medians only"),
            (best, "the best of each"),
            (worst, "the worst of each"),
            (paired, "draw by draw"),
            (swapped, "sign is swapped"),
            (touching, "< and not <="),
            (only_one_side, "b never wins"),
            (deviations, "a standard deviation"),
        ],
    },
    "ex09b": {
        "check": checks.my_score,
        "right": [wanda, root, squared_in_numpy, logarithm, in_place, sum_of_two],
        "wrong": [
            (magnitude, "the same weights as magnitude"),
            (magnitude_in_disguise, "the same weights as magnitude"),
            (one_a_channel, "one score for each weight"),
            (transposed, "one score for each weight"),
            (upside_down, "upside down"),
            (quiet_first, "the louder a channel"),
            (signed, "negative weights score lowest"),
            (norm_alone, "Look at W too"),
            (roots_of_negatives, "NaN"),
            (shares, "NaN"),
            (far_too_loud, "your score loses"),
            (forgot, "Does it end with a return"),
        ],
    },
}
