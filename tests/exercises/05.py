"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

import wanda_nb as wn
from wanda_nb import checks


def by_halves(W, X, mask, shares):
    fitted, unseen = X.chunk(2)

    def error(share):
        return float((unseen @ (wn.least_squares(W, fitted.T @ fitted, mask, damping=share)[0] - W).T).norm())

    return min(shares, key=error)


def by_the_gram_of_the_second(W, X, mask, shares):
    half = len(X) // 2
    first, second = X[:half].T @ X[:half], X[half:].T @ X[half:]
    errors = [wn.output_error(W, wn.least_squares(W, first, mask, share)[0], second) for share in shares]
    return torch.tensor(shares)[np.argmin(errors)]


def solved_row_by_row(W, X, mask, shares):
    """In float64 and numpy, and by its own damping."""
    first, second = np.split(X.double().numpy(), 2)
    errors = []
    for share in shares:
        H = torch.tensor(first.T @ first)
        H.diagonal().add_(share * H.diagonal().mean())
        new = torch.stack([dense_row(w, gone, H) for w, gone in zip(W.double(), mask, strict=True)])
        errors.append(((second @ (new - W).T.numpy()) ** 2).sum())
    return np.float64(shares[int(np.argmin(errors))])


def errors_by_share(W, X, mask, shares, fitted=slice(None, None), judged=slice(None, None), **damped):
    H = X[fitted].T @ X[fitted]
    found = {share: wn.least_squares(W, H, mask, **(damped or {"damping": share}))[0] for share in shares}
    return {share: float((X[judged] @ (new - W).T).norm()) for share, new in found.items()}


def lowest(errors):
    return min(errors, key=errors.get)


def of_halves(W, X, mask, shares, **damped):
    half = len(X) // 2
    return errors_by_share(W, X, mask, shares, slice(None, half), slice(half, None), **damped)


def judged_on_the_fit(W, X, mask, shares):
    return lowest(errors_by_share(W, X, mask, shares))


def least_moved(W, X, mask, shares):
    H = X.T @ X
    return min(shares, key=lambda share: float((wn.least_squares(W, H, mask, damping=share)[0] - W).norm()))


