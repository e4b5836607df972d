"""Checks of notebook 03: the block loop on toy blocks, and what it takes on real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from ..masks import prune_mask
from ..scores import magnitude_score, wanda_score
from .core import done, judge


def _run(W, x):  # the toy block of the exercise
    return x + torch.relu(x @ W.T)


def _loop(norm=lambda W, x: x.norm(dim=0), hand_on=lambda W, pruned, x: _run(pruned, x), group="output") -> Callable:
    """The block loop, or a mistake in it: norm judges a block, hand_on is what the next one reads."""

    def prune_all(blocks, x, sparsity):
        pruned = []
        for W in blocks:
            mask = prune_mask(wanda_score(W, norm(W, x)), sparsity, group)
            pruned.append(W.masked_fill(mask, 0))
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


def _parts(width, inner, kv, samples, length, batch_tokens, itemsize):
    """Bytes of one block, of all hidden states, of one batch's activations, and of the scratch to select a layer."""
    block = itemsize * (2 * width**2 + 2 * width * kv + 3 * width * inner)
    hidden = itemsize * samples * length * width
    return block, hidden, itemsize * 6 * batch_tokens * inner, 9 * width * inner


def _sum(of_parts: Callable) -> Callable:
    return lambda *shape: of_parts(*_parts(*shape))


_visited = _sum(lambda block, hidden, running, selecting: block + hidden + max(running, selecting))

VISITED_GPU_BYTES = {
    "you added running and selecting. They come one after the other, so only the larger counts.": (
        _sum(lambda block, hidden, running, selecting: block + hidden + running + selecting)
    ),
    "you took the smaller of running and selecting. The GPU must have room for the larger.": (
        _sum(lambda block, hidden, running, selecting: block + hidden + min(running, selecting))
    ),
    "you left out running and selecting. Add the larger of the two.": (
        _sum(lambda block, hidden, running, selecting: block + hidden)
    ),
    "you left out selecting: it can be larger than running.": (
        _sum(lambda block, hidden, running, selecting: block + hidden + running)
    ),
    "you left out running: it can be larger than selecting.": (
        _sum(lambda block, hidden, running, selecting: block + hidden + selecting)
    ),
    "you left out the hidden states.": _sum(lambda block, hidden, running, selecting: block + max(running, selecting)),
    "you left out the block itself.": _sum(lambda block, hidden, running, selecting: hidden + max(running, selecting)),
    "you kept the hidden states of one batch. Those of all samples wait for the next block.": (
        lambda d, m, k, samples, length, batch, size: _visited(d, m, k, 1, batch, batch, size)
    ),
    "you ran all tokens at once. The activations are those of one batch.": (
        lambda d, m, k, samples, length, batch, size: _visited(d, m, k, samples, length, samples * length, size)
    ),
    "k_proj and v_proj are width × kv each, narrower than q_proj.": (
        lambda d, m, k, *others: _visited(d, m, d, *others)
    ),
    "the MLP has three matrices, gate, up and down; you counted two.": (
        lambda d, m, k, *others: _visited(d, m, k, *others) - others[-1] * d * m
    ),
    "you counted numbers, not bytes. Each takes itemsize bytes.": lambda *shape: _visited(*shape[:-1], 1),
    "you gave bits. The answer is in bytes: itemsize is bytes already.": lambda *shape: 8 * _visited(*shape),
    "running takes 6 numbers of itemsize bytes each; 12 bytes is right for 2 bytes a number only.": (
        lambda d, m, k, samples, length, batch, size: _visited(d, m, k, samples, length, batch * 2 / size, size)
    ),
    "you selected the whole block at once. Select works on one layer at a time, at most width × inner weights.": (
        lambda *shape: sum(_parts(*shape)[:2]) + max(_parts(*shape)[2], 9 * _parts(*shape)[0] / shape[-1])
    ),
    "the 9 of selecting is bytes already, whatever the itemsize.": (
        lambda *shape: sum(_parts(*shape)[:2]) + max(_parts(*shape)[2], shape[-1] * _parts(*shape)[3])
    ),
}


def visited_gpu_bytes(function, graded: bool = False) -> None:
    """Exercise 03.2: what a GPU must hold when one block at a time visits it, in bytes.

    ``function(width, inner, kv, samples, length, batch_tokens, itemsize)``: one block, the hidden states of all
    samples, and the larger of one batch's activations and the scratch to select a layer. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 03, "Exercise 03.2".
    """
    cases = [(576, 1536, 192, 8, 128, 512, 4), (576, 1536, 192, 16, 64, 64, 2)]
    if graded:
        cases += [(4096, 11008, 4096, 128, 2048, 8192, 2), (8192, 28672, 1024, 128, 2048, 2048, 2)]
        cases += [(64, 100, 16, 3, 50, 50, 8)]
    judge(function, cases, _visited, VISITED_GPU_BYTES, tolerance=1e-6)
    done("03.2", "one block, all hidden states, and the larger of running and selecting", graded)


def _two_passes(weights, blocks, tokens, rate):
    return 2 * weights * (2 * blocks - 1) * tokens / rate


TWO_PASS_SECONDS = {
    "one pass. The loop runs each block twice, to capture and to propagate.": (
        lambda weights, blocks, tokens, rate: 2 * weights * blocks * tokens / rate
    ),
    "you ran the last block twice. Nobody reads what leaves it, so it needs no second pass.": (
        lambda weights, blocks, tokens, rate: 4 * weights * blocks * tokens / rate
    ),
    "the last block needs one pass, the one that captures. You left it out altogether.": (
        lambda weights, blocks, tokens, rate: 4 * weights * (blocks - 1) * tokens / rate
    ),
    "you counted multiplications only. Each comes with an addition, so 2 operations for each weight and token.": (
        lambda *numbers: _two_passes(*numbers) / 2
    ),
    "these are operations, not seconds. Divide by the operations a second.": (
        lambda weights, blocks, tokens, rate: _two_passes(weights, blocks, tokens, 1)
    ),
    "this is seconds for one token.": lambda weights, blocks, tokens, rate: _two_passes(weights, blocks, 1, rate),
    "this is one block, twice. All blocks must run.": (
        lambda weights, blocks, tokens, rate: 4 * weights * tokens / rate
    ),
}


def two_pass_seconds(function, graded: bool = False) -> None:
    """Exercise 03.3: ``function(weights_per_block, blocks, tokens, flops_per_second)`` -> seconds of the block loop.

    Two passes of all tokens, the last block once; a multiplication and an addition for each weight and token. graded:
    on more cases. AssertionError, naming the mistake. Used in notebook 03, "Exercise 03.3".
    """
    cases = [(1000, 3, 10, 60.0), (3_538_944, 30, 1024, 1.2e11)]
    if graded:
        cases += [(202_375_168, 32, 128 * 2048, 4e14), (500, 1, 7, 10.0)]
    judge(function, cases, _two_passes, TWO_PASS_SECONDS, tolerance=1e-6)
    done("03.3", "two passes, the last block once, two operations for each weight and token", graded)
