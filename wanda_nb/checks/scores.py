"""Checks of notebook 02: what a weight is worth, and which go."""

from __future__ import annotations

import math
from itertools import product

import torch

from ..masks import prune_mask
from ..scores import magnitude_score, wanda_score
from .core import call, done, judge, same, tensor

FACTORS = {
    "you divided each column of W by its norm. That is the wrong way round: a loud channel's weights must grow.": (
        lambda X: 1 / X.norm(dim=0)
    ),
    "you scaled by the squared norm. The score is |W| times the norm.": lambda X: X.square().sum(dim=0),
    "you scaled by the root of the norm. The score is |W| times the norm.": lambda X: X.norm(dim=0).sqrt(),
    "you scaled by the mean of |x|. Wanda takes the L2 norm.": lambda X: X.abs().mean(dim=0),
    "you scaled by the largest |x|. Wanda takes the L2 norm.": lambda X: X.abs().amax(dim=0),
    "you scaled all channels by one number, which changes no order. Each channel needs its own.": (
        lambda X: torch.ones_like(X[0])
    ),
}


def rescaled(function, graded: bool = False) -> None:
    """Exercise 02.1: ``function(W, X)`` gives W and X scaled until magnitude's mask is Wanda's.

    W (out, in), X (tokens, in) -> two tensors of the same shapes and with the same outputs. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 02, "Exercise 02.1".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    cases = [_loud_and_quiet(draw, 8, 8), _loud_and_quiet(draw, 5, 9, silent=1)]
    if graded:
        cases += [_loud_and_quiet(draw, 3, 24, silent=5), _loud_and_quiet(draw, 12, 7, silent=0)]
        cases += [tuple(one.double() for one in _loud_and_quiet(draw, 6, 10))]
    for W, X in cases:
        answer = call(function, W, X)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise AssertionError("expected two tensors, the new W (out, in) and the new X (tokens, in).")
        V, Z = (
            tensor(new, tuple(old.shape), f"the new {name}").double()
            for new, old, name in zip(answer, (W, X), "WX", strict=True)
        )
        if amiss := _not_rescaled(W.double(), X.double(), V, Z):
            raise AssertionError(amiss)
    done("02.1", "the same outputs, and magnitude removes what Wanda would", graded)


def _loud_and_quiet(draw, out: int, width: int, silent: int | None = None) -> tuple:
    X = torch.randn(30, width, generator=draw).pow(3) * torch.rand(width, generator=draw).mul(3).exp()
    if silent is not None:
        X[:, silent] = 0
        X *= 0.01  # so that a silent channel's weights, left as they are, do not go by themselves
    return torch.randn(out, width, generator=draw), X


def _not_rescaled(W, X, V, Z) -> str:
    """What is amiss with the new W and X, V and Z; nothing if they are right."""
    norm = X.norm(dim=0)
    if not bool(V.isfinite().all() and Z.isfinite().all()):
        return "some values are not finite. A silent channel has the norm 0, and 0 / 0 is no number."
    if not same(Z @ V.T, X @ W.T, 1e-3):
        if int((V == 0).sum()) > int((W == 0).sum()) + len(W) * int((norm == 0).sum()):
            return "you removed weights, and the output has changed. Only scale them; magnitude will do the removing."
        for name, new, old, other in (("X", Z, X, "column of W"), ("W", V, W, "channel of X")):
            if same(new, old):
                return (
                    f"{name} is as it was, and the output has changed. What scales a {other} must be undone in {name}."
                )
        return (
            "the output has changed. What multiplies a column of W must divide the same channel of X, for all tokens."
        )
    wanted = {share: prune_mask(wanda_score(W, norm), share) for share in (0.3, 0.5, 0.7)}
    if all(torch.equal(prune_mask(V.abs(), share), mask) for share, mask in wanted.items()):
        return ""
    if same(V, W):
        return "nothing has changed, so magnitude still removes what it removed before."
    if bool(V[:, norm == 0].any()):
        return (
            "a silent channel's weights are worth nothing to Wanda. In your W magnitude still keeps some: make them 0."
        )
    grown = V.norm(dim=0) / W.norm(dim=0)
    for said, factor in FACTORS.items():
        loud = norm > 0
        if same((grown / grown[loud].mean())[loud], (factor(X) / factor(X)[loud].mean())[loud], 1e-3):
            return said
    return "the output is the same, but magnitude does not yet remove what Wanda would. Which |w| has Wanda's order?"


FAULTS = {
    "padding": "the padding counts as if it were text",
    "mean": "the channel's mean |x| stands where its L2 norm belongs",
    "sign": "the sign of W counts, so the most negative weights go first",
    "layer": "all weights of the layer compete; Wanda compares within each output, row by row",
    "ties": "`<=` removes all that are tied, more than floor(in * sparsity) of a row",
}


def _masker(padding=False, mean=False, sign=False, layer=False, ties=False, norm=None, order=prune_mask):
    """Wanda's mask of one layer, or a routine with these faults."""

    def mask_of(W, X, attention_mask, sparsity):
        real = X.flatten(0, 1) if padding else X[attention_mask.bool()]  # (tokens, in)
        loudness = norm(real) if norm else real.abs().mean(dim=0) if mean else real.norm(dim=0)
        score = (W if sign else W.abs()) * loudness
        rows = score.reshape(1, -1) if layer else score
        count = int(rows.shape[1] * sparsity)
        if ties and count:
            return (rows <= rows.sort(dim=1).values[:, count - 1 : count]).view(score.shape)
        return order(rows, sparsity).view(score.shape)

    return mask_of


