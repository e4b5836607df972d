"""Pruning a checkpoint on disk: the same bytes as in memory, whatever breaks in between."""

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from folders import INDEX, Killed, contents, load, rewrite, saved, stop_after
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, label, tiny_model
from transformers import AutoTokenizer

import wanda_nb as wn
from wanda_nb import hardware as memory
from wanda_nb.checkpoint import on_disk, resume, shards
from wanda_nb.checkpoint.estimate import PACKED
from wanda_nb.cost import loop_flops
from wanda_nb.footprint import Allocations
from wanda_nb.methods import make_plan
from wanda_nb.pruning import prune_block


@pytest.fixture
def source(tmp_path):
    return saved(tiny_model(), tmp_path / "source")


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def in_memory(folder, *args, **how):
    model = load(folder)
    wn.prune(model, *args, **how)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_and_in_memory_are_the_same_bits(architecture, dtype, tokens, tmp_path):
    source = saved(tiny_model(architecture, dtype=dtype), tmp_path / "source")
    before = contents(source)
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, batch_size=2)
    expected = in_memory(source, tokens, batch_size=2)
    got = load(tmp_path / "out")
    assert got.dtype == dtype and same(got, expected)
    assert report.reached == pytest.approx(0.5, abs=0.02) == wn.sparsity(got)
    assert contents(source) == before


@pytest.mark.parametrize(
    "how",
    [
        {"method": "magnitude", "sparsity": 0.3},
        {"pattern": "2:4"},
        {"method": "ria", "sparsity": [0.2, 0.5, 0.7]},
        {"method": "sparsegpt", "sparsity": 0.5},
        {"update": "one-shot"},
        {"update": "least-squares", "method": "sparsegpt"},
        {"update": "least-squares", "damping": 0.5},
        {"method": lambda W, norm: W.abs() * norm.sqrt(), "sparsity": 0.6},
    ],
    ids=label,
)
def test_every_method_goes_through_the_same_loop(how, source, tokens, tmp_path):
    tokens = None if how.get("method") == "magnitude" else tokens
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, **how)
    assert same(load(tmp_path / "out"), in_memory(source, tokens, **how))
    assert {"prepare", "load", "select", "write"} <= set(report.seconds)


def test_padding_counts_in_no_statistic_here_either(source, tokens, tmp_path):
    keep = torch.ones_like(tokens)
    keep[2, 7:] = 0
    wn.prune_checkpoint(source, tmp_path / "out", tokens, attention_mask=keep)
    assert same(load(tmp_path / "out"), in_memory(source, tokens, attention_mask=keep))


def test_hidden_states_in_a_file_change_nothing(source, tokens, tmp_path, monkeypatch):
    made = []
    mapped = memory._mapped
    monkeypatch.setattr(memory, "_mapped", lambda *args: made.append(args) or mapped(*args))
    wn.prune_checkpoint(source, tmp_path / "plain", tokens)
    assert not made
    wn.prune_checkpoint(source, tmp_path / "out", tokens, budget=0)
    assert len(made) == 1 and contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_an_update_is_rounded_before_it_is_propagated(tokens, tmp_path, monkeypatch):
    """What later blocks see is what the file holds, so a resumed run sees the same."""
    source = saved(tiny_model(dtype=torch.bfloat16), tmp_path / "source")
    how = {"method": "sparsegpt", "dtype": torch.float32}
    wn.prune_checkpoint(source, tmp_path / "whole", tokens, **how)
    stop_after(2, monkeypatch)
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, **how)
    monkeypatch.undo()
    wn.prune_checkpoint(source, tmp_path / "out", tokens, **how)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_destination_is_complete(tokens, tmp_path):
    model = tiny_model()
    source = saved(model, tmp_path / "source")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "old.bin").write_text("weights of another format")
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, text={"source": "random"})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer_config.json", "README.md", "pruning.json", INDEX} <= names
    assert "old.bin" not in names and len([n for n in names if n.endswith(".safetensors")]) == 4
    about = json.loads((tmp_path / "out" / "pruning.json").read_text())
    told = {"source": "random", "samples": 6, "length": 12, "windows begin with BOS": False}
    assert about["method"] == "wanda" and about["calibration"] == told
    assert report.read == sum(parameter.nbytes for parameter in model.parameters())  # each tensor once
    assert 1 < report.written / report.read < 1.1  # and headers
    assert (tmp_path / "out" / "model-00002-of-00004.safetensors").stat().st_mode == (
        (tmp_path / "out" / "config.json").stat().st_mode
    )


