"""Wrong answers that must be named, and right ones that must pass."""

import math

import numpy as np
import torch
from safetensors.numpy import load_file as load_array
from safetensors.numpy import save_file as save_array
from safetensors.torch import load_file, save_file

from wanda_nb import checks


def run(W, x):
    return x + torch.relu(x @ W.T)


def cut(W, x, sparsity):
    lowest = (W.abs() * x.norm(dim=0)).argsort(dim=1, stable=True)[:, : int(W.shape[1] * sparsity)]
    return W.scatter(1, lowest, 0)


def by_number(source, destination, x, sparsity):
    number = 0
    while (path := source / f"{number}.safetensors").exists():
        new = destination / path.name
        if not new.exists():
            temporary = new.with_suffix(".tmp")
            save_file({"W": cut(load_file(path)["W"], x, sparsity)}, temporary)
            temporary.rename(new)
        x = run(load_file(new)["W"], x)
        number += 1


def in_numpy(source, destination, x, sparsity):
    x = x.numpy().astype(np.float64)
    for path in sorted(source.glob("*.safetensors")):
        if not (destination / path.name).is_file():
            W = load_array(path)["W"].copy()
            lowest = np.argsort(abs(W) * np.sqrt((x**2).sum(axis=0)), axis=1, kind="stable")
            np.put_along_axis(W, lowest[:, : int(W.shape[1] * sparsity)], 0, axis=1)
            save_array({"W": W}, destination / path.name)
        x = x + np.maximum(x @ load_array(destination / path.name)["W"].T, 0)
    return len(list(destination.iterdir()))


def each(source):
    return sorted(source.glob("*.safetensors"))


def dense_handed_on(source, destination, x, sparsity):
    for path in each(source):
        W = load_file(path)["W"]
        if not (destination / path.name).exists():
            save_file({"W": cut(W, x, sparsity)}, destination / path.name)
        x = run(W, x)


def all_by_x(source, destination, x, sparsity):
    for path in each(source):
        if not (destination / path.name).exists():
            save_file({"W": cut(load_file(path)["W"], x, sparsity)}, destination / path.name)


def all_again(source, destination, x, sparsity):
    for path in each(source):
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def passed_over(source, destination, x, sparsity):
    for path in each(source):
        if (destination / path.name).exists():
            continue
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def into_the_source(source, destination, x, sparsity):
    for path in each(source):
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, path)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def temporary_left(source, destination, x, sparsity):
    by_number(source, destination, x, sparsity)
    (destination / "0.tmp").write_bytes(b"")


def block_by_block(blocks, finished, capture, select, propagate):
    seconds = 0.0
    for block in range(blocks):
        seconds += (capture + select) * (block >= finished) + propagate * (block < blocks - 1)
    return seconds


def in_two_parts(blocks, finished, capture, select, propagate):
    rest = (blocks - finished) * (capture + select + propagate) - propagate
    return finished * propagate + rest


def from_the_start(blocks, finished, *phases):
    return block_by_block(blocks, 0, *phases)


def finished_are_free(blocks, finished, capture, select, propagate):
    return in_two_parts(blocks, finished, capture, select, propagate) - finished * propagate


def last_too(blocks, finished, capture, select, propagate):
    return in_two_parts(blocks, finished, capture, select, propagate) + propagate


def one_more_finished(blocks, finished, *phases):
    return block_by_block(blocks, finished + 1, *phases)


def capture_again(blocks, finished, capture, select, propagate):
    return block_by_block(blocks, finished, capture, select, propagate) + finished * capture


def by_hypot(norms):
    return torch.tensor([math.hypot(*channel) for channel in norms.T.tolist()])


EXERCISES = {
    "ex11a": {
        "check": checks.prune_folder,
        "right": [by_number, in_numpy],
        "wrong": [
            (dense_handed_on, "while still dense"),
            (all_by_x, "judged by x, the input of the first"),
            (all_again, "you pruned finished blocks again"),
            (passed_over, "without running them"),
            (into_the_source, "the source was changed"),
            (temporary_left, "expected in the destination"),
        ],
    },
    "ex11b": {
        "check": checks.seconds_left,
        "right": [block_by_block, in_two_parts],
        "wrong": [
            (from_the_start, "began again from block 0"),
            (finished_are_free, "finished blocks are not free"),
            (last_too, "propagated the last block too"),
            (one_more_finished, "the block at hand"),
            (capture_again, "a finished block is run once"),
        ],
    },
    "ex11c": {
        "check": checks.norm_of_all,
        "right": [by_hypot, lambda norms: torch.linalg.vector_norm(norms, dim=0), lambda norms: norms.norm(dim=0)],
        "wrong": [
            (lambda norms: sum(norms), "you added the norms"),
            (lambda norms: norms.mean(dim=0), "mean of the norms"),
            (lambda norms: norms.max(dim=0).values, "the larger of the norms"),
            (lambda norms: (norms**2).sum(dim=0), "Take its root"),
            (lambda norms: norms.square().mean(dim=0).sqrt(), "root of the mean of squares"),
            (lambda norms: norms.norm(dim=1), "summed over the channels"),
        ],
    },
}
