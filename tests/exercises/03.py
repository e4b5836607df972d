"""Wrong answers that must be named, and right ones that must pass."""

import numpy as np
import torch

from wanda_nb import checks


def run(W, x):
    return x + torch.relu(x @ W.T)


def cut(W, score, sparsity):
    lowest = score.argsort(dim=1, stable=True)[:, : int(W.shape[1] * sparsity)]
    return W.scatter(1, lowest, 0)


def in_place(blocks, x, sparsity):
    for W in blocks:
        lowest = (W.abs() * x.norm(dim=0)).argsort(dim=1, stable=True)[:, : int(W.shape[1] * sparsity)]
        W.scatter_(1, lowest, 0)
        x = run(W, x)
    return blocks


def by_recursion(blocks, x, sparsity):
    if not blocks:
        return ()
    first = cut(blocks[0], blocks[0].abs() * x.pow(2).sum(0, keepdim=True).sqrt(), sparsity)
    return (first, *by_recursion(blocks[1:], run(first, x), sparsity))


def in_numpy(blocks, x, sparsity):
    x, pruned = x.numpy().astype(np.float64), []
    for W in blocks:
        W = W.numpy().copy()
        score = abs(W) * np.sqrt((x**2).sum(axis=0))
        lowest = np.argsort(score, axis=1, kind="stable")[:, : int(W.shape[1] * sparsity)]
        np.put_along_axis(W, lowest, 0, axis=1)
        pruned.append(W)
        x = x + np.maximum(x @ W.T, 0)
    return pruned


def one_shot(blocks, x, sparsity):
    norms = []
    for W in blocks:
        norms.append(x.norm(dim=0))
        x = run(W, x)
    return [cut(W, W.abs() * norm, sparsity) for W, norm in zip(blocks, norms, strict=True)]


def all_see_x(blocks, x, sparsity):
    return [cut(W, W.abs() * x.norm(dim=0), sparsity) for W in blocks]


def output_norms(blocks, x, sparsity):
    pruned = []
    for W in blocks:
        pruned.append(cut(W, W.abs() * run(W, x).norm(dim=0), sparsity))
        x = run(pruned[-1], x)
    return pruned


def whole_layer(blocks, x, sparsity):
    pruned = []
    for W in blocks:
        score = W.abs() * x.norm(dim=0)
        pruned.append(cut(W.view(1, -1), score.view(1, -1), sparsity).view_as(W))
        x = run(pruned[-1], x)
    return pruned


def no_inputs(blocks, x, sparsity):
    return [cut(W, W.abs(), sparsity) for W in blocks]


def squared(blocks, x, sparsity):
    pruned = []
    for W in blocks:
        pruned.append(cut(W, W.abs() * (x**2).sum(dim=0), sparsity))
        x = run(pruned[-1], x)
    return pruned


def only_the_first(blocks, x, sparsity):
    return all_see_x(blocks[:1], x, sparsity)


def step_by_step(width, inner, kv, samples, length, batch_tokens, itemsize):
    shapes = [(width, width)] * 2 + [(kv, width)] * 2 + [(inner, width)] * 2 + [(width, inner)]
    block = sum(rows * columns for rows, columns in shapes) * itemsize
    hidden = torch.empty(samples, length, width, device="meta").numel() * itemsize
    running, selecting = 6 * itemsize * batch_tokens * inner, (4 + 4 + 1) * inner * width
    return block + hidden + (running if running > selecting else selecting)


def as_a_float(*shape):
    return float(step_by_step(*shape))


def both_scratches(width, inner, kv, samples, length, batch_tokens, itemsize):
    numbers = width * (2 * width + 2 * kv + 3 * inner) + samples * length * width + 6 * batch_tokens * inner
    return numbers * itemsize + 9 * width * inner


def one_batch(width, inner, kv, samples, length, batch_tokens, itemsize):
    numbers = width * (2 * width + 2 * kv + 3 * inner) + batch_tokens * width
    return numbers * itemsize + max(6 * batch_tokens * inner * itemsize, 9 * width * inner)


def in_bits(*shape):
    return step_by_step(*shape) * 8


def equal_heads(width, inner, kv, samples, length, batch_tokens, itemsize):
    numbers = 4 * width**2 + 3 * width * inner + samples * length * width
    return numbers * itemsize + max(6 * batch_tokens * inner * itemsize, 9 * width * inner)


def everything_at_once(width, inner, kv, samples, length, batch_tokens, itemsize):
    return step_by_step(width, inner, kv, samples, length, samples * length, itemsize)


def always_twelve(width, inner, kv, samples, length, batch_tokens, itemsize):
    numbers = 2 * width**2 + 2 * width * kv + 3 * width * inner + samples * length * width
    return numbers * itemsize + max(12 * batch_tokens * inner, 9 * width * inner)


def up_and_down(width, inner, kv, samples, length, batch_tokens, itemsize):
    numbers = 2 * width**2 + 2 * width * kv + 2 * width * inner + samples * length * width
    return numbers * itemsize + max(6 * itemsize * batch_tokens * inner, 9 * width * inner)


def pass_after_pass(weights, blocks, tokens, rate):
    capture, propagate = (2 * weights * tokens * count / rate for count in (blocks, blocks - 1))
    return capture + propagate


def block_after_block(weights, blocks, tokens, rate):
    return sum(2 * weights * tokens * (1 if block == blocks - 1 else 2) for block in range(blocks)) / rate


def once(weights, blocks, tokens, rate):
    return 2 * weights * blocks * tokens / rate


def last_twice(weights, blocks, tokens, rate):
    return 2 * 2 * weights * blocks * tokens / rate


def multiply_only(weights, blocks, tokens, rate):
    return weights * tokens * (blocks + blocks - 1) / rate


def operations(weights, blocks, tokens, rate):
    return 2 * weights * tokens * (2 * blocks - 1)


def without_the_last(weights, blocks, tokens, rate):
    return 2 * 2 * weights * tokens * (blocks - 1) / rate


EXERCISES = {
    "ex03a": {
        "check": checks.prune_blocks,
        "right": [in_place, by_recursion, in_numpy],
        "wrong": [
            (one_shot, "while still dense"),
            (all_see_x, "judged by x, the input of the first"),
            (output_norms, "norms of the block's output"),
            (whole_layer, "over the whole layer"),
            (no_inputs, "this is magnitude"),
            (squared, "squared norm"),
            (only_the_first, "expected shape (3, 8, 8)"),
        ],
    },
    "ex03b": {
        "check": checks.visited_gpu_bytes,
        "right": [step_by_step, as_a_float],
        "wrong": [
            (both_scratches, "one after the other"),
            (one_batch, "hidden states of one batch"),
            (in_bits, "you gave bits"),
            (equal_heads, "narrower than q_proj"),
            (everything_at_once, "all tokens at once"),
            (always_twelve, "12 bytes is right for 2 bytes a number only"),
            (up_and_down, "you counted two"),
        ],
    },
    "ex03c": {
        "check": checks.two_pass_seconds,
        "right": [pass_after_pass, block_after_block],
        "wrong": [
            (once, "one pass"),
            (last_twice, "the last block twice"),
            (multiply_only, "multiplications only"),
            (operations, "not seconds"),
            (without_the_last, "left it out"),
        ],
    },
}
