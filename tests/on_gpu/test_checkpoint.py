"""prune_checkpoint on a pretended GPU: the CPU's files byte for byte, wherever the hidden states are."""

import time
from contextlib import ExitStack, nullcontext
from unittest.mock import patch

import pretended_gpu
import pytest
import torch
from package import HOW, LITTLE, block_bytes, files, inner, nothing_left, replaced, saved, states_lie, text
from pretended_streams import Race
from pretended_tensors import Tensor
from tiny import tiny_model

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
    with pretended_gpu.device() as gpu, states_lie(place == "gpu"):
        assert prune(tmp_path, "gpu", tokens, how, device="cuda", **PLACES[place]) == expected
        assert gpu.peak > 0 and nothing_left(gpu)


def test_hidden_states_lie_where_there_is_room(tokens, tmp_path):
    saved(tmp_path / "dense")
    peaks = {}
    for place in ("gpu", "cpu"):
        with pretended_gpu.device() as gpu, states_lie(place == "gpu"):
            prune(tmp_path, place, tokens.repeat(10, 4), {"batch_size": 4}, device="cuda")
            peaks[place] = gpu.peak
    assert peaks["gpu"] - peaks["cpu"] > 0.8 * 40 * tokens.numel() * 32 * 4


@pytest.mark.parametrize("place", PLACES)
def test_killed_and_started_again(place, tokens, tmp_path, gpu):
    saved(tmp_path / "dense", num_hidden_layers=6)
    expected = prune(tmp_path, "cpu", tokens, {})
    left, write = iter(range(3)), inner("write_shard")[0].write_shard

    def killed(*how):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return write(*how)

    with states_lie(place == "gpu"):
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


def test_two_blocks_are_there_never_three(tokens, tmp_path, gpu):
    """The next but one is sent when the block before has gone home, however long that takes."""
    model = tiny_model(num_hidden_layers=4, hidden_size=64)
    model.save_pretrained(tmp_path / "dense")
    alive = []

    def slow(tensor):
        time.sleep(0.02)
        alive.append(gpu.alive)
        return tensor.to("cpu")

    with patch.object(Tensor, "cpu", slow):
        prune(tmp_path, "gpu", tokens, HOW["magnitude"], device="cuda")
    assert len(alive) > 30 and max(alive) < 2.6 / 4 * block_bytes(model)  # two and what selection takes


def test_many_times_over_no_two_streams_meet(tokens, tmp_path, gpu):
    """Every block is prefetched while another one is computed and a third is written: the waits between them hold."""
    saved(tmp_path / "dense", num_hidden_layers=12, **LITTLE)
    prune(tmp_path, "gpu", tokens[:2, :6], {"batch_size": 1}, device="cuda")
    assert gpu.launched.keys() >= {0, 1, 2} and nothing_left(gpu)


def nothing(*_, **__):
    pass


class Unhurried:
    """A clock that never waits for the device."""

    def __init__(self, device, seconds=None):
        self.seconds = {}

    def __call__(self, phase):
        return nullcontext()


ORDER = {
    "record_stream": (Tensor, "is freed"),
    "synchronize": ("Stream", "reads"),
    "wait_event": ("Stream", "reads"),
}


@pytest.mark.parametrize(("how", "dtype"), [("wanda", None), ("sparsegpt", torch.float32)], ids=["as stored", "cast"])
@pytest.mark.parametrize("missing", [None, *ORDER])
def test_without_it_streams_race(missing, how, dtype, tokens, tmp_path):
    """Each kind of order that the package asks for is needed: where the device ignores it, a race is found.

    The clock's waits, and those for answers, would hide it: here nothing may rest on them.
    """
    saved(tmp_path / "dense", dtype=torch.bfloat16, **LITTLE)
    with ExitStack() as stack:
        if missing is not None:
            stack.enter_context(pytest.raises(Race, match=ORDER[missing][1]))
        stack.enter_context(pretended_gpu.device(answers_wait=False))
        stack.enter_context(replaced("Clock", Unhurried))
        if missing is not None:
            owner = torch.cuda.Stream if ORDER[missing][0] == "Stream" else Tensor
            stack.enter_context(patch.object(owner, missing, nothing))
        prune(tmp_path, "gpu", tokens, HOW[how], device="cuda", dtype=dtype)


def test_the_first_block_is_not_freed_early(tokens, tmp_path):
    saved(tmp_path / "dense")
    with pretended_gpu.device():
        wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens, device="cuda", batch_size=6)


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_streaming_sends_each_block_once_and_no_more(method, tokens, tmp_path, gpu):
    model = tiny_model(num_hidden_layers=8, vocab_size=4096)
    model.save_pretrained(tmp_path / "dense")
    how = {"method": method, "device": "cuda"}
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", text(how, tokens[:2, :6]), **how)
    beginning = model.get_input_embeddings().weight.nbytes if method == "wanda" else 0
    assert 1 <= (gpu.copied("in") - beginning) / block_bytes(model) < 1.05
    assert 1 <= gpu.copied("out") / block_bytes(model) < 1.05


def test_the_cache_is_not_emptied_for_every_tensor(tokens, tmp_path, gpu):
    saved(tmp_path / "dense", num_hidden_layers=6)
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens, device="cuda", batch_size=6)
    assert gpu.emptied == 0


def test_the_clock_does_not_wait_for_reader_and_writer(tokens, tmp_path, gpu):
    saved(tmp_path / "dense")
    wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens, device="cuda", batch_size=6)
    assert gpu.waits["a stream"] > 0 and gpu.waits["device"] == 0
