"""prune_checkpoint on a pretended GPU: the CPU's files byte for byte, wherever the hidden states are."""

from contextlib import ExitStack
from unittest.mock import patch

import pretended_gpu
import pytest
import torch
from package import HOW, LITTLE, files, inner, nothing_left, replaced, saved, text
from pretended_streams import Race
from pretended_tensors import Tensor

import wanda_nb as wn

PLACES = {"gpu": {}, "cpu": {}, "file": {"budget": 0}}


def prune(folder, name, tokens, how, **settings):
    wn.prune_checkpoint(folder / "dense", folder / name, text(how, tokens), **{"batch_size": 2} | how, **settings)
    return files(folder / name)


@pytest.mark.parametrize(
    ("how", "place"),
    [(how, "gpu") for how in HOW]
    + [(how, place) for place in ("cpu", "file") for how in ("wanda", "one-shot", "padding")],
)
def test_the_files_are_the_cpus(how, place, tokens, tmp_path):
    how = HOW[how]
    saved(tmp_path / "dense", **LITTLE)
    expected = prune(tmp_path, "cpu", tokens, how)
    with pretended_gpu.device() as gpu:
        gpu.free = None if place == "gpu" else 10
        assert prune(tmp_path, "gpu", tokens, how, device="cuda", **PLACES[place]) == expected
        assert gpu.peak > 0 and nothing_left(gpu)


def test_hidden_states_lie_where_there_is_room(tokens, tmp_path):
    saved(tmp_path / "dense")
    peaks = {}
    for place in ("gpu", "cpu"):
        with pretended_gpu.device() as gpu:
            gpu.free = None if place == "gpu" else 10
            prune(tmp_path, place, tokens.repeat(10, 4), {"batch_size": 10}, device="cuda")
            peaks[place] = gpu.peak
    assert peaks["gpu"] - peaks["cpu"] > 0.8 * 40 * tokens.numel() * 32 * 4


@pytest.mark.parametrize("place", PLACES)
def test_killed_and_started_again(place, tokens, tmp_path, gpu):
    saved(tmp_path / "dense", num_hidden_layers=6)
    expected = prune(tmp_path, "cpu", tokens, {})
    gpu.free = None if place == "gpu" else 10
    left, write = iter(range(3)), inner("write_shard")[0].write_shard

    def killed(*how):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return write(*how)

    with replaced("write_shard", killed), pytest.raises(KeyboardInterrupt):
        prune(tmp_path, "gpu", tokens, {}, device="cuda", **PLACES[place])
    assert 0 < len(files(tmp_path / "gpu")) < len(expected) and nothing_left(gpu)
    assert prune(tmp_path, "gpu", tokens, {}, device="cuda", **PLACES[place]) == expected
    assert nothing_left(gpu)


def test_a_few_blocks_at_a_time_are_there(tokens, tmp_path, gpu):
    saved(tmp_path / "dense", num_hidden_layers=12)
    size = sum(map(len, files(tmp_path / "dense").values()))
    prune(tmp_path, "gpu", tokens[:2, :6], {"batch_size": 1}, device="cuda")
    assert gpu.peak < size / 2


def test_many_times_over_no_two_streams_meet(tokens, tmp_path, gpu):
    """Every block is prefetched while another one is computed and a third is written: the waits between them hold."""
    saved(tmp_path / "dense", num_hidden_layers=12, **LITTLE)
    prune(tmp_path, "gpu", tokens[:2, :6], {"batch_size": 1}, device="cuda")
    assert gpu.launched.keys() >= {0, 1, 2} and nothing_left(gpu)


def nothing(*_, **__):
    pass


# The writer's wait_event is not among them: today the block is looked through before it is written, which waits too.
ORDER = {"record_stream": (Tensor, "is freed"), "synchronize": ("Stream", "reads")}


@pytest.mark.parametrize("missing", [None, *ORDER])
def test_without_it_streams_race(missing, tokens, tmp_path):
    """Each kind of order that the package asks for is needed: where the device ignores it, a race is found."""
    saved(tmp_path / "dense", dtype=torch.bfloat16, **LITTLE)
    with ExitStack() as stack:
        if missing is not None:
            stack.enter_context(pytest.raises(Race, match=ORDER[missing][1]))
        stack.enter_context(pretended_gpu.device())
        stack.enter_context(patch("torch.cuda.synchronize", nothing))  # the clock's waits would hide it
        if missing is not None:
            owner = torch.cuda.Stream if ORDER[missing][0] == "Stream" else Tensor
            stack.enter_context(patch.object(owner, missing, nothing))
        prune(tmp_path, "gpu", tokens, HOW["sparsegpt"], device="cuda", dtype=torch.float32)  # rounds what it writes