def test_the_small_real_model(tmp_path):
    folder = wn.model_folder()
    tokens = wn.calibration_tokens(AutoTokenizer.from_pretrained(folder), samples=2, length=64)
    wn.prune_checkpoint(folder, tmp_path / "out", tokens, pattern="2:4")
    assert same(load(tmp_path / "out"), in_memory(folder, tokens, pattern="2:4"))
    AutoTokenizer.from_pretrained(tmp_path / "out")


def test_names_without_the_base_models_prefix(source, tokens, tmp_path):
    """As the oldest checkpoints on the hub spell them."""
    old = tmp_path / "old"
    shutil.copytree(source, old)
    (old / INDEX).unlink()
    parts = [load_file(path) for path in old.glob("*.safetensors")]
    for path in old.glob("*.safetensors"):
        path.unlink()
    tensors = {name.removeprefix("model."): tensor for part in parts for name, tensor in part.items()}
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    wn.prune_checkpoint(old, tmp_path / "out", tokens)
    stored = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        stored |= load_file(path)
    expected = in_memory(source, tokens).state_dict()
    assert all(
        torch.equal(tensor, expected.get(name, expected.get("model." + name))) for name, tensor in stored.items()
    )
    assert set(stored) == set(tensors)


# ---- broken off and started again


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_it_goes_on_at_the_block_where_it_stopped(blocks, method, source, tokens, tmp_path, monkeypatch):
    wn.prune_checkpoint(source, tmp_path / "whole", tokens, method)
    stop_after(blocks, monkeypatch)
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, tmp_path / "out", tokens, method)
    monkeypatch.undo()
    assert not (tmp_path / "out" / INDEX).exists()  # nobody takes it for a model
    pruned, write = [], shards.write_shard
    monkeypatch.setattr(
        "wanda_nb.checkpoint.on_disk.write_shard", lambda path, t: pruned.append(path.name) or write(path, t)
    )
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, method)
    assert len(pruned) == 3 - blocks and len(report.layers) == 21
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_run_is_not_done_again(source, tokens, tmp_path):
    first = wn.prune_checkpoint(source, tmp_path / "out", tokens)
    before = contents(tmp_path / "out")
    again = wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert again.written == 0 and again.layers.equals(first.layers)
    assert contents(tmp_path / "out") == before


def test_a_pruned_checkpoint_is_a_checkpoint(source, tokens, tmp_path):
    """Pruned further, and started again: its own record is not taken for that of the run that made its source."""
    wn.prune_checkpoint(source, tmp_path / "half", tokens)
    wn.prune_checkpoint(tmp_path / "half", tmp_path / "more", tokens, sparsity=0.75)
    again = wn.prune_checkpoint(tmp_path / "half", tmp_path / "more", tokens, sparsity=0.75)
    assert again.written == 0 and wn.sparsity(load(tmp_path / "more")) == pytest.approx(0.75, abs=0.02)


def test_killed_before_the_first_word(source, tokens, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json.tmp").write_text('{"asked":')
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_killed_ten_times_at_random(tmp_path):
    """SIGKILL, ten times at random moments of one run; in a process of its own, whose children share its imports."""
    script = Path(__file__).parents[1] / "killed_at_random.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 10 and len(set(found["blocks finished at each kill"])) >= 3, found
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def change_tokens(source, how):
    how["tokens"] = how["tokens"].clone()
    how["tokens"][0, 0] += 1


def change_method(source, how):
    how["method"] = "ria"


def change_sparsity(source, how):
    how["sparsity"] = 0.6


def change_damping(source, how):
    how["damping"] = 0.1


def change_checkpoint(source, how):
    path = sorted(source.glob("*.safetensors"))[0]
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_tokens, "tokens"),
        (change_method, "plan"),
        (change_sparsity, "plan"),
        (change_damping, "plan"),
        (change_checkpoint, "source"),
    ],
)
def test_a_changed_call_is_refused_not_mixed_in(change, named, source, tokens, tmp_path, monkeypatch):
    stop_after(1, monkeypatch)
    how = {"tokens": tokens, "update": "one-shot"}
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, tmp_path / "out", **how)
    monkeypatch.undo()
    before = contents(tmp_path / "out")
    change(source, how)
    with pytest.raises(FileExistsError, match=rf"other arguments \({named}.*another destination"):
        wn.prune_checkpoint(source, tmp_path / "out", **how)
    assert contents(tmp_path / "out") == before