def judged_on_all(W, X, mask, shares):
    return lowest(errors_by_share(W, X, mask, shares, slice(None, len(X) // 2)))


def fitted_to_all(W, X, mask, shares):
    return lowest(errors_by_share(W, X, mask, shares, judged=slice(len(X) // 2, None)))


def halves_swapped(W, X, mask, shares):
    half = len(X) // 2
    return lowest(errors_by_share(W, X, mask, shares, slice(half, None), slice(None, half)))


def every_second(W, X, mask, shares):
    return lowest(errors_by_share(W, X, mask, shares, slice(None, None, 2), slice(1, None, 2)))


def never_passed_on(W, X, mask, shares):
    return lowest(of_halves(W, X, mask, shares, damping=0.01))


def largest_error(W, X, mask, shares):
    errors = of_halves(W, X, mask, shares)
    return max(errors, key=errors.get)


def its_place(W, X, mask, shares):
    return int(np.argmin([*of_halves(W, X, mask, shares).values()]))


def its_error(W, X, mask, shares):
    return min(of_halves(W, X, mask, shares).values())


def the_published_one(W, X, mask, shares):
    return 0.01


def row_by_row_of_u(W, U, mask):
    for j in range(len(U)):
        error = torch.where(mask[:, j], W[:, j], 0) / U[j, j]
        W[:, j:] -= error[:, None] * U[j, j:]
    return W


def in_numpy(W, U, mask):
    W, U, mask = W.numpy(), U.numpy(), mask.numpy()
    for row, gone in zip(W, mask, strict=True):
        for q in np.flatnonzero(gone):
            row -= row[q] / U[q, q] * U[q]
            row[q] = 0
    return W


def eliminated(W, U, mask):
    """The inverse of the free columns by taking one column after another out of that of all."""
    rest = U.T @ U
    for j in range(len(U)):
        W[:, j:] -= (W[:, j] * mask[:, j] / rest[0, 0])[:, None] * rest[0]
        rest = (rest - torch.outer(rest[:, 0], rest[0]) / rest[0, 0])[1:, 1:]
    return W.masked_fill(mask, 0)


def inverted_each_time(W, U, mask):
    H = torch.cholesky_inverse(U, upper=True)
    for j in range(len(U)):
        rest = torch.linalg.inv(H[j:, j:])
        W[:, j:] -= torch.outer(W[:, j] * mask[:, j], rest[0]) / rest[0, 0]
    return W


def only_removed(W, U, mask):
    return W * ~mask


def zeroed_first(W, U, mask):
    return row_by_row_of_u(W.masked_fill(mask, 0), U, mask)


def by_moves(W, U, mask, move, order=range, sign=1):
    for j in order(len(U)):
        W = W - sign * (W[:, j] * mask[:, j])[:, None] * move(U, j)
    return W.masked_fill(mask, 0)


def settled_move(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: (U.T @ U)[j] / (U.T @ U)[j, j])


def one_inverse(W, U, mask):
    G = U.T @ U
    for j in range(len(U)):
        W[:, j:] -= torch.outer(mask[:, j] * W[:, j], G[j, j:]) / G[j, j]
    W[mask] = 0
    return W


def divided_twice(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: U[j] / U[j, j] ** 2)


def not_divided(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: U[j])


def column_of_u(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: U[:, j] / U[j, j])


def from_the_dense(W, U, mask):
    return (W - (W * mask / U.diagonal()) @ U).masked_fill(mask, 0)


def frozen(W, U, mask):
    for j in range(len(U)):
        W = W - (W[:, j] * mask[:, j] / U[j, j])[:, None] * U[j]
        W[mask] = 0
    return W


def every_weight(W, U, mask):
    return row_by_row_of_u(W, U, torch.ones_like(mask))


def upside_down(W, U, mask):
    return in_numpy(W, U, ~mask)


def other_sign(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: U[j] / U[j, j], sign=-1)


def right_to_left(W, U, mask):
    return by_moves(W, U, mask, lambda U, j: U[j] / U[j, j], order=lambda n: reversed(range(n)))


def least_squares(W, U, mask):
    H = torch.cholesky_inverse(U, upper=True)
    return torch.stack([dense_row(w, gone, H) for w, gone in zip(W, mask, strict=True)])


def plain(W, H, mask, steps, *, residual=None):
    V = W.masked_fill(mask, 0)
    R = ((W - V) @ H).masked_fill(mask, 0) if residual is None else residual(W, V, H, mask)
    D = R
    for _ in range(steps):
        HD = (D @ H).masked_fill(mask, 0)
        bend = (D * HD).sum(1, keepdim=True)
        alpha = torch.where(bend > 0, (R * D).sum(1, keepdim=True) / bend, 0)
        V, R = V + alpha * D, R - alpha * HD
        beta = torch.where(bend > 0, -(R * HD).sum(1, keepdim=True) / bend, 0)
        D = R + beta * D
    return V


def preconditioned(W, H, mask, steps):
    d = H.diagonal()
    V = W * ~mask
    R = ((W - V) @ H) * ~mask
    Z = R / d
    P, rz = Z.clone(), (R * Z).sum(1, keepdim=True)
    for _ in range(steps):
        Q = (P @ H) * ~mask
        alpha = rz / (P * Q).sum(1, keepdim=True).clamp_min(1e-30)
        V, R = V + alpha * P, R - alpha * Q
        Z = R / d
        new = (R * Z).sum(1, keepdim=True)
        P, rz = Z + new / rz.clamp_min(1e-30) * P, new
    return V


def row_by_row(W, H, mask, steps):
    """With the gradient recomputed, in numpy, on the kept channels of each row."""
    V = np.zeros(W.shape)
    for row, (w, gone) in enumerate(zip(W.double().numpy(), mask.numpy(), strict=True)):
        k = np.flatnonzero(~gone)
        A, b, v = H.double().numpy()[np.ix_(k, k)], H.double().numpy()[k] @ w, w[k].copy()
        d, old = np.zeros(len(k)), 1.0
        for _ in range(steps):
            r = b - A @ v
            if np.abs(r).max() < 1e-12:
                break
            d = r + (r @ r / old if d.any() else 0) * d
            v, old = v + r @ r / (d @ A @ d) * d, r @ r
        V[row, k] = v
    return V


def not_guarded(W, H, mask, steps, of_rows=lambda M: M.sum(dim=1, keepdim=True), masked=True, share=lambda new: new):
    V = W.masked_fill(mask, 0)
    R = ((W - V) @ H).masked_fill(mask, 0)
    D = R.clone()
    for _ in range(steps):
        HD = D @ H
        if masked:
            HD[mask] = 0
        before = of_rows(R * R)
        alpha = before / of_rows(D * HD)
        V += alpha * D
        R = R - alpha * HD
        D = R + share(of_rows(R * R) / before) * D
    return V


def guarded(W, H, mask, steps, **how):
    """As above, but rows with nothing to do are left out."""
    busy = mask.any(dim=1)
    V = W.clone()
    V[busy] = not_guarded(W[busy], H, mask[busy], steps, **how)
    return V


def only_masked(W, H, mask, steps):
    return W * ~mask


def free_residual(W, H, mask, steps):
    return plain(W, H, torch.zeros_like(mask), steps, residual=lambda W, V, H, _: (W - W * ~mask) @ H) + (W * ~mask - W)


def zeroed_in_the_end(W, H, mask, steps):
    return free_residual(W, H, mask, steps).masked_fill(mask, 0)


def only_the_first(W, H, mask, steps):
    return guarded(W, H, mask, steps, masked=False)


def steepest_descent(W, H, mask, steps):
    return guarded(W, H, mask, steps, share=lambda new: 0)


def whole_direction(W, H, mask, steps):
    return guarded(W, H, mask, steps, share=lambda new: 1)


def share_upside_down(W, H, mask, steps):
    return guarded(W, H, mask, steps, share=lambda new: 1 / new)


def one_step_for_all(W, H, mask, steps):
    return guarded(W, H, mask, steps, of_rows=torch.sum)


def uphill(W, H, mask, steps):
    V = W.masked_fill(mask, 0)
    R = ((V - W) @ H).masked_fill(mask, 0)
    D, size = R, (R * R).sum(1, keepdim=True)
    for _ in range(steps):
        HD = (D @ H).masked_fill(mask, 0)
        alpha = torch.where(size > 0, size / (D * HD).sum(1, keepdim=True), 0)
        V, R, before = V + alpha * D, R + alpha * HD, size
        size = (R * R).sum(1, keepdim=True)
        D = R + torch.where(before > 0, size / before, 0) * D
    return V


def from_zero(W, H, mask, steps):
    return plain(W, H, mask, steps, residual=lambda W, V, H, mask: (W @ H).masked_fill(mask, 0)) - W * ~mask


def residual_of_zero(W, H, mask, steps):
    return plain(W, H, mask, steps, residual=lambda W, V, H, mask: (W @ H).masked_fill(mask, 0))


def mask_upside_down(W, H, mask, steps):
    return plain(W, H, ~mask, steps)


def solved_exactly(W, H, mask, steps):
    return torch.stack([dense_row(w, gone, H) for w, gone in zip(W, mask, strict=True)])


def dense_row(w, gone, H):
    new, k = torch.zeros_like(w), (~gone).nonzero()[:, 0]
    new[k] = torch.linalg.inv(H[k][:, k]) @ H[k] @ w
    return new


EXERCISES = {
    "ex05a": {
        "check": checks.walk,
        "right": [row_by_row_of_u, in_numpy, eliminated, inverted_each_time],
        "wrong": [
            (only_removed, "the kept weights did not move"),
            (zeroed_first, "the kept weights did not move"),
            (settled_move, "and moved them"),
            (one_inverse, "that of the free columns alone"),
            (divided_twice, "One factor cancels"),
            (not_divided, "you did not divide"),
            (column_of_u, "Take row j"),
            (from_the_dense, "by the dense weights"),
            (frozen, "at once"),
            (every_weight, "you removed every weight"),
            (upside_down, "upside down"),
            (other_sign, "the sign is wrong"),
            (right_to_left, "walked from right to left"),
            (least_squares, "this is least squares"),
        ],
    },
    "ex05b": {
        "check": checks.conjugate_gradients,
        "right": [plain, preconditioned, row_by_row],
        "wrong": [
            (only_masked, "the kept weights did not move"),
            (not_guarded, "divides 0 by 0"),
            (free_residual, "did not mask the residual at all"),
            (only_the_first, "only your first residual"),
            (zeroed_in_the_end, "zeroed them in the end"),
            (mask_upside_down, "upside down"),
            (steepest_descent, "steepest descent"),
            (share_upside_down, "the share is upside down"),
            (whole_direction, "all of the direction before"),
            (one_step_for_all, "one step length"),
            (uphill, "uphill"),
            (from_zero, "you began at 0"),
            (residual_of_zero, "the first residual is that of 0"),
            (solved_exactly, "you solved each row exactly"),
        ],
    },
    "ex05c": {
        "check": checks.chosen_damping,
        "right": [by_halves, by_the_gram_of_the_second, solved_row_by_row],
        "wrong": [
            (judged_on_the_fit, "always looks best"),
            (least_moved, "always the largest"),
            (judged_on_all, "hold those of the fit"),
            (fitted_to_all, "none is unseen"),
            (halves_swapped, "the halves are swapped"),
            (every_second, "every second token"),
            (never_passed_on, "the first of the shares"),
            (largest_error, "the largest error"),
            (its_place, "the place in the list"),
            (its_error, "this is the error"),
            (the_published_one, "expected 1, got 0.01"),
        ],
    },
}
