"""Check of notebook 09: the shares of 30 blocks under a budget, judged on text that chose nothing."""

from __future__ import annotations

import copy
import functools
import math

import torch

from ..calibration import load_calibration
from ..evaluation.perplexity import window_losses
from ..evaluation.uncertainty import paired_difference
from ..inputs.loading import load_model
from ..inputs.text import calibration_tokens, evaluation_tokens
from ..pruning import prune
from .core import call, done, tensor

BLOCKS, BUDGET, LENGTH = 30, 0.5, 128
BAR = 0.95  # the perplexity over that of the same share for all


def loss(shares) -> float:
    """Nats a token on 8 windows of C4 of the real model, a copy of it pruned by Wanda: one share for each of 30 blocks.

    From the norms that come with the package, so a call takes about 3 seconds. Used in notebook 09, "Exercise 09.3".
    """
    return float(_losses(_checked(shares), "choose").mean())


@functools.cache
def _bench() -> tuple:
    model, tokenizer = load_model()
    windows = evaluation_tokens(tokenizer, windows=24, spread=True)  # (24, 512)
    texts = {
        "choose": calibration_tokens(tokenizer, samples=8, length=LENGTH, seed=7),
        "judge": windows[:, :LENGTH],
        "grade": windows[:, 2 * LENGTH : 3 * LENGTH],
    }
    return model, load_calibration("smollm2-135m"), texts


@functools.cache
def _losses(shares: tuple[float, ...], text: str) -> torch.Tensor:  # (windows,)
    model, norms, texts = _bench()
    pruned = copy.deepcopy(model)
    prune(pruned, calibration=norms, sparsity=shares)
    return window_losses(pruned, texts[text])


def _checked(shares) -> tuple[float, ...]:
    if not torch.is_tensor(shares):
        shares = [float(share) for share in shares] if hasattr(shares, "__iter__") else shares
    if isinstance(shares, list) and len(shares) == 7 * BLOCKS:
        raise AssertionError(f"you gave one share for each layer; `prune` takes one for each of the {BLOCKS} blocks.")
    values = tensor(shares, (BLOCKS,), "one share for each block").double()
    if not bool(((values >= 0) & (values < 1)).all()):
        raise AssertionError(
            f"the shares go from {float(values.min()):.3g} to {float(values.max()):.3g}: expected the fraction that a "
            "block loses, in [0, 1). Are they per cent, or did a block get more than it can lose?"
        )
    return tuple(values.tolist())


def allocated(function, graded: bool = False) -> None:
    """Exercise 09.3: ``function(loss)`` -> the share that each of 30 blocks loses, 0.5 in the mean.

    Judged by the perplexity of SmolLM2 on 24 windows of 128 tokens of Wikipedia: it must be 5% lower than with 50%
    everywhere, and the interval of the paired difference below 0. graded: on other tokens, too. AssertionError, naming
    the mistake. Used in notebook 09, "Exercise 09.3".
    """
    shares = _checked(call(function, loss))
    mean = sum(shares) / BLOCKS
    if abs(mean - BUDGET) > 1e-3:
        less = mean < BUDGET
        raise AssertionError(
            f"the mean of the shares is {mean:.3f}, not {BUDGET}: "
            + ("what some blocks keep, others must lose." if less else "you remove more than was asked.")
            + " Shift all by the difference, then look at the limits again."
        )
    if max(shares) - min(shares) < 1e-6:
        raise AssertionError("every block loses the same, which is where we began. Which blocks should lose less?")
    for text in ("judge", "grade") if graded else ("judge",):
        found = paired_difference(_losses((BUDGET,) * BLOCKS, text), _losses(shares, text))
        if math.exp(found.value) > BAR:
            raise AssertionError(_named(shares, math.exp(found.value)))
        if found.high >= 0:
            raise AssertionError(
                f"5% lower in the mean, but with an interval up to {math.expm1(found.high):+.1%}: some windows pay for "
                "it. Leave the blocks alone that do not stand out."
            )
    done("09.3", "half of all weights gone, and the perplexity at least 5% lower than with half of each block", graded)


def _named(shares: tuple[float, ...], ratio: float) -> str:
    """What is wrong with shares that keep the budget and miss the bar."""
    said = f"on held-out text the perplexity is {ratio:.2f} times that of 50% everywhere; the bar is {BAR}. "
    if max(shares) > 0.7:
        return said + (
            f"Block {shares.index(max(shares))} loses {max(shares):.0%}: what a block costs alone, beside dense ones, "
            "says little of how much it bears when all others are pruned as well. Move by less."
        )
    mirrored = [min(2 * BUDGET - share, 0.99) for share in shares]
    if ratio > 1 and loss(mirrored) < loss(shares):
        return said + "Upside down: these would do better the other way round. Who is hurt most should *lose* least."
    if ratio > 1:
        return said + "Your scan may have measured noise: prune each block hard enough that its loss stands out."
    return said + "The right direction. Which block stands out most in your scan, and does it keep enough?"
