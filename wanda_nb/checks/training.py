"""Checks of notebook 08: training that keeps the zeros."""

from __future__ import annotations

import torch
from torch import nn

from .core import done, given_evidence, judge


def masked_training(W, mask, batches, optimiser, max_norm):
    """Train W (out, in), in place, with the weights that a mask removed kept at zero. Or so it says.

    batches: pairs of X (tokens, in) and Y (tokens, out). max_norm: a gradient with a larger norm is scaled down to it.
    It has two faults, for the reader to find. Used in notebook 08, "Exercise 08.3".
    """
    for X, Y in batches:
        optimiser.zero_grad()
        (X @ W.T - Y).pow(2).mean().backward()
        torch.nn.utils.clip_grad_norm_([W], max_norm)
        W.grad.masked_fill_(mask, 0)  # no gradient, so no step
        optimiser.step()


def _train(W, mask, batches, optimiser, max_norm, *, gone=None, clip="after", back="each", forget=False, add_up=False):
    """Training under the mask; every keyword is a way to get it wrong."""
    mask = mask if gone is None else gone(W.detach(), mask)
    for X, Y in batches:
        if not add_up:
            optimiser.zero_grad()
        if back == "before":
            W.data.masked_fill_(mask, 0)
        if forget:
            optimiser.state.clear()
        (X @ W.T - Y).pow(2).mean().backward()
        if clip == "before":
            torch.nn.utils.clip_grad_norm_([W], max_norm)
        W.grad.masked_fill_(mask, 0)
        if clip == "after":
            torch.nn.utils.clip_grad_norm_([W], max_norm)
        optimiser.step()
        if back == "each":
            W.data.masked_fill_(mask, 0)
    if back == "end":
        W.data.masked_fill_(mask, 0)


MASKED_TRAINING = {
    "this is the training as it was: neither fault is mended.": masked_training,
    "one fault is left: the optimiser remembers. Weights with no gradient moved, and were not set back to 0.": (
        lambda *given: _train(*given, back="never")
    ),
    "one fault is left: gradients of removed weights count in the norm that is clipped, so the others step less.": (
        lambda *given: _train(*given, clip="before")
    ),
    "removed weights were awake between the steps, and took part in the output. Set them back after each step.": (
        lambda *given: _train(*given, back="end")
    ),
    "both faults are left in part: gradients of removed weights count when clipped, and zeros come back too late.": (
        lambda *given: _train(*given, clip="before", back="end")
    ),
    "you set removed weights back before each step. After the last one they stay awake.": (
        lambda *given: _train(*given, back="before")
    ),
    "the gradient is not clipped any more.": lambda *given: _train(*given, clip="never"),
    "the mask is upside down. True marks a weight that is removed.": (
        lambda *given: _train(*given, gone=lambda W, mask: ~mask)
    ),
    "you took W == 0 for the mask. A kept weight may be 0 too, and must learn.": (
        lambda *given: _train(*given, gone=lambda W, mask: W == 0)
    ),
    "you cleared the optimiser's memory. What it remembers of the kept weights must stay.": (
        lambda *given: _train(*given, forget=True)
    ),
    "gradients of the batches add up. zero_grad is missing.": lambda *given: _train(*given, add_up=True),
}


def _setting(kind: type, options: dict, max_norm: float, seed: int) -> tuple:
    """A layer that was trained for three steps and then pruned, its mask, batches, and the optimiser, still warm."""
    draw = torch.Generator().manual_seed(seed)
    W = nn.Parameter(torch.randn(4, 6, generator=draw, dtype=torch.float64))
    data = [[torch.randn(9, n, generator=draw, dtype=torch.float64) for n in (6, 4)] for _ in range(8)]
    optimiser = kind([W], **options)
    for X, Y in data[:3]:
        optimiser.zero_grad()
        (X @ W.T - Y).pow(2).mean().backward()
        optimiser.step()
    mask = torch.rand(4, 6, generator=draw) < 0.5
    mask[0, :2] = torch.tensor([True, False])
    W.data.masked_fill_(mask, 0)[0, 1] = 0  # one that is kept, and 0
    return W, mask, data[3:], optimiser, max_norm


def _finished(train):
    """What W is after a training, as a function of the setting alone, for ``judge``."""

    def trained(*how):
        W, *others = _setting(*how)
        train(W, *others)
        return W.detach()

    trained.__name__ = getattr(train, "__name__", type(train).__name__)
    return trained


def under_the_mask(function, evidence, graded: bool = False) -> None:
    """Exercise 08.3: ``evidence()`` shows that ``masked_training`` wakes zeros; ``function`` is that, mended.

    evidence gives (W, mask, batches, optimiser, max_norm): removed weights are 0, and after ``masked_training`` one is
    not. function(W, mask, batches, optimiser, max_norm) trains W in place, as if removed weights did not exist. graded:
    on more optimisers. AssertionError, naming the mistake. Used in notebook 08, "Exercise 08.3".
    """
    _judge_evidence(evidence)
    sgd, adam = torch.optim.SGD, torch.optim.AdamW
    cases = [(sgd, {"lr": 0.1, "momentum": 0.9}, 0.5, 0), (adam, {"lr": 0.05, "weight_decay": 0.1}, 0.3, 1)]
    cases += [(sgd, {"lr": 0.2}, 0.4, 2), (adam, {"lr": 0.1, "amsgrad": True}, 9.0, 3)] if graded else []
    wrong = {said: _finished(mistaken) for said, mistaken in MASKED_TRAINING.items()}
    judge(_finished(function), cases, _finished(_train), wrong)
    done("08.3", "removed weights count nowhere and stay 0, and the others learn as if alone", graded)


def _judge_evidence(evidence) -> None:
    answer = given_evidence(evidence, 5, "(W, mask, batches, optimiser, max_norm), five things")
    W, mask = answer[:2]
    if not isinstance(W, nn.Parameter) or mask.dtype != torch.bool or mask.shape != W.shape:
        raise AssertionError("evidence: expected W, an nn.Parameter (out, in), and mask, bool, of the same shape.")
    if not mask.any() or bool(W.detach()[mask].any()):
        raise AssertionError("evidence: let the mask remove something, and let W be 0 there, or nothing is pruned yet.")
    masked_training(*answer)
    if not W.detach()[mask].any():
        raise AssertionError(
            "evidence: every removed weight stayed 0, and that is no fault. A fresh optimiser does not move a weight "
            "without a gradient. Which one does, and what must have happened before?"
        )