# ---- faults, each refused by name, the source untouched


def edit_index(source, edit):
    index = json.loads((source / INDEX).read_text())
    edit(index["weight_map"])
    (source / INDEX).write_text(json.dumps(index))


def cut_shard(source):
    path = sorted(source.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-50])


def lose_shard(source):
    sorted(source.glob("*.safetensors"))[1].unlink()


def lose_index_entry(source):
    edit_index(source, lambda names: names.pop("model.layers.1.mlp.up_proj.weight"))
    rewrite(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: None)


def wrong_index_entry(source):
    edit_index(source, lambda names: names.update({"model.layers.9.mlp.up_proj.weight": next(iter(names.values()))}))


def broken_index(source):
    (source / INDEX).write_text("{")


def no_checkpoint(source):
    for path in (*source.glob("*.safetensors"), source / INDEX):
        path.unlink()


def eight_bits(source):
    rewrite(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor.to(torch.int8))


def other_shape(source):
    rewrite(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[:5].clone())


def not_finite(source):
    def spoil(tensor):
        tensor[3, 4] = float("nan")
        return tensor

    rewrite(source, "model.layers.1.mlp.up_proj.weight", spoil)


def quantised(source):
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (source / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (cut_shard, ValueError, "is damaged or cut short .*fetch it again"),
        (lose_shard, FileNotFoundError, "listed in .*is missing: fetch it again"),
        (lose_index_entry, ValueError, r"layers.1.mlp.up_proj.weight \(block 1\) is in no shard"),
        (wrong_index_entry, ValueError, "lists model.layers.9.*does not belong"),
        (broken_index, ValueError, "index.json is damaged"),
        (no_checkpoint, FileNotFoundError, "No safetensors checkpoint.*expected.*save_pretrained"),
        (eight_bits, ValueError, "up_proj.weight is stored as I8: expected one of F16"),
        (other_shape, ValueError, r"up_proj.weight is \(5, 32\), but by config.json"),
        (quantised, ValueError, "is quantised: prune the unquantised"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_any_work(fault, kind, message, source, tokens, tmp_path):
    fault(source)
    with pytest.raises(kind, match=message):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert not (tmp_path / "out").exists()
    with pytest.raises(kind, match=message):
        wn.estimate_checkpoint(source, tokens)


def test_a_weight_that_is_not_finite_stops_at_its_block(source, tokens, tmp_path):
    not_finite(source)
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight in .* not finite.*damaged"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(record["rows"]) == ["0"]  # finished before it, and kept


def test_an_activation_that_is_not_finite_stops_at_its_block(tokens, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e30)
        model.model.layers[1].mlp.gate_proj.weight.mul_(1e30)
    with pytest.raises(ValueError, match=r"mlp.down_proj in block 1 is not finite"):
        wn.prune_checkpoint(saved(model, tmp_path / "source"), tmp_path / "out", tokens)
    assert list(json.loads((tmp_path / "out" / "run.json").read_text())["rows"]) == ["0"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"pattern": "2:5"}, "5"),
        ({"method": "wanda2"}, "method='wanda2'"),
        ({"tokens": torch.full((2, 8), 96)}, "the model knows 0 to 95"),
        ({"tokens": None}, "tokens"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
    ids=label,
)
def test_wrong_arguments_are_refused_before_any_work(how, message, source, tokens, tmp_path):
    with pytest.raises(ValueError, match=message):
        wn.prune_checkpoint(source, tmp_path / "out", **{"tokens": tokens, **how})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("destination", ["./source", "source/inside", "."])
def test_the_destination_never_overlaps_the_source(source, tokens, destination):
    with pytest.raises(ValueError, match="overlap: choose another destination"):
        wn.prune_checkpoint(source, source.parent / destination, tokens)
    assert not (source / "inside").exists()


def test_a_folder_with_other_things_is_left_alone(source, tokens, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)


def test_too_little_space_is_seen_before_the_start(source, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 10**3))
    with pytest.raises(OSError, match=r"has .* free, but the pruned model takes"):
        wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert not (tmp_path / "out").exists()


def test_a_destination_that_cannot_be_written(source, tokens, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError):
        wn.prune_checkpoint(source, tmp_path / "file" / "out", tokens)


