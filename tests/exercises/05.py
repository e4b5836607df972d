"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

from wanda_nb import checks


def in_place(H, share):
    H.diagonal().add_(share * H.diagonal().mean())
    return H


def damped_in_numpy(H, share):
    H = H.numpy()
    return H + share * np.trace(H) / len(H) * np.identity(len(H))


def everywhere(H, share):
    return H + share * H.trace() / len(H)


def share_itself(H, share):
    return H + share * torch.eye(len(H))


def each_its_own(H, share):
    H.diagonal().mul_(1 + share)
    return H


def mean_of_all(H, share):
    H.diagonal().add_(share * H.sum() / H.numel())
    return H


def by_the_trace(H, share):
    return H + share * torch.trace(H) * torch.eye(len(H))


def by_solving(w, H):
    return w * w / torch.linalg.solve(H, torch.eye(len(H), dtype=H.dtype)).diagonal()


def by_trying(w, H):
    """Removes each, moves the others as the formula says, and measures."""
    inverse = torch.linalg.inv(H.double())
    moves = [-w[q].double() / inverse[q, q] * inverse[:, q] for q in range(len(w))]
    return torch.stack([move @ H.double() @ move for move in moves])


def cost_in_numpy(w, H):
    return w.numpy() ** 2 / np.diag(np.linalg.inv(H.numpy()))


def diagonal_of_H(w, H):
    return w**2 / torch.diag(H)


def inverse_of_diagonal(w, H):
    return w**2 / torch.diag(1 / torch.diag(H)).diagonal()


def no_square(w, H):
    return w / H.inverse().diagonal()


def as_in_1992(w, H):
    return 0.5 * w**2 / H.inverse().diagonal()


def hessian_with_two(w, H):
    return w**2 / torch.inverse(2 * H).diagonal()


def through_the_triangle(w, H):
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    return w**2 / U.diagonal() ** 2


def by_normal_equations(w, mask, X):
    kept = (~mask).nonzero()[:, 0]
    H = X.T @ X
    new = torch.zeros_like(w)
    new[kept] = torch.linalg.solve(H[kept][:, kept], H[kept] @ w)
    return new


def best_in_numpy(w, mask, X):
    w, kept, X = w.numpy().copy(), ~mask.numpy(), X.numpy()
    w[kept] = np.linalg.lstsq(X[:, kept], X @ w, rcond=None)[0]
    w[~kept] = 0
    return w


def with_multipliers(w, mask, X):
    """OBS for several weights at once."""
    inverse = torch.linalg.inv(X.T @ X)
    q = mask.nonzero()[:, 0]
    if len(q) == 0:
        return w
    delta = -inverse[:, q] @ torch.linalg.solve(inverse[q][:, q], w[q])
    return (w + delta).masked_fill(mask, 0)


def only_removed(w, mask, X):
    w[mask] = 0
    return w


def to_the_pruned_output(w, mask, X):
    new = torch.zeros_like(w)
    new[~mask] = torch.linalg.lstsq(X[:, ~mask], X @ torch.where(mask, 0, w)).solution
    return new


def all_channels(w, mask, X):
    return torch.linalg.lstsq(X, X @ w).solution


def upside_down(w, mask, X):
    return by_normal_equations(w, ~mask, X)


def one_after_the_other(w, mask, X):
    inverse = torch.linalg.inv(X.T @ X)
    delta = torch.zeros_like(w)
    for q in mask.nonzero()[:, 0]:
        delta -= w[q] / inverse[q, q] * inverse[:, q]
    w += delta
    w[mask] = 0
    return w


def only_to_the_right(w, mask, X):
    H = X.T @ X
    for q in mask.nonzero()[:, 0].tolist():
        rest = torch.linalg.inv(H[q:, q:])
        w[q:] -= w[q] / rest[0, 0] * rest[0]
    return w.masked_fill(mask, 0)


def only_the_move(w, mask, X):
    return best_in_numpy(w, mask, X) - w.numpy()


EXERCISES = {
    "ex05a": {
        "check": checks.damped,
        "right": [in_place, damped_in_numpy],
        "wrong": [
            (everywhere, "every element"),
            (share_itself, "the share itself"),
            (each_its_own, "its own size"),
            (mean_of_all, "the mean over all of H"),
            (by_the_trace, "the sum of the diagonal"),
        ],
    },
    "ex05b": {
        "check": checks.removal_cost,
        "right": [by_solving, by_trying, cost_in_numpy],
        "wrong": [
            (diagonal_of_H, "you divided by the diagonal of H"),
            (inverse_of_diagonal, "Wanda's score, squared"),
            (no_square, "did not square"),
            (as_in_1992, "half of it"),
            (hessian_with_two, "twice as much"),
            (through_the_triangle, "the triangle U"),
        ],
    },
    "ex05c": {
        "check": checks.best_weights,
        "right": [by_normal_equations, best_in_numpy, with_multipliers],
        "wrong": [
            (only_removed, "the kept weights did not move"),
            (to_the_pruned_output, "the kept weights did not move"),
            (all_channels, "nothing was removed"),
            (upside_down, "upside down"),
            (one_after_the_other, "moves of single removals"),
            (only_to_the_right, "only weights to the right"),
            (only_the_move, "Return the new weights"),
        ],
    },
}
