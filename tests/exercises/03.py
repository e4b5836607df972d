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


def step_by_step(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    shapes = [(width, width)] * 2 + [(kv, width)] * 2 + [(inner, width)] * 2 + [(width, inner)]
    block = sum(rows * columns for rows, columns in shapes) * itemsize
    hidden = torch.empty(tokens, width, device="meta").numel() * itemsize
    running, selecting = per_token * batch_tokens, per_weight * inner * width
    return block + hidden + (running if running > selecting else selecting)


def as_a_float(*shape):
    return float(step_by_step(*shape))


def numbers(width, inner, kv, tokens):
    return width * (2 * width + 2 * kv + 3 * inner) + tokens * width


def both_scratches(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    return numbers(width, inner, kv, tokens) * itemsize + per_token * batch_tokens + per_weight * width * inner


def one_batch(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    scratch = max(per_token * batch_tokens, per_weight * width * inner)
    return numbers(width, inner, kv, batch_tokens) * itemsize + scratch


def in_bits(*shape):
    return step_by_step(*shape) * 8


def equal_heads(width, inner, kv, *others):
    return step_by_step(width, inner, width, *others)


def everything_at_once(width, inner, kv, tokens, batch_tokens, *others):
    return step_by_step(width, inner, kv, tokens, tokens, *others)


def bytes_twice(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    scratch = max(per_token * batch_tokens, per_weight * width * inner)
    return (numbers(width, inner, kv, tokens) + scratch) * itemsize


def up_and_down(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    scratch = max(per_token * batch_tokens, per_weight * width * inner)
    return (numbers(width, inner, kv, tokens) - width * inner) * itemsize + scratch


def without_selecting(width, inner, kv, tokens, batch_tokens, itemsize, per_token, per_weight):
    return numbers(width, inner, kv, tokens) * itemsize + per_token * batch_tokens


def zeros_of(W, x, sparsity):
    """Wanda's zeros, by a sort."""
    return cut(W, W.abs() * x.norm(dim=0), sparsity) == 0


def audit(blocks, pruned, x, sparsity):
    for number, (W, P) in enumerate(zip(blocks, pruned, strict=True)):
        if not torch.equal(zeros_of(W, x, sparsity), P == 0):
            return number
        x = run(P, x)
    return -1


def audit_in_numpy(blocks, pruned, x, sparsity):
    x = x.numpy().astype(np.float64)
    for number, (W, P) in enumerate(zip(blocks, pruned, strict=True)):
        lowest = np.argsort(abs(W.numpy()) * np.sqrt((x**2).sum(axis=0)), axis=1, kind="stable")
        zeros = np.zeros(W.shape, dtype=bool)
        np.put_along_axis(zeros, lowest[:, : int(W.shape[1] * sparsity)], True, axis=1)
        if (zeros != (P.numpy() == 0)).any():
            return np.int64(number)
        x = x + np.maximum(x @ P.numpy().T, 0)
    return -1


def dense_again(blocks, pruned, x, sparsity):
    for number, (W, P) in enumerate(zip(blocks, pruned, strict=True)):
        if not torch.equal(zeros_of(W, x, sparsity), P == 0):
            return number
        x = run(W, x)
    return -1


def all_by_x(blocks, pruned, x, sparsity):
    right = [torch.equal(zeros_of(W, x, sparsity), P == 0) for W, P in zip(blocks, pruned, strict=True)]
    return right.index(False) if False in right else -1


def only_zeros(blocks, pruned, x, sparsity):
    shares = [float((P == 0).float().mean()) for P in pruned]
    return next((n for n, share in enumerate(shares) if share > sparsity + 0.05), -1)


def the_last(blocks, pruned, x, sparsity):
    found = -1
    for number, (W, P) in enumerate(zip(blocks, pruned, strict=True)):
        found = found if torch.equal(zeros_of(W, x, sparsity), P == 0) else number
        x = run(P, x)
    return found


def from_one(*case):
    return audit(*case) + (audit(*case) >= 0)


def yes_or_no(*case):
    return 1 if audit(*case) >= 0 else -1


def by_output(blocks, pruned, x, sparsity):
    for number, (W, P) in enumerate(zip(blocks, pruned, strict=True)):
        if not torch.equal(zeros_of(W, run(W, x), sparsity), P == 0):
            return number
        x = run(P, x)
    return -1


def phase_by_phase(weights, last_layer, attention, blocks, tokens, first_batch, rate):
    capture = blocks * ((2 * weights + attention) * tokens - 2 * last_layer * (tokens - first_batch))
    return (capture + (blocks - 1) * (2 * weights + attention) * tokens) / rate


def block_after_block(weights, last_layer, attention, blocks, tokens, first_batch, rate):
    operations = 0
    for block in range(blocks):
        operations += first_batch * (2 * weights + attention)
        operations += (tokens - first_batch) * (2 * (weights - last_layer) + attention)
        operations += tokens * (2 * weights + attention) if block + 1 < blocks else 0
    return operations / rate


def once(w, last, a, blocks, tokens, first, rate):
    return (2 * w + a) * blocks * tokens / rate


def two_whole(w, last, a, blocks, tokens, first, rate):
    return (2 * w + a) * 2 * blocks * tokens / rate


def capture_whole(w, last, a, blocks, tokens, first, rate):
    return (2 * w + a) * (2 * blocks - 1) * tokens / rate


def last_too(w, last, a, blocks, tokens, first, rate):
    return phase_by_phase(w, last, a, blocks, tokens, first, rate) + (2 * w + a) * tokens / rate


def first_batch_short(w, last, a, blocks, tokens, first, rate):
    return phase_by_phase(w, last, a, blocks, tokens, 0, rate)


def no_attention(w, last, a, *others):
    return phase_by_phase(w, last, 0, *others)


def multiply_only(w, last, a, *others):
    return phase_by_phase(w / 2, last / 2, a, *others)


def operations(*numbers):
    return phase_by_phase(*numbers) * numbers[-1]


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
            (bytes_twice, "per_token and per_weight are bytes already"),
            (up_and_down, "you counted two"),
            (without_selecting, "left out selecting"),
        ],
    },
    "ex03c": {
        "check": checks.loop_seconds,
        "right": [phase_by_phase, block_after_block],
        "wrong": [
            (once, "one pass"),
            (two_whole, "two whole passes"),
            (capture_whole, "You ran all of it"),
            (last_too, "propagated the last block too"),
            (first_batch_short, "capture runs its first batch to the end"),
            (no_attention, "left out attention"),
            (multiply_only, "multiplications only"),
            (operations, "not seconds"),
        ],
    },
    "ex03d": {
        "check": checks.first_misjudged,
        "right": [audit, audit_in_numpy],
        "wrong": [
            (dense_again, "the fault that you are looking for"),
            (all_by_x, "you judged every block by x"),
            (only_zeros, "you counted zeros"),
            (the_last, "you gave the last block that is wrong"),
            (from_one, "counted from 1"),
            (yes_or_no, "whether a loop is wrong"),
            (by_output, "by what a block puts out"),
        ],
    },
}
