"""A run over a checkpoint goes on only as itself, and alone."""

import functools
import os
import platform
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from folders import Killed, contents, saved, stop_after, tensors
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.checkpoint import resume


@pytest.fixture
def source(tmp_path):
    return saved(tiny_model(), tmp_path / "source")


def broken_off(source, out, tokens, score, monkeypatch, **how) -> None:
    stop_after(1, monkeypatch)
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, out, tokens, score, **how)
    monkeypatch.undo()


# ---- only as itself


def power(p):
    return lambda W, norm: W.abs() * norm**p


def times(W, norm, by=1.0):
    return (lambda w: w.abs() * by)(W) * norm


def times_again():
    """As another process has it: the same code at another address."""
    made: dict = {}
    exec("def times(W, norm, by=1.0):\n    return (lambda w: w.abs() * by)(W) * norm", made)
    return made["times"]


def named(name, function):
    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda W, n: W.abs() * n, lambda W, n: W.exp() * n),
        (lambda W, n: W.abs() * n, lambda W, n: W.abs() + n),
        (power(0), power(2)),
        (functools.partial(times, by=1.0), functools.partial(times, by=-1.0)),
        ("wanda", named("wanda", lambda W, n: -W.abs() * n)),
    ],
    ids=["names", "operators", "closures", "partials", "a name that is taken"],
)
def test_a_score_of_your_own_is_known_by_all_that_it_does(first, second, source, tokens, tmp_path, monkeypatch):
    broken_off(source, tmp_path / "out", tokens, first, monkeypatch)
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"other arguments \(plan\)"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, second)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    "score",
    [lambda: power(np.float32(0.5)), times_again, lambda: functools.partial(times_again(), by=2.0)],
    ids=["closure", "lambda", "partial"],
)
def test_a_score_of_your_own_goes_on(score, source, tokens, tmp_path, monkeypatch):
    wn.prune_checkpoint(source, tmp_path / "whole", tokens, score())
    broken_off(source, tmp_path / "out", tokens, score(), monkeypatch)
    wn.prune_checkpoint(source, tmp_path / "out", tokens, score())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("sparsity", [np.float32(0.4), [np.float64(0.3), np.float32(0.5), 0]], ids=str)
def test_a_sparsity_of_numpys_goes_on(sparsity, source, tokens, tmp_path, monkeypatch):
    broken_off(source, tmp_path / "out", tokens, "wanda", monkeypatch, sparsity=sparsity)
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, "wanda", sparsity=sparsity)
    assert set(report.layers["asked"]) == {float(one) for one in np.atleast_1d(sparsity)}


class Own:
    def __call__(self, W, norm):
        return W.abs() * norm


def test_a_score_that_cannot_be_identified_starts_and_does_not_go_on(source, tokens, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="could not go on.*an object of the class Own"):
        broken_off(source, tmp_path / "out", tokens, Own(), monkeypatch)
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"cannot be told: .*class Own.*another destination"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, Own())
    assert contents(tmp_path / "out") == before
    with pytest.warns(UserWarning):
        wn.prune_checkpoint(source, tmp_path / "other", tokens, Own())
    wn.prune_checkpoint(source, tmp_path / "wanda", tokens)
    assert all(torch.equal(tensor, tensors(tmp_path / "wanda")[n]) for n, tensor in tensors(tmp_path / "other").items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"asked": {"pl',
        "[]",
        "null",
        '{"rows": {}}',
        '{"asked": {}, "batch_size": 1, "seconds": {}, "rows": {"0": [{}]}}',
    ],
)
def test_a_record_that_is_none_is_refused_by_name(text, source, tokens, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run.json is no record of a run .* damaged one. Choose another destination"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert (tmp_path / "out" / "run.json").read_text() == text


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_finished_block_that_was_harmed_is_refused_by_name(harm, source, tokens, tmp_path, monkeypatch):
    broken_off(source, tmp_path / "out", tokens, "wanda", monkeypatch)
    harm(tmp_path / "out" / "model-00002-of-00004.safetensors")
    with pytest.raises(ValueError, match=r"model-00002-of-00004.safetensors is damaged, cut short or gone"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)


# ---- alone


def other_run(folder) -> int:
    """A process that holds a folder until it is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with resume.in_use(folder):
            os.write(writing, b"held")
            time.sleep(60)
        os._exit(0)
    assert os.read(reading, 4) == b"held"
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no second process without an import of everything")
def test_the_second_of_two_runs_is_told_who_has_the_folder(source, tokens, tmp_path, monkeypatch):
    broken_off(source, tmp_path / "out", tokens, "wanda", monkeypatch)
    (tmp_path / "out" / "hidden-states-0.tmp").write_text("the other run's")
    before, child = contents(tmp_path / "out"), other_run(tmp_path / "out")
    try:
        with pytest.raises(
            OSError, match=rf"in use .*process {child} on {platform.node()} since .*another destination"
        ):
            wn.prune_checkpoint(source, tmp_path / "out", tokens)
        assert contents(tmp_path / "out").items() >= before.items()
        wn.prune_checkpoint(source, tmp_path / "another", tokens)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (tmp_path / "out" / resume.LOCK).exists()  # left by the killed run, and in nobody's way
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert contents(tmp_path / "out") == contents(tmp_path / "another")
    assert not (tmp_path / "out" / resume.LOCK).exists()


@pytest.mark.parametrize("failing", [False, True])
def test_the_folder_is_held_from_the_first_word_to_the_last(failing, source, tokens, tmp_path, monkeypatch):
    out, tried = tmp_path / "out", []

    def tries(name):
        done = getattr(resume, name)

        def trying(*args):
            with pytest.raises(OSError, match="in use"), resume.in_use(out):
                pass
            tried.append(name)
            if failing and name == "write_index":
                raise OSError("full")
            return done(*args)

        monkeypatch.setattr(resume, name, trying)

    tries("write_text"), tries("write_index")
    if failing:
        with pytest.raises(OSError, match="full"):
            wn.prune_checkpoint(source, out, tokens)
    else:
        wn.prune_checkpoint(source, out, tokens)
    assert set(tried) == {"write_text", "write_index"} and not (out / resume.LOCK).exists()
    with resume.in_use(out):
        assert (out / resume.LOCK).exists()


def test_the_other_ranks_are_told_too(source, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "world", lambda: (1, 2))
    monkeypatch.setattr(
        resume, "from_first_rank", lambda mine: "out is in use by another run" if mine is None else mine
    )
    with pytest.raises(OSError, match="in use by another run"), resume.in_use(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("room", [-1, 0])
def test_the_disk_must_hold_the_weights_and_the_hidden_states(room, source, tokens, tmp_path, monkeypatch):
    found = wn.estimate_checkpoint(source, tokens)
    free = found.disk + found.hidden + room
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    if room < 0:
        with pytest.raises(OSError, match=r"free, but the pruned model takes .* and hidden states up to"):
            wn.prune_checkpoint(source, tmp_path / "out", tokens)
        assert not (tmp_path / "out").exists()
    else:
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
