"""Wrong answers that must be named, and right ones that must pass."""

import itertools

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


def lowest_kept(blocks, x, sparsity):
    pruned = []
    for W in blocks:
        score = W.abs() * x.norm(dim=0)
        pruned.append(W - cut(W, score, sparsity))
        x = run(pruned[-1], x)
    return pruned


def only_the_first(blocks, x, sparsity):
    return all_see_x(blocks[:1], x, sparsity)


def by_levels(readings, block_bytes, norm_bytes):
    base = readings[0]["now"]
    there = {"in": block_bytes, "capture": block_bytes + norm_bytes, "out": 0}
    for reading in readings[1:]:
        if reading["now"] - base != there.get(reading["step"], block_bytes):
            return reading["step"]
    return "none"


def by_changes(readings, block_bytes, norm_bytes):
    change = {"in": block_bytes, "capture": norm_bytes, "select": -norm_bytes, "propagate": 0, "out": -block_bytes}
    for before, after in itertools.pairwise(readings):
        if after["now"] - before["now"] != change[after["step"]]:
            return after["step"]
    return "none"


def largest_growth(readings, block_bytes, norm_bytes):
    return max(itertools.pairwise(readings), key=lambda pair: pair[1]["now"] - pair[0]["now"])[1]["step"]


def by_the_peak(readings, block_bytes, norm_bytes):
    return by_levels([{**reading, "now": reading["most"]} for reading in readings], block_bytes, norm_bytes)


def no_norms(readings, block_bytes, norm_bytes):
    return by_levels(readings, block_bytes, 0)


def norms_until(last, readings, block_bytes, norm_bytes):
    """What is more than it should be, where norms may be there until that step is over."""
    steps = "in", "capture", "select", "propagate", "out"
    base = readings[0]["now"]
    for reading in readings[1:]:
        step = steps.index(reading["step"])
        allowed = base + block_bytes * (step < 4) + norm_bytes * (1 <= step <= steps.index(last))
        if reading["now"] > allowed:
            return reading["step"]
    return "none"


def norms_after_select(*case):
    return norms_until("select", *case)


def norms_after_propagate(*case):
    return norms_until("propagate", *case)


def norms_owed_after_select(readings, block_bytes, norm_bytes):
    base = readings[0]["now"]
    there = {"in": 0, "capture": norm_bytes, "select": norm_bytes, "propagate": 0, "out": -block_bytes}
    off = [r["step"] for r in readings[1:] if r["now"] - base - block_bytes != there[r["step"]]]
    return off[0] if off else "none"


def more_than_allowed(*case):
    return norms_until("capture", *case)


def nothing_allowed(readings, block_bytes, norm_bytes):
    return by_levels(readings, 0, norm_bytes)


def end_and_beginning(readings, block_bytes, norm_bytes):
    return "out" if readings[-1]["now"] > readings[0]["now"] else "none"


def first_visit(readings, block_bytes, norm_bytes):
    return by_levels(readings[:6], block_bytes, norm_bytes)


def last_step_off(readings, block_bytes, norm_bytes):
    found = [r for r in readings[1:] if by_levels([readings[0], r], block_bytes, norm_bytes) != "none"]
    return found[-1]["step"] if found else "none"


def step_before(readings, block_bytes, norm_bytes):
    steps = [reading["step"] for reading in readings]
    right = by_levels(readings, block_bytes, norm_bytes)
    return right if right == "none" else steps[steps.index(right, 1) - 1] if right != "in" else "out"


def never(readings, block_bytes, norm_bytes):
    return "none"


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


def saved_once(w, last, *others):
    return phase_by_phase(w, last / 2, *others)


def one_first_batch(w, last, a, blocks, tokens, first, rate):
    whole = (2 * w + a) * tokens
    return ((2 * blocks - 1) * whole - 2 * last * (blocks * tokens - first)) / rate


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
            (lowest_kept, "True means removed"),
            (only_the_first, "expected shape (3, 8, 8)"),
        ],
    },
    "ex03b": {
        "check": checks.faulty_step,
        "right": [by_levels, by_changes, more_than_allowed],
        "wrong": [
            (largest_growth, "the largest growth"),
            (by_the_peak, "what was there for a moment"),
            (no_norms, "may be there from capture to select"),
            (norms_after_select, "norms are needed until select is done"),
            (norms_after_propagate, "norms are needed until select is done"),
            (norms_owed_after_select, "norms are needed until select is done"),
            (nothing_allowed, "meant to be there during its visit"),
            (end_and_beginning, "compared the end with the beginning"),
            (first_visit, "the first block only"),
            (last_step_off, "the last step that is off"),
            (step_before, "the step before"),
            (never, "you found nothing"),
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
            (saved_once, "what is saved takes 2"),
            (one_first_batch, "every block runs its first batch"),
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
