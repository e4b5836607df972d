"""Checks of notebook 03: the block loop on toy blocks, and loops that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from ..masks import prune_mask
from ..scores import magnitude_score, wanda_score
from .core import done, judge


def _run(W, x):  # the toy block of the exercise
    return x + torch.relu(x @ W.T)


def _loop(
    norm=lambda W, x: x.norm(dim=0),
    hand_on=lambda W, pruned, x: _run(pruned, x),
    group="output",
    zeros=lambda mask: mask,
) -> Callable:
    """The block loop, or a mistake in it: norm judges a block, hand_on is what the next one reads."""

    def prune_all(blocks, x, sparsity):
        pruned = []
        for W in blocks:
            mask = prune_mask(wanda_score(W, norm(W, x)), sparsity, group)
            pruned.append(W.masked_fill(zeros(mask), 0))
            x = hand_on(W, pruned[-1], x)
        return torch.stack(pruned)

    return prune_all


def _magnitude(blocks, x, sparsity):
    return torch.stack([W.masked_fill(prune_mask(magnitude_score(W), sparsity), 0) for W in blocks])


PRUNE_BLOCKS = {
    "each block handed on what it put out while still dense. Run it again, pruned: the next block reads that.": (
        _loop(hand_on=lambda W, pruned, x: _run(W, x))
    ),
    "every block was judged by x, the input of the first. Hand on what each pruned block puts out.": (
        _loop(hand_on=lambda W, pruned, x: x)
    ),
    "you took the norms of the block's output. Wanda judges W by its input.": (
        _loop(norm=lambda W, x: _run(W, x).norm(dim=0))
    ),
    "you compared over the whole layer. Wanda compares within each output, row by row.": _loop(group="layer"),
    "you compared column by column. Wanda compares within each output, row by row.": _loop(group="input"),
    "this is magnitude: the inputs were not looked at. Multiply |W| by the norm of each input channel.": _magnitude,
    "you kept the weights with the lowest score. In a mask, True means removed.": _loop(zeros=lambda mask: ~mask),
    "you used the squared norm, a sum of squares. Take its root.": _loop(norm=lambda W, x: x.pow(2).sum(dim=0)),
    "you used the mean size of each channel. Wanda takes its L2 norm.": _loop(norm=lambda W, x: x.abs().mean(dim=0)),
    "you forgot what goes around the layer. The next block reads toy_block(W, x), not x @ W.T.": (
        _loop(hand_on=lambda W, pruned, x: x @ pruned.T)
    ),
    "nothing was pruned. Return the pruned matrices.": lambda blocks, x, sparsity: torch.stack(list(blocks)),
}


def prune_blocks(function, graded: bool = False) -> None:
    """Exercise 03.1: ``function(blocks, x, sparsity)`` -> the pruned weights of toy blocks, one after the other.

    blocks: a list of W (width, width), where a block gives x + relu(x @ W.T); x (tokens, width). By Wanda, per output,
    each block judged by what the pruned blocks before it put out. graded: on more cases. AssertionError, naming the
    mistake. Used in notebook 03, "Exercise 03.1".
    """

    @wraps(function)
    def stacked(blocks, x, sparsity):
        pruned = function(blocks, x, sparsity)
        return torch.stack([torch.as_tensor(W) for W in pruned]) if isinstance(pruned, (list, tuple)) else pruned

    draw = torch.Generator().manual_seed(1 if graded else 0)
    cases = [_toy(draw, count=3, width=8, tokens=20), _toy(draw, count=2, width=6, tokens=6)]
    if graded:
        cases += [_toy(draw, count=4, width=11, tokens=30, sparsity=0.7, dtype=torch.float64)]
        cases += [_toy(draw, count=1, width=4, tokens=9), _toy(draw, count=2, width=5, tokens=9, sparsity=0.0)]
        cases[2][1][:, 3] = 0  # a silent channel
    judge(stacked, cases, _loop(), PRUNE_BLOCKS)
    done("03.1", "each block judged by what the pruned blocks before it put out", graded)


def _toy(draw, count: int, width: int, tokens: int, sparsity: float = 0.5, dtype=torch.float32) -> tuple:
    """Arguments of prune_blocks whose channels are so unlike that every mistake shows in some mask."""
    blocks = [torch.randn(width, width, generator=draw).to(dtype) for _ in range(count)]
    loudness = torch.rand(width, generator=draw) * 3
    return blocks, (torch.randn(tokens, width, generator=draw).pow(3) * loudness).to(dtype), sparsity


FAULTS = {
    "right": _loop(),
    "hands on the dense block's output": _loop(hand_on=lambda W, pruned, x: _run(W, x)),
    "judges every block by x": _loop(hand_on=lambda W, pruned, x: x),
    "norms of the output": _loop(norm=lambda W, x: _run(W, x).norm(dim=0)),
    "magnitude": _magnitude,
}


def suspects(blocks, x, sparsity: float) -> dict[str, list]:
    """What five loops make of the same toy blocks, {"A": pruned matrices, ...}: all with the zeros asked for.

    Which of them judge by inputs that their blocks will not get is for the reader to find out.
    Used in notebook 03, "Exercise 03.4".
    """
    order = "hands on the dense block's output", "magnitude", "right", "judges every block by x", "norms of the output"
    return {letter: list(FAULTS[name](blocks, x, sparsity)) for letter, name in zip("ABCDE", order, strict=True)}


def _audit(judged_by=lambda W, pruned, x: x, hand_on=lambda W, pruned, x: _run(pruned, x), found=min) -> Callable:
    """The audit of a loop, or a mistake in it."""

    def first_misjudged(blocks, pruned, x, sparsity):
        wrong = []
        for number, (W, cut) in enumerate(zip(blocks, pruned, strict=True)):
            mask = prune_mask(wanda_score(W, judged_by(W, cut, x).norm(dim=0)), sparsity)
            if not torch.equal(W.masked_fill(mask, 0), cut):
                wrong.append(number)
            x = hand_on(W, cut, x)
        return found(wrong) if wrong else -1

    return first_misjudged


def _by_zeros(blocks, pruned, x, sparsity):
    for number, W in enumerate(pruned):
        if not torch.equal((W == 0).sum(dim=1), torch.full((len(W),), int(W.shape[1] * sparsity))):
            return number
    return -1


FIRST_MISJUDGED = {
    "you counted zeros. Every loop here removes the right number in each row; look at which ones.": (_by_zeros),
    "you handed on what the dense block puts out: that is the fault that you are looking for. Run the pruned block.": (
        _audit(hand_on=lambda W, pruned, x: _run(W, x))
    ),
    "you judged every block by x. Only block 0 reads x; the next one reads what the pruned block before it puts out.": (
        _audit(hand_on=lambda W, pruned, x: x)
    ),
    "you gave the last block that is wrong. Stop at the first: a block after a wrong one may be wrong because of it.": (
        _audit(found=max)
    ),
    "you gave how many blocks are wrong. The answer is the number of the first of them.": _audit(found=len),
    "you counted from 1. Blocks are counted from 0.": _audit(found=lambda wrong: min(wrong) + 1),
    "you said whether a loop is wrong. Say where: the number of the first wrong block, or -1.": (
        _audit(found=lambda wrong: 1)
    ),
    "you judged by what a block puts out. Wanda judges it by what it reads.": (
        _audit(judged_by=lambda W, pruned, x: _run(W, x))
    ),
    "you gave the block before the first wrong one: the fault shows where the wrong input is read.": (
        _audit(found=lambda wrong: max(min(wrong) - 1, 0))
    ),
}


def first_misjudged(function, graded: bool = False) -> None:
    """Exercise 03.4: ``function(blocks, pruned, x, sparsity)`` -> the first block that a loop judged wrongly, or -1.

    blocks, pruned: lists of W (width, width), before and after; x (tokens, width). A block is judged rightly if its
    zeros are Wanda's for the inputs that the pruned blocks before it give. graded: on more cases. AssertionError,
    naming the mistake. Used in notebook 03, "Exercise 03.4".
    """
    draw = torch.Generator().manual_seed(2)
    toys = [_toy(draw, count=5, width=16, tokens=40)]
    if graded:
        toys += [_toy(draw, count=3, width=12, tokens=30, sparsity=0.7), _toy(draw, count=1, width=8, tokens=20)]
    cases = []
    for blocks, x, sparsity in toys:
        cases += [(blocks, list(loop(blocks, x, sparsity)), x, sparsity) for loop in FAULTS.values()]
        if len(blocks) > 2:  # right up to the last block
            late = [*FAULTS["right"](blocks, x, sparsity)[:-1], *_magnitude(blocks[-1:], x, sparsity)]
            cases.append((blocks, late, x, sparsity))
    judge(function, cases, _audit(), FIRST_MISJUDGED)
    done("03.4", "each block judged again by what it reads, and the first that differs is named", graded)
