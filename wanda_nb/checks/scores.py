"""Checks of notebook 02: what a weight is worth, and which go."""

from __future__ import annotations

import math

import torch

from ..masks import prune_mask
from ..scores import magnitude_score, wanda_score
from .core import call, done, judge

MY_WANDA_SCORE = {
    "you squared the norm. The root has its place: the score is |W| times the norm.": (
        lambda W, norm: W.abs() * norm.square()
    ),
    "you kept the sign of W. A weight far below zero is worth as much as one far above: take the absolute value.": (
        lambda W, norm: W * norm
    ),
    "you multiplied each row by a norm. The norm belongs to an input channel, which is a column of W.": (
        lambda W, norm: W.abs() * norm[:, None]
    ),
    "you used the norms of W's own rows. The norm asked is that of the input, which is given.": (
        lambda W, norm: W.abs() * W.norm(dim=1, keepdim=True)
    ),
    "you used the norms of W's own columns. The norm asked is that of the input, which is given.": (
        lambda W, norm: W.abs() * W.norm(dim=0)
    ),
    "you squared W. The score is |W| times the norm.": lambda W, norm: W.square() * norm,
    "you squared the score. The order would be the same, but the score is |W| times the norm.": (
        lambda W, norm: (W * norm).square()
    ),
    "this is magnitude: you did not use the norm.": lambda W, norm: W.abs(),
    "you divided by the norm. A weight on a loud channel is worth more, not less.": lambda W, norm: W.abs() / norm,
    "you added the norm. The score is a product.": lambda W, norm: W.abs() + norm,
    "you rounded to the 16 bit of W, and different scores become equal. Stay in float32, as norm is.": (
        lambda W, norm: W.abs() * norm.to(W.dtype)
    ),
}


def my_wanda_score(function, graded: bool = False) -> None:
    """Exercise 02.1: ``function(W, norm)`` gives |W_ij| times the norm of input channel j.

    W (out, in), norm (in,) -> score (out, in) float32. graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 02, "Exercise 02.1".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    norm = 0.5 + torch.randint(1, 30, (6,), generator=draw)
    cases = [(torch.randn(6, 6, generator=draw), norm)]  # square: rows can be taken for columns
    judge(function, cases, wanda_score, MY_WANDA_SCORE)
    cases += [(torch.randn(4, 6, generator=draw), norm), (torch.randn(9, 6, generator=draw).bfloat16(), norm)]
    if graded:
        silent = norm * (torch.arange(6) > 1)  # two channels without any input
        cases += [(torch.randn(1, 6, generator=draw), silent), (torch.zeros(3, 6), norm)]
        cases += [(torch.randn(5, 6, generator=draw, dtype=torch.float64), norm)]
    judge(function, cases, wanda_score, MY_WANDA_SCORE)
    done("02.1", "|W| times the norm of the column's input channel", graded)


def _threshold(score, sparsity):
    return score.sort(dim=1).values[:, [max(int(score.shape[1] * sparsity) - 1, 0)]]


def _order(score):
    return score.argsort(dim=1, stable=True)


def _at(score, columns):
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, columns, True)


ROW_MASK = {
    "you compared over the whole layer. Wanda compares within each output, row by row.": (
        lambda score, sparsity: prune_mask(score, sparsity, "layer")
    ),
    "you compared within each input, column by column. Wanda compares within each output, row by row.": (
        lambda score, sparsity: prune_mask(score, sparsity, "input")
    ),
    "you removed the highest scores. The lowest must go.": lambda score, sparsity: prune_mask(-score, sparsity),
    "`<=` a threshold removes all ties, and so too many. Exactly floor(in * sparsity) must go from each row.": (
        lambda score, sparsity: score <= _threshold(score, sparsity)
    ),
    "`<` a threshold keeps all ties, and so removes too few. Exactly floor(in * sparsity) must go from each row.": (
        lambda score, sparsity: score < _threshold(score, sparsity)
    ),
    "among equal scores you removed the later columns. The earlier go first, as in a stable sort.": (
        lambda score, sparsity: prune_mask(score.flip(1), sparsity).flip(1)
    ),
    "among equal scores `topk` takes any. The earlier columns go first, as in a stable sort.": (
        lambda score, sparsity: _at(score, score.topk(int(score.shape[1] * sparsity), largest=False).indices)
    ),
    "you rounded in * sparsity up. Exactly floor(in * sparsity) must go from each row.": (
        lambda score, sparsity: _at(score, _order(score)[:, : math.ceil(score.shape[1] * sparsity)])
    ),
    "you rounded in * sparsity. Exactly floor(in * sparsity) must go from each row.": (
        lambda score, sparsity: _at(score, _order(score)[:, : round(score.shape[1] * sparsity)])
    ),
    "you removed 1 - sparsity of each row. The sparsity is the fraction to remove.": (
        lambda score, sparsity: _at(score, _order(score)[:, : int(score.shape[1] * (1 - sparsity))])
    ),
}


def row_mask(function, graded: bool = False) -> None:
    """Exercise 02.2: ``function(score, sparsity)`` removes the lowest of each row; ties go to the earlier column.

    score (out, in) -> mask (out, in) bool, True = removed; exactly floor(in * sparsity) in each row. graded: on more
    cases. AssertionError, naming the mistake. Used in notebook 02, "Exercise 02.2".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    cases = [(torch.tensor([[3.0, 1, 2, 4], [8, 8, 5, 8]]), 0.5), (torch.rand(5, 7, generator=draw), 0.5)]
    cases += [(torch.randint(0, 3, (6, 8), generator=draw).float(), 0.25)]  # ties everywhere
    if graded:
        cases += [(torch.randint(0, 9, (16, 33), generator=draw).bfloat16(), 0.7)]
        cases += [(torch.rand(3, 4, generator=draw), 0.0)]
    judge(function, cases, prune_mask, ROW_MASK)
    done("02.2", "the lowest of every row, exactly so many, ties to the earlier column", graded)


def disagree(function, graded: bool = False) -> None:
    """Exercise 02.3: ``function()`` gives W (out, in) and X (tokens, in) on which magnitude and Wanda disagree.

    At 50% per output the two remove no weight in common, and Wanda's mask changes the output less. graded: asks
    several times. AssertionError, naming what is amiss. Used in notebook 02, "Exercise 02.3".
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
    if W.ndim != 2 or X.ndim != 2 or W.shape[1] != X.shape[1] or W.shape[1] < 2 or 0 in (len(W), len(X)):
        return (
            f"W {tuple(W.shape)} and X {tuple(X.shape)} do not fit. Expected W (out, in) and X (tokens, in) with the "
            "same input channels, two or more."
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