def _rounded_up(score, sparsity):
    columns = score.argsort(dim=1, stable=True)[:, : math.ceil(score.shape[1] * sparsity)]
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, columns, True)


def _by_topk(score, sparsity):
    columns = score.topk(int(score.shape[1] * sparsity), dim=1, largest=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, columns, True)


def _strictly_below(score, sparsity):
    count = int(score.shape[1] * sparsity)
    return score < score.sort(dim=1).values[:, count : count + 1]


MENDED_MASK = {
    "you multiplied each row by a norm. The norm belongs to an input channel, which is a column of W.": (
        lambda W, X, mask, sparsity: prune_mask(W.abs() * X[mask.bool()].norm(dim=0)[:, None], sparsity)
    ),
    "you took the norm of each token. One number for each input channel is needed: dim=0.": (
        _masker(norm=lambda real: real.norm(dim=1))
    ),
    "you squared the norm. The score is |W| times the norm.": _masker(norm=lambda real: real.square().sum(dim=0)),
    "this is magnitude: the input was not looked at.": _masker(norm=lambda real: 1),
    "you compared within each input, column by column. Wanda compares within each output, row by row.": (
        _masker(order=lambda score, sparsity: prune_mask(score, sparsity, "input"))
    ),
    "among equal scores you removed the later columns. The earlier go first, as in a stable sort.": (
        _masker(order=lambda score, sparsity: prune_mask(score.flip(1), sparsity).flip(1))
    ),
    "among equal scores the wrong columns go: topk promises no order. A stable sort lets the earlier go first.": (
        _masker(order=_by_topk)
    ),
    "`<` the next score keeps all that are tied with it: fewer than asked are removed. Sort, and count.": (
        _masker(order=_strictly_below)
    ),
    "you rounded in * sparsity up. Exactly floor(in * sparsity) must go from each row.": _masker(order=_rounded_up),
    "only padding counts in your norm. In the mask 1 is real.": (
        lambda W, X, mask, sparsity: _masker()(W, X, 1 - mask, sparsity)
    ),
} | {
    "still to mend: " + "; ".join(FAULTS[name] for name, there in zip(FAULTS, faults, strict=True) if there) + ".": (
        _masker(**dict(zip(FAULTS, faults, strict=True)))
    )
    for faults in sorted(product((False, True), repeat=len(FAULTS)), key=sum)[1:]
}


