"""Checks of notebook 03 on cost: what the block loop takes, in memory and in time."""

from __future__ import annotations

from collections.abc import Callable

from .core import done, judge


def _parts(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    """Bytes of one block, of all hidden states, of one batch's activations, and of the scratch to select a layer."""
    block = itemsize * (2 * width**2 + 2 * width * kv + 3 * width * inner)
    return block, itemsize * tokens * width, per_token * batch_tokens, per_weight * width * inner


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
    "you kept the hidden states of one batch. Those of all tokens wait for the next block.": (
        lambda d, m, k, tokens, batch, *others: _visited(d, m, k, batch, batch, *others)
    ),
    "you ran all tokens at once. The activations are those of one batch.": (
        lambda d, m, k, tokens, batch, *others: _visited(d, m, k, tokens, tokens, *others)
    ),
    "k_proj and v_proj are width × kv each, narrower than q_proj.": (
        lambda d, m, k, *others: _visited(d, m, d, *others)
    ),
    "the MLP has three matrices, gate, up and down; you counted two.": (
        lambda d, m, k, *others: _visited(d, m, k, *others) - others[2] * d * m
    ),
    "you counted numbers, not bytes. A weight or hidden state takes itemsize bytes.": (
        lambda *shape: _visited(*shape[:5], 1, *shape[6:])
    ),
    "per_token and per_weight are bytes already: no itemsize there.": (
        lambda *shape: _visited(*shape[:6], shape[5] * shape[6], shape[5] * shape[7])
    ),
    "you gave bits. The answer is in bytes: itemsize is bytes already.": lambda *shape: 8 * _visited(*shape),
    "you selected the whole block at once. Select works on one layer at a time, at most width × inner weights.": (
        lambda *shape: sum(_parts(*shape)[:2]) + max(_parts(*shape)[2], shape[7] * _parts(*shape)[0] / shape[5])
    ),
}


def visited_gpu_bytes(function, graded: bool = False) -> None:
    """Exercise 03.2: what a GPU must hold when one block at a time visits it, in bytes.

    ``function(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight)``: one block, the hidden states
    of all tokens, and the larger of one batch's activations and the scratch to select a layer. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 03, "Exercise 03.2".
    """
    cases = [(576, 1536, 192, 1024, 512, 4, 27_000, 11), (576, 1536, 192, 1024, 64, 2, 21_000, 9)]
    if graded:
        cases += [
            (4096, 11008, 4096, 128 * 2048, 8192, 2, 150_000, 9),
            (8192, 28672, 1024, 262_144, 2048, 2, 400_000, 12),
        ]
        cases += [(64, 100, 16, 150, 50, 8, 3000, 20)]
    judge(function, cases, _visited, VISITED_GPU_BYTES, tolerance=1e-6)
    done("03.2", "one block, all hidden states, and the larger of running and selecting", graded)


def _loop_seconds(weights, last_layer, attention, blocks, tokens, first_batch, rate):
    whole = (2 * weights + attention) * tokens  # one pass of all tokens through one block
    saved = 2 * last_layer * (tokens - first_batch)
    return (blocks * (whole - saved) + (blocks - 1) * whole) / rate


def _passes(count: Callable) -> Callable:
    """count(blocks) whole passes of a block, and nothing saved."""
    return lambda w, last, a, blocks, tokens, first, rate: (2 * w + a) * tokens * count(blocks) / rate


LOOP_SECONDS = {
    "one pass. The loop runs each block twice, to capture and to propagate.": _passes(lambda blocks: blocks),
    "two whole passes. The last block needs no propagate, and capture stops before a block's last layer multiplies.": (
        _passes(lambda blocks: 2 * blocks)
    ),
    "capture stops before a block's last layer multiplies, in all batches but the first. You ran all of it.": (
        _passes(lambda blocks: 2 * blocks - 1)
    ),
    "you propagated the last block too. Nobody reads what leaves it.": (
        lambda w, last, a, blocks, tokens, first, rate: (
            _loop_seconds(w, last, a, blocks, tokens, first, rate) + (2 * w + a) * tokens / rate
        )
    ),
    "capture runs its first batch to the end: only the tokens after it save the last layer.": (
        lambda w, last, a, blocks, tokens, first, rate: _loop_seconds(w, last, a, blocks, tokens, 0, rate)
    ),
    "propagate needs the last layer: only capture may leave it out.": (
        lambda w, last, a, blocks, tokens, first, rate: (
            _loop_seconds(w, last, a, blocks, tokens, first, rate) - (blocks - 1) * 2 * last * (tokens - first) / rate
        )
    ),
    "you left out attention's own products.": (lambda w, last, a, *others: _loop_seconds(w, last, 0, *others)),
    "you counted multiplications only. Each comes with an addition, so 2 operations for each weight and token.": (
        lambda w, last, a, *others: _loop_seconds(w / 2, last / 2, a, *others)
    ),
    "attention is operations already, not multiplications: do not double it.": (
        lambda w, last, a, *others: _loop_seconds(w, last, 2 * a, *others)
    ),
    "these are operations, not seconds. Divide by the operations a second.": (
        lambda w, last, a, blocks, tokens, first, rate: _loop_seconds(w, last, a, blocks, tokens, first, 1)
    ),
}


def loop_seconds(function, graded: bool = False) -> None:
    """Exercise 03.3: seconds of the block loop, from its operations and what the machine does in a second.

    ``function(weights, last_layer, attention, blocks, tokens, first_batch, flops_per_second)``: every block captures,
    without its last layer after the first batch, and every block but the last propagates. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 03, "Exercise 03.3".
    """
    cases = [(1000, 300, 50, 3, 10, 4, 60.0), (3_538_944, 884_736, 294_912, 30, 1024, 512, 1.2e11)]
    if graded:
        cases += [(202_375_168, 45_088_768, 33_554_432, 32, 128 * 2048, 8192, 4e14), (500, 100, 40, 1, 7, 2, 10.0)]
    judge(function, cases, _loop_seconds, LOOP_SECONDS, tolerance=1e-6)
    done("03.3", "capture without its last layers, propagate without the last block", graded)
