"""Two processes under torchrun, each with half the windows: the masks of one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM

import wanda_nb as wn
from wanda_nb.distributed import my_share

SCRIPT = Path(__file__).parent / "two_ranks.py"


def torchrun(*words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture
def folder(tmp_path):
    tokens = torch.randint(3, 96, (7, 12), generator=torch.Generator().manual_seed(1))
    torch.save(tokens, tmp_path / "tokens.pt")
    tiny_model().save_pretrained(tmp_path / "source")
    return tmp_path


def agreement(a: dict, b: dict) -> float:
    masks = [(a[name] == 0, b[name] == 0) for name in a if name.endswith("proj.weight")]
    assert len(masks) == 21
    return sum(int((x == y).sum()) for x, y in masks) / sum(x.numel() for x, _ in masks)


def test_in_memory_each_rank_reads_its_share_and_gets_the_whole(folder):
    done = torchrun(SCRIPT, "memory", folder)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [s["windows"] for s in seen] == [4, 3] and seen[0]["ranks"] == 2
    states = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    alone = tiny_model()
    wn.prune(alone, torch.load(folder / "tokens.pt"))
    assert agreement(states[0], alone.state_dict()) >= 0.9999
    half = tiny_model()  # what a rank would make of its own windows
    wn.prune(half, torch.load(folder / "tokens.pt")[:4])
    assert agreement(states[0], half.state_dict()) < 0.99


def test_on_disk_the_first_rank_writes(folder):
    done = torchrun(SCRIPT, "disk", folder)
    assert done.returncode == 0, done.stderr
    alone = tiny_model()
    wn.prune(alone, torch.load(folder / "tokens.pt"))
    got = AutoModelForCausalLM.from_pretrained(folder / "out").state_dict()
    assert agreement(got, alone.state_dict()) >= 0.9999


def test_calibrating_each_rank_reads_its_share_and_gets_the_whole(folder):
    done = torchrun(SCRIPT, "calibrate", folder)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [s["windows"] for s in seen] == [4, 3] and seen[0]["ranks"] == 2
    tokens = torch.load(folder / "tokens.pt")
    alone = wn.calibrate(tiny_model(), tokens)
    for place in ("memory", "disk"):
        both = [wn.load_calibration(folder / f"{place}{rank}.safetensors") for rank in (0, 1)]
        assert all(torch.equal(both[0].sums[name], both[1].sums[name]) for name in alone)
        assert both[0].tokens == both[1].tokens == alone.tokens and both[0].texts() == alone.texts()
        assert len([*(folder / f"{place}-kept").glob("block-*.safetensors")]) == 3
        for name in alone:
            torch.testing.assert_close(both[0][name], alone[name], rtol=1e-5, atol=0)
        one, other = tiny_model(), tiny_model()
        wn.prune(one, calibration=both[0])
        wn.prune(other, calibration=alone)
        assert agreement(one.state_dict(), other.state_dict()) >= 0.9999


def test_a_rank_that_dies_ends_all_with_its_message(folder):
    start = time.perf_counter()
    done = torchrun(SCRIPT, "dies", folder)
    assert done.returncode != 0 and "the model knows 0 to 95" in done.stderr
    assert time.perf_counter() - start < 120  # not the half hour in which the other would wait for it
    assert not (folder / "out" / "model.safetensors.index.json").exists()


def test_training_on_two_is_training_on_one_with_their_batches_together(folder):
    done = torchrun(SCRIPT, "recover", folder)
    assert done.returncode == 0, done.stderr
    states = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    alone = tiny_model()
    wn.prune(alone, None, method="magnitude")
    start = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    wn.recover(alone, torch.load(folder / "tokens.pt"), "masked", steps=3, batch_size=2, learning_rate=1e-2)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(states[0][name], tensor, rtol=1e-3, atol=1e-4)
        assert not torch.equal(start[name], tensor)
    assert agreement(states[0], start) == 1


def test_fewer_windows_than_processes(monkeypatch):
    monkeypatch.setattr("wanda_nb.distributed.world", lambda: (0, 3))
    with pytest.raises(ValueError, match="2 calibration windows for 3 processes"):
        my_share(torch.zeros(2, 4))


def test_shares_are_a_partition(monkeypatch):
    tokens = torch.arange(10).view(5, 2)
    parts = []
    for rank in range(3):
        monkeypatch.setattr("wanda_nb.distributed.world", lambda rank=rank: (rank, 3))
        mine, mask = my_share(tokens, tokens > 3)
        assert torch.equal(mask, mine > 3)
        parts.append(mine)
    assert torch.equal(torch.cat(parts), tokens)