def mended_mask(function, graded: bool = False) -> None:
    """Exercise 02.2: ``function(W, X, attention_mask, sparsity)`` is Wanda's mask, and says which faults are left.

    W (out, in), X (samples, length, in), attention_mask (samples, length), 0 for padding -> mask (out, in) bool, True =
    removed. graded: on more cases. AssertionError, naming the faults. Used in notebook 02, "Exercise 02.2".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    cases = [_padded(draw, 8, 8, [6, 2], 0.5), _padded(draw, 31, 31, [16, 12, 3], 0.25)]  # square, and as many tokens
    judge(function, cases, _masker(), MENDED_MASK)
    if graded:
        cases = [_padded(draw, 12, 16, [7, 4], 0.7), _padded(draw, 4, 33, [3, 9], 0.3), _padded(draw, 2, 5, [4], 0.1)]
        judge(function, cases, _masker(), MENDED_MASK)
    done("02.2", "Wanda's mask: real tokens, the norm, |W|, row by row, exactly as many as asked", graded)


def _padded(draw, out: int, width: int, lengths: list[int], sparsity: float) -> tuple:
    """Arguments of mended_mask: in half of the rows most weights are 0, and the padding is loud."""
    mask = (torch.arange(max(lengths) + 2) < torch.tensor(lengths)[:, None]).long()
    loudness, noise = (torch.rand(width, generator=draw).mul(3).exp() for _ in range(2))
    X = torch.randn(*mask.shape, width, generator=draw)
    X = torch.where(mask.bool()[..., None], X.pow(3) * loudness, 5 * X * noise)
    W = torch.randn(out, width, generator=draw)
    W[: out // 2] *= torch.rand(out // 2, width, generator=draw) > 0.7
    return W, X, mask, sparsity


def disagree(function, graded: bool = False) -> None:
    """Exercise 02.3: ``function()`` gives W (out, in) and X (tokens, in) on which magnitude and Wanda disagree.

    In four channels or more. At 50% per output the two remove no weight in common, and Wanda's mask changes the
    output less. graded: asks several times. AssertionError, naming what is amiss. Used in notebook 02, "Exercise 02.3".
    """
    for _ in range(20 if graded else 1):
        answer = call(function)
        try:
            W, X = (torch.as_tensor(one).detach().double() for one in answer)
        except (TypeError, ValueError, RuntimeError):
            raise AssertionError("expected two tensors, W (out, in) and X (tokens, in).") from None
        amiss = _amiss(W, X)
        if amiss and X.ndim == 2 and not _amiss(W, X.T):
            amiss = f"X {tuple(X.shape)} is transposed. Expected (tokens, in), a row for each token."
        if amiss:
            raise AssertionError(amiss)
    done("02.3", "not one weight in common, and Wanda's error is smaller", graded)


def _amiss(W: torch.Tensor, X: torch.Tensor) -> str:
    """What W and X lack as an example of disagreement; nothing if they are one."""
    if W.ndim != 2 or X.ndim != 2 or W.shape[1] != X.shape[1] or W.shape[1] < 4 or 0 in (len(W), len(X)):
        return (
            f"W {tuple(W.shape)} and X {tuple(X.shape)} do not fit. Expected W (out, in) and X (tokens, in) with the "
            "same input channels, four or more."
        )
    if not bool(W.isfinite().all() and X.isfinite().all()):
        return "some values are not finite."
    norm = X.norm(dim=0)
    scores = {"magnitude": magnitude_score(W), "Wanda": wanda_score(W, norm)}
    half = W.shape[1] // 2
    for name, score in scores.items():
        ordered = score.sort(dim=1).values
        tied = ordered[:, half - 1] >= ordered[:, half] * (1 - 1e-6)
        if bool(tied.any()):
            row = int(tied.nonzero()[0])
            return (
                f"row {row}: by {name} the scores {[float(f'{s:.4g}') for s in score[row]]} are tied just where the "
                "line is drawn, so which weight goes is arbitrary. Choose different values."
            )
    masks = {name: prune_mask(score) for name, score in scores.items()}
    both = masks["magnitude"] & masks["Wanda"]
    if bool(both.any()) and bool((norm - norm[0]).abs().max() <= 1e-6 * norm[0]):
        return "all input channels are equally loud: then Wanda is magnitude. Make some channels louder than others."
    if bool(both.any()):
        row, column = both.nonzero()[0].tolist()
        return f"both methods remove the weight in row {row}, column {column}. They should have none in common."
    error = {name: float((X @ W.masked_fill(~mask, 0).T).square().sum()) for name, mask in masks.items()}
    if error["Wanda"] >= error["magnitude"] * (1 - 1e-9):
        return (
            f"they disagree, but Wanda's squared error, {error['Wanda']:.4g}, is not smaller than magnitude's, "
            f"{error['magnitude']:.4g}. Several changes in one row can cancel or add up: look at the signs."
        )
    return ""
