"""Checks of notebook 11: a loop over files that goes on where it was killed, and when to save."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import wraps
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


def _extra(gap, blocks, kills, propagate, save):
    """Seconds that saving after every gap-th block, and running again what was not saved, take on average."""
    again = sum(finished % gap for finished in range(blocks)) / blocks
    return save * ((blocks - 1) // gap) + kills * propagate * again


def _cheapest(cost: Callable = _extra) -> Callable:
    """The gap that costs the least, or, by a wrong cost, a mistake in it."""

    def save_every(blocks, kills, propagate, save):
        return min(range(1, blocks + 1), key=lambda gap: cost(gap, blocks, kills, propagate, save))

    return save_every


def _rounded(function: Callable) -> Callable:
    """Of a gap that costs hardly more than the cheapest, the cheapest: a rule of thumb is an answer, too."""

    @wraps(function)
    def save_every(*arguments):
        gap, best = function(*arguments), _cheapest()(*arguments)
        try:
            near = gap == int(gap) and 1 <= gap <= arguments[0]
            return best if near and _extra(int(gap), *arguments) <= 1.05 * _extra(best, *arguments) else gap
        except (TypeError, ValueError, OverflowError, RuntimeError):  # not a number
            return gap

    return save_every


SAVE_EVERY = {
    "you never save, whatever it costs. Only the blocks since the last save are run again: finished % k.": (
        lambda n, kills, p, s: n
    ),
    "you save after every block. Count the seconds that saving takes, too.": lambda n, kills, p, s: 1,
    "you save after the last block, too. Nothing needs to be saved there: (blocks - 1) // k times.": (
        _cheapest(lambda k, n, kills, p, s: _extra(k, n, kills, p, s) + s * (n // k - (n - 1) // k))
    ),
    "you added up the blocks that are run again. Divide by `blocks`, since a kill finds one number of them finished.": (
        _cheapest(lambda k, n, kills, p, s: _extra(k, n, n * kills, p, s))
    ),
    "you took the worst kill, k - 1 blocks to run again. Take the mean over all moments: about half as many.": (
        _cheapest(lambda k, n, kills, p, s: s * ((n - 1) // k) + kills * p * (k - 1))
    ),
    "you reckoned with one kill, or save anew for every kill. One run has `kills` of them on average.": (
        _cheapest(lambda k, n, kills, p, s: _extra(k, n, 1, p, s))
    ),
    "you counted blocks as seconds. Each block that is run again takes `propagate` seconds.": (
        _cheapest(lambda k, n, kills, p, s: _extra(k, n, kills, 1, s))
    ),
    "this is how often to save. Return after how many blocks: k.": (
        lambda n, kills, p, s: (n - 1) // _cheapest()(n, kills, p, s)
    ),
    "these are the seconds at the best k. Return k.": (
        lambda n, kills, p, s: _extra(_cheapest()(n, kills, p, s), n, kills, p, s)
    ),
}


def save_every(function, graded: bool = False) -> None:
    """Exercise 11.2: ``function(blocks, kills, propagate, save)`` -> after how many blocks to save hidden states.

    propagate, save: seconds for one block, and for saving once. kills: how many on average. A gap that costs up to 5%
    more than the cheapest is right, too. graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 11, "Exercise 11.2".
    """
    cases = [(32, 2, 6.0, 4.0), (80, 0.5, 30.0, 12.0), (30, 3, 0.5, 1.0), (32, 0.1, 0.5, 2.0)]
    if graded:
        cases += [(48, 4, 2.5, 6.0), (40, 0.2, 0.4, 3.0), (24, 2, 40.0, 0.5), (1, 1, 1.0, 1.0)]
    wrong = {said: _rounded(mistaken) for said, mistaken in SAVE_EVERY.items()}
    judge(_rounded(function), cases, _cheapest(), wrong)
    done("11.2", "what saving takes against what is run again, and the gap where the sum is lowest", graded)