QUOTA = """
import resource, signal, sys, torch
import wanda_nb as wn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
wn.prune_checkpoint(sys.argv[1], sys.argv[2], torch.arange(3, 75).view(6, 12))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no quota to set on this system")
def test_a_full_disk_keeps_what_is_finished(tmp_path):
    """A limit on the size of files, reached by the shard of block 1, which is the largest."""
    model = tiny_model()
    source = saved(model, tmp_path / "source")
    limit = 35_000
    rewrite(source, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor.double())  # one shard is larger
    command = [sys.executable, "-c", QUOTA, source, tmp_path / "out", str(limit)]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode and "model-00003-of-00004.safetensors could not be written" in failed.stderr
    assert "start the same command again" in failed.stderr
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model-00002-of-00004.safetensors" in left and not any(name.endswith(".tmp") for name in left)
    again = subprocess.run([*command[:-1], str(10**9)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    tokens = torch.arange(3, 75).view(6, 12)
    wn.prune_checkpoint(source, tmp_path / "whole", tokens)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ---- what it takes


def test_the_estimate_counts_what_is_done(source, tokens, tmp_path):
    found = wn.estimate_checkpoint(source, tokens, batch_size=4)
    assert found.flops == loop_flops(tiny_model(), [(4, 12), (2, 12)]).total
    assert found.hidden == tokens.numel() * 32 * 4
    assert found.disk == sum(
        tensor.nbytes for path in source.glob("*.safetensors") for tensor in load_file(path).values()
    )
    report = wn.prune_checkpoint(source, tmp_path / "out", tokens, batch_size=4)
    assert report.flops == found.flops and report.written == pytest.approx(found.disk, rel=0.1)
    assert "at least" in str(found) and "tokens/s" in report.timing()


WIDE = {"hidden_size": 32, "intermediate_size": 160}
SQUARE = {"hidden_size": 160, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [WIDE, SQUARE], ids=["wide", "square"])
@pytest.mark.parametrize("update", ["least-squares", "one-shot"])
def test_the_estimate_of_the_hosts_memory_holds_an_update(update, shape, dtype, tokens, tmp_path, monkeypatch):
    model = tiny_model(num_hidden_layers=2, dtype=dtype, **shape)
    source, block = saved(model, tmp_path / "source"), wn.decoder_blocks(model)[0]
    monkeypatch.setattr("psutil.Process.memory_info", lambda _: SimpleNamespace(rss=0))
    few = tokens[:1, :2]  # so that an update takes more than activations
    estimate = wn.estimate_checkpoint(source, few, batch_size=1, update=update)
    with wn.InputGrams(block) as grams, torch.no_grad():
        model(input_ids=tokens)
    with Allocations("cpu") as made:
        statistics = {name: grams[name].clone() for name in wn.linear_layers(block)}
        prune_block(make_plan(2, update=update), lambda _: nullcontext(), 0, block, statistics)
    blocks = 3 * sum(parameter.nbytes for parameter in block.parameters())
    assert PACKED <= (estimate.memory - estimate.hidden - blocks) / made.peak <= 1.25 * PACKED


def test_no_weight_stays_after_its_block_is_done(source, tokens, tmp_path, monkeypatch):
    """What makes it possible at all: never more than the visited blocks on anything but the meta device."""
    seen = []
    visit = on_disk.OnDisk.visit

    def watched(self, index):
        seen.append(sum(not p.is_meta for block in self.skeleton.blocks for p in list(block.parameters())[:1]))
        return visit(self, index)

    monkeypatch.setattr(on_disk.OnDisk, "visit", watched)
    wn.prune_checkpoint(source, tmp_path / "out", tokens)
    assert seen == [0, 0, 0]


def test_the_benchmark_runs_on_a_tiny_shape(tmp_path):
    """data/benchmark.py: build, run, a record with all that is needed to run it again."""
    script = Path(__file__).parents[2] / "data" / "benchmark.py"
    folder, record = tmp_path / "tiny", tmp_path / "speed.json"
    for words in (
        ["build", folder, "--shape", "tiny"],
        ["run", folder, "--samples", "2", "--length", "16", "--device", "cpu"],
    ):
        words += ["--results", record] * (words[0] == "run")
        done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert [row["pattern"] for row in found["rows"]] == ["50%", "2:4"] and found["samples"] == 2
    assert all(
        row["ours"]["zeros"] == pytest.approx(0.5, abs=0.01) and row["ours"]["seconds"] > 0 for row in found["rows"]
    )
    assert "peak memory" in done.stdout and not list(tmp_path.glob("tiny-pruned"))
