"""Checks of notebook 11: a loop over files that goes on where it was killed, what a kill costs, and shared windows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..masks import prune_mask
from ..scores import wanda_score
from .core import call, done, judge


def _block(W, x):  # the toy block of the exercise
    return x + torch.relu(x @ W.T)


def _pruned(W, x, sparsity):
    return W.masked_fill(prune_mask(wanda_score(W, x.norm(dim=0)), sparsity), 0)


def _load(path: Path) -> torch.Tensor:
    return load_file(path)["W"]


def _file_loop(hand_on=lambda W, cut, x: _block(cut, x), skip=True, through_finished=True) -> Callable:
    """The loop from folder to folder, or a mistake in it."""

    def prune_folder(source, destination, x, sparsity):
        for path in sorted(source.iterdir()):
            new = destination / path.name
            W = _load(path)
            finished = skip and new.exists()
            cut = _load(new) if finished else _pruned(W, x, sparsity)
            if not finished:
                save_file({"W": cut}, new)
            if not finished or through_finished:
                x = hand_on(W, cut, x)

    return prune_folder


PRUNE_FOLDER = {
    "each block handed on what it put out while still dense. Run it again, pruned: the next block reads that.": (
        _file_loop(hand_on=lambda W, cut, x: _block(W, x))
    ),
    "every block was judged by x, the input of the first. Hand on what each pruned block puts out.": (
        _file_loop(hand_on=lambda W, cut, x: x)
    ),
    "you pruned finished blocks again. What is in the destination already is done: load it, run it, keep it.": (
        _file_loop(skip=False)
    ),
    "you passed over finished blocks without running them. The next block reads what they put out.": (
        _file_loop(through_finished=False)
    ),
}


def _in_folders(function: Callable) -> Callable:
    """A function of folders as one of tensors: (blocks, finished, x, sparsity) -> the stored results, stacked."""

    def prune_folder(blocks, finished, x, sparsity):
        with tempfile.TemporaryDirectory() as scratch:
            source, destination = Path(scratch) / "source", Path(scratch) / "destination"
            source.mkdir()
            destination.mkdir()
            for folder, matrices in ((source, blocks), (destination, finished)):
                for number, W in enumerate(matrices):
                    save_file({"W": W}, folder / f"{number}.safetensors")
            before = {path.name: path.read_bytes() for path in source.iterdir()}
            function(source, destination, x, sparsity)
            _expect_files(source, destination, before)
            return torch.stack([_load(path) for path in sorted(destination.iterdir())])

    return prune_folder


def _expect_files(source: Path, destination: Path, before: dict[str, bytes]) -> None:
    if {path.name: path.read_bytes() for path in source.iterdir()} != before:
        raise AssertionError("prune_folder: the source was changed. Write into the destination only.")
    found = sorted(path.name for path in destination.iterdir())
    if found != sorted(before):
        raise AssertionError(f"prune_folder: expected in the destination {sorted(before)}, found {found}.")


def prune_folder(function, graded: bool = False) -> None:
    """Exercise 11.1: ``function(source, destination, x, sparsity)`` prunes toy blocks from folder to folder.

    source: a folder of ``0.safetensors`` and so on, each {"W": (width, width)}. destination: a folder that holds those
    blocks which an earlier run finished. graded: on more cases. AssertionError, naming the mistake. Used in notebook
    11, "Exercise 11.1".
    """

    def files(source, destination, x, sparsity):
        call(_returning(function), source, destination, x, sparsity)

    draw = torch.Generator().manual_seed(0)
    cases = []
    for count, finished in ((3, 0), (3, 1)) if not graded else ((3, 0), (3, 1), (4, 2), (2, 2), (1, 0)):
        blocks = [torch.randn(8, 8, generator=draw) for _ in range(count)]
        x = torch.randn(20, 8, generator=draw).pow(3) * torch.rand(8, generator=draw) * 3
        marked = [W.masked_fill(torch.rand(8, 8, generator=draw) < 0.5, 0) for W in blocks[:finished]]  # told apart
        cases.append((blocks, marked, x, 0.5))
    judge(_named(_in_folders(files), function), cases, _in_folders(_file_loop()), _of_files(PRUNE_FOLDER))
    done("11.1", "from folder to folder, and on from where it was killed", graded)


def _returning(function: Callable) -> Callable:
    def prune_folder(*arguments):
        function(*arguments)
        return True  # the answer is in the files

    return prune_folder


def _named(function: Callable, after: Callable) -> Callable:
    function.__name__ = getattr(after, "__name__", "prune_folder")
    return function


def _of_files(wrong: dict[str, Callable]) -> dict[str, Callable]:
    return {said: _in_folders(mistaken) for said, mistaken in wrong.items()}


def _seconds_left(blocks, finished, capture, select, propagate):
    return (blocks - finished) * (capture + select) + (blocks - 1) * propagate


SECONDS_LEFT = {
    "you began again from block 0. Finished blocks are neither captured nor selected a second time.": (
        lambda n, f, c, s, p: n * (c + s) + (n - 1) * p
    ),
    "finished blocks are not free: all windows pass them again, to get what enters the next one.": (
        lambda n, f, c, s, p: (n - f) * (c + s) + (n - f - 1) * p
    ),
    "you propagated the last block too. Nobody reads what leaves it.": (
        lambda n, f, c, s, p: (n - f) * (c + s) + n * p
    ),
    "the block at hand when the run was killed was not finished: it is done again, from its beginning.": (
        lambda n, f, c, s, p: (n - f - 1) * (c + s) + (n - 1) * p
    ),
    "a finished block is run once, to propagate. Capture is for blocks still to be pruned.": (
        lambda n, f, c, s, p: n * c + (n - f) * s + (n - 1) * p
    ),
    "this is what the finished blocks cost. All the others are still to be done.": lambda n, f, c, s, p: f * p,
}


def seconds_left(function, graded: bool = False) -> None:
    """Exercise 11.2: ``function(blocks, finished, capture, select, propagate)`` -> seconds to the end after a kill.

    capture, select, propagate: seconds for one block. graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 11, "Exercise 11.2".
    """
    cases = [(30, 10, 0.5, 0.25, 0.75), (32, 1, 7.0, 11.0, 8.5)]
    if graded:
        cases += [(32, 0, 7.0, 11.0, 8.5), (80, 79, 30.0, 5.0, 40.0), (5, 3, 1.0, 0.0, 1.5)]
    judge(function, cases, _seconds_left, SECONDS_LEFT, tolerance=1e-6)
    done("11.2", "what is left to prune, and one pass through what is finished", graded)


NORM_OF_ALL = {
    "you added the norms. Their squares add up: a norm is the root of a sum of squares.": lambda norms: norms.sum(0),
    "you took the mean of the norms. Their squares add up, whoever saw how many tokens.": lambda norms: norms.mean(0),
    "you took the larger of the norms. Every process has seen other tokens, and all of them count.": (
        lambda norms: norms.amax(0)
    ),
    "this is the sum of squares. Take its root.": lambda norms: norms.pow(2).sum(0),
    "you took the root of the mean of squares. A norm is the root of their sum.": (
        lambda norms: norms.pow(2).mean(0).sqrt()
    ),
    "you took the root of the sum of the norms. Square them first.": lambda norms: norms.sum(0).sqrt(),
    "you summed over the channels. Each channel keeps a norm of its own: sum over the processes, dimension 0.": (
        lambda norms: norms.pow(2).sum(1).sqrt()
    ),
}


def norm_of_all(function, graded: bool = False) -> None:
    """Exercise 11.3: ``function(norms)`` (processes, in) -> the norm (in,) of every channel over all tokens.

    graded: on more cases. AssertionError, naming the mistake. Used in notebook 11, "Exercise 11.3".
    """
    draw = torch.Generator().manual_seed(1)
    cases = [(torch.rand(2, 2, generator=draw) * 5,), (torch.rand(4, 4, generator=draw) * 9,)]
    if graded:
        cases += [(torch.rand(1, 5, generator=draw),), (torch.rand(8, 3, generator=draw).double(),)]
    judge(function, cases, lambda norms: norms.pow(2).sum(0).sqrt(), NORM_OF_ALL)
    done("11.3", "the squares of all processes, added, and the root", graded)
