"""Training that keeps the zeros, goes on after a kill, and merges only as it is told."""

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from tiny import label, tiny_model

import wanda_nb as wn
from wanda_nb.recovery import recover as recovery
from wanda_nb.recovery import training

FAST = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2}


def zeros(model):
    return [layer.weight == 0 for block in wn.decoder_blocks(model) for layer in wn.linear_layers(block).values()]


def test_masked_training_moves_weights_but_no_zero(pruned, text, monkeypatch):
    before, masks = copy.deepcopy(pruned), zeros(pruned)
    after_step, kept = training.Track.on_step_end, []

    def watched(self, args, state, control, model=None, **more):
        kept.append(all(torch.equal(mask, now) for mask, now in zip(masks, zeros(model), strict=True)))
        after_step(self, args, state, control, model=model, **more)

    monkeypatch.setattr(training.Track, "on_step_end", watched)
    run = wn.recover(pruned, text, "masked", heldout=text[:4], every=3, **FAST)
    assert kept == [True] * 6  # after every step of the optimiser
    assert all(torch.equal(mask, now) for mask, now in zip(masks, zeros(run.model), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), run.model.parameters(), strict=True))
    assert run.share == 1 and run.losses["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (
        run.heldout["step"].tolist() == [0, 3, 6] and run.heldout["perplexity"].iloc[-1] < run.heldout["perplexity"][0]
    )
    assert run.heldout["perplexity"].iloc[-1] == pytest.approx(wn.perplexity(run.model, text[:4]))


def test_without_the_mask_zeros_would_wake(pruned, text, monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(training.KeepZeros, "on_train_begin", lambda *_, **__: None)
    monkeypatch.setattr(training.KeepZeros, "on_optimizer_step", lambda *_, **__: None)
    monkeypatch.setattr(training.KeepZeros, "on_train_end", lambda *_, **__: None)
    assert wn.sparsity(wn.recover(pruned, text, "masked", **FAST).model) < 0.1


def test_zeros_stay_where_the_way_to_the_device_makes_new_parameters(pruned, text, monkeypatch):
    class Elsewhere(training.Trainer):
        def __init__(self, model, *settings, **more):
            for module in model.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, torch.nn.Parameter(parameter.detach().clone()))
            super().__init__(model, *settings, **more)

    monkeypatch.setattr(training, "Trainer", Elsewhere)
    before, masks = copy.deepcopy(pruned), zeros(pruned)
    run = wn.recover(pruned, text, "masked", **FAST)
    assert all(torch.equal(mask, now) for mask, now in zip(masks, zeros(run.model), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), run.model.parameters(), strict=True))
    assert not any(parameter._backward_hooks for parameter in run.model.parameters())


def test_lora_trains_adapters_alone_with_the_published_settings(pruned, text):
    before = copy.deepcopy(pruned.state_dict())
    run = wn.recover(pruned, text, steps=2, batch_size=2)
    config = run.model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert config.target_modules == {"q_proj", "v_proj"}
    assert run.trainable == 3 * 8 * ((32 + 32) + (32 + 16))  # blocks × rank × (q + v), each in + out
    assert run.parameters == sum(p.numel() for p in tiny_model().parameters())
    assert run.losses["learning_rate"][0] == 1e-4
    base = run.model.unload().state_dict()
    assert all(torch.equal(before[name], base[name]) for name in before)


def test_training_is_the_same_again(pruned, text):
    runs = [wn.recover(copy.deepcopy(pruned), text, seed=3, **FAST) for _ in range(2)]
    assert runs[0].losses.equals(runs[1].losses)
    assert not wn.recover(copy.deepcopy(pruned), text, seed=4, **FAST).losses.equals(runs[0].losses)


@pytest.fixture
def adapted(pruned, text):
    return wn.recover(pruned, text, **FAST).model


CHILD = """
import sys, os, signal
sys.path.insert(0, sys.argv[1])
import torch, wanda_nb as wn
from tiny import tiny_model
from wanda_nb.recovery import training
torch.set_num_threads(1)
model = tiny_model()
tokens = torch.randint(3, 96, (24, 12), generator=torch.Generator().manual_seed(5))
wn.prune(model, tokens[:4])
killed_at = int(sys.argv[4])
if killed_at:
    step_end = training.Track.on_step_end
    def on_step_end(self, args, state, control, **more):
        step_end(self, args, state, control, **more)
        if state.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
    training.Track.on_step_end = on_step_end
run = wn.recover(model, tokens, sys.argv[2], steps=6, batch_size=2, learning_rate=1e-2, heldout=tokens[:2], every=2,
                 folder=sys.argv[3], save_every=2)
state = {name: tensor for name, tensor in run.model.state_dict().items()}
torch.save((run.resumed_at, run.losses["loss"].tolist(), run.heldout["step"].tolist(), state), sys.argv[3] + "/end.pt")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("method", ["lora", "masked"])
def test_killed_and_resumed_is_as_if_never_killed(tmp_path, method):
    def run(folder, killed_at):
        child = [
            sys.executable,
            "-c",
            CHILD,
            os.fspath(Path(__file__).parents[1]),
            method,
            os.fspath(folder),
            str(killed_at),
        ]
        return subprocess.run(child, env={**os.environ, "TQDM_DISABLE": "1"}, capture_output=True, text=True)

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    done = run(straight, 0)
    assert done.returncode == 0, done.stderr
    assert run(broken, 5).returncode == -signal.SIGKILL
    whole = broken / "checkpoint-4"
    (broken / "checkpoint-6").mkdir()  # killed while writing: no state in it
    done = run(broken, 0)
    assert whole.is_dir() and done.returncode == 0, done.stderr
    one, other = (torch.load(folder / "end.pt") for folder in (straight, broken))
    assert (one[0], other[0]) == (0, 4)
    assert one[1:3] == other[1:3] and one[2] == [0, 2, 4, 6]
    assert all(torch.equal(one[3][name], other[3][name]) for name in one[3])


def last_number(model):
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight.view(-1)[-1] += 1e-3


def other_epsilon(model):
    model.config.rms_norm_eps = 0.1


@pytest.mark.parametrize("method", ["lora", "masked"])
@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"batch_size": 1}, {"accumulate": 2}, {"learning_rate": 1e-3}, {"seed": 1}, {"every": 2},
     {"heldout": slice(4, 8)}, {"heldout": None}, {"tokens": slice(2, None)}, {"model": last_number},
     {"model": other_epsilon}, {"processes": 2}, {"rank": 4}, {"alpha": 8}, {"dropout": 0.0}, {"targets": ("k_proj",)}],
    ids=label,
)  # fmt: skip
def test_another_run_is_not_continued(pruned, text, tmp_path, monkeypatch, method, change):
    def run(model, arguments):
        given = {
            "tokens": slice(None),
            "heldout": slice(4),
            "every": 1,
            "accumulate": 1,
            **FAST,
            "steps": 2,
        } | arguments
        for name in ("tokens", "heldout"):
            given[name] = None if given[name] is None else text[given[name]]
        return wn.recover(model, method=method, folder=tmp_path, save_every=1, **given)

    ((what, to),) = change.items()
    if method == "masked" and what in ("rank", "alpha", "dropout", "targets"):
        return  # of no effect there
    run(copy.deepcopy(pruned), {})
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    if what == "model":
        to(pruned)
    elif what == "processes":
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=rf"run with other {what}(, every)?: its checkpoints cannot be continued"):
        run(pruned, {} if what in ("model", "processes") else change)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert not isinstance(pruned, peft.PeftModel) and wn.sparsity(pruned) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("files", [["checkpoint-4/trainer_state.json"], ["config.json"]])
def test_a_folder_of_other_files_is_refused(pruned, text, tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="holds files of something else"):
        wn.recover(pruned, text, folder=tmp_path, **FAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name.partition("/")[0] for name in files]


@pytest.mark.parametrize("method", ["lora", "masked"])
@pytest.mark.parametrize("steps, save_every", [(4, 2), (5, 2), (12, 50)])  # 12: the end of a pass
def test_a_finished_run_trains_no_more(pruned, text, tmp_path, monkeypatch, method, steps, save_every):
    given = {**FAST, "steps": steps, "heldout": text[:2], "every": 2, "folder": tmp_path, "save_every": save_every}
    first = wn.recover(copy.deepcopy(pruned), text, method, **given)
    monkeypatch.setattr(training.Track, "on_step_end", lambda *_, **__: pytest.fail("a step was trained"))
    again = wn.recover(copy.deepcopy(pruned), text, method, **given)
    assert again.resumed_at == steps == len(again.losses) and again.losses.equals(first.losses)
    assert again.heldout.equals(first.heldout) and (again.trainable, again.parameters) == (
        first.trainable, first.parameters,
    )  # fmt: skip
    assert not again.model.training
    for (name, one), other in zip(first.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_pruned_weights_count_in_no_gradient(pruned, text, monkeypatch):
    """Nor in its norm, by which the Trainer clips, nor in the optimiser's moments."""
    masks, seen = zeros(pruned), []

    def looked(self, args, state, control, model=None, **_):
        found = [layer.weight.grad for block in wn.decoder_blocks(model) for layer in wn.linear_layers(block).values()]
        assert all(gradient[~mask].any() for gradient, mask in zip(found, masks, strict=True))
        seen.append(any(bool(gradient[mask].any()) for gradient, mask in zip(found, masks, strict=True)))

    monkeypatch.setattr(training.Track, "on_pre_optimizer_step", looked, raising=False)
    wn.recover(pruned, text, "masked", **FAST)
    assert seen == [False] * 6


def test_a_broken_off_run_leaves_no_hooks(pruned, text, monkeypatch):
    def breaks(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Track, "on_step_end", breaks)
    with pytest.raises(KeyboardInterrupt):
        wn.recover(pruned, text, "masked", **FAST)
    assert not any(parameter._backward_hooks for parameter in pruned.parameters())


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.mark),)


def test_the_payload_is_one(tmp_path):
    as_archive(tmp_path / "file", tmp_path / "first")
    torch.load(tmp_path / "file", weights_only=False)
    as_pickle(tmp_path / "file", tmp_path / "second")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "first").exists() and (tmp_path / "second").exists()


def as_pickle(path, mark):
    path.write_bytes(pickle.dumps(Payload(mark)))


def as_archive(path, mark):
    torch.save({"state": Payload(mark)}, path)


READ = {
    "masked": ["model.safetensors"],
    "lora": ["adapter_model.safetensors"],
    "both": ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "optimizer.bin", "../run.json"],
}


@pytest.fixture(scope="module", params=["lora", "masked"])
def half_finished(request, tmp_path_factory):
    """A run that was killed after four of its six steps."""
    folder = tmp_path_factory.mktemp("half") / "run"
    given = {"method": request.param, "folder": folder, "save_every": 2, **FAST}
    text = torch.randint(3, 96, (24, 12), generator=torch.Generator().manual_seed(5))

    def run():
        model = tiny_model()
        wn.prune(model, None, method="magnitude")
        return wn.recover(model, text, **given)

    run()
    shutil.rmtree(folder / "checkpoint-6")
    return run, folder, request.param


@pytest.mark.parametrize("write", [as_pickle, as_archive])
def test_no_file_of_a_checkpoint_can_run_code(half_finished, tmp_path, write):
    run, folder, method = half_finished
    whole, mark = folder / "checkpoint-4", tmp_path / "ran"
    assert {path.name for path in whole.iterdir()} >= {*READ[method], *READ["both"][:4], "training_args.bin"}
    for name in READ[method] + READ["both"]:
        path = whole / name
        kept = path.read_bytes() if path.exists() else None
        write(path, mark)
        with pytest.raises(ValueError, match=path.name + " is damaged"):
            run()
        path.unlink() if kept is None else path.write_bytes(kept)
    as_pickle(whole / "training_args.bin", mark)  # written by the Trainer, and never read
    assert run().resumed_at == 4 and not mark.exists()
    shutil.rmtree(folder / "checkpoint-6")


def test_a_checkpoint_that_a_power_cut_left_half_is_refused(half_finished):
    run, folder, method = half_finished
    for name in READ[method] + READ["both"][:4]:
        path = folder / "checkpoint-4" / name
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(ValueError, match=rf"{name} is damaged.*remove .*checkpoint-4"):
            run()
        path.write_bytes(kept)


def test_a_checkpoint_is_on_the_disk_before_the_next_step(pruned, text, tmp_path, monkeypatch):
    synced, since, fsync = set(), set(), os.fsync

    def watched(handle):
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)
        since.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", watched)
    step_begins = []

    def on_step_begin(self, args, state, control, **_):
        made = [path for path in tmp_path.glob("checkpoint-*/**/*")]
        step_begins.append(len(made))
        if made:  # its files, its own name and theirs
            assert all(path.stat().st_ino in synced for path in [*made, tmp_path / f"checkpoint-{state.global_step}"])
            assert tmp_path.stat().st_ino in since
        since.clear()

    monkeypatch.setattr(training.Track, "on_step_begin", on_step_begin, raising=False)
    wn.recover(pruned, text, folder=tmp_path, save_every=1, **{**FAST, "steps": 3})
    assert step_begins[0] == 0 and step_begins[1] > 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "sft"}, "'lora' or 'masked'"),
        ({"steps": -1}, "steps=-1"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"targets": ("q_proj", "wq")}, "no layer is called wq; expected some of down_proj"),
        ({"tokens": torch.zeros(2, 3)}, "LongTensor"),
        ({"tokens": torch.full((2, 3), 96)}, "tokenizer"),
    ],
)
def test_refusals(pruned, text, arguments, message):
    with pytest.raises(ValueError, match=message):
        wn.recover(pruned, **{"tokens": text, **arguments})
    assert not isinstance(pruned, peft.PeftModel) and wn.sparsity(pruned) == 0.5


def test_masked_training_wants_float32(text):
    with pytest.raises(ValueError, match="expected float32"):
        wn.recover(tiny_model(dtype=torch.bfloat16), text, "masked")


def test_an_old_torchao_stands_in_no_way(pruned, text, monkeypatch):
    """As on Colab, where peft refuses to look at its torchao."""

    def refuse():
        raise ImportError("Found an incompatible version of torchao")

    for module in (peft.import_utils, peft.tuners.lora.torchao):
        monkeypatch.setattr(module, "is_torchao_available", refuse)
    with pytest.raises(ImportError, match="torchao"):
        wn.recover(copy.deepcopy(pruned), text, **FAST)
    monkeypatch.setattr(recovery, "find_spec", lambda name: True)
    recovery.ignore_old_torchao()
    assert wn.recover(pruned, text, **FAST).trainable


def test_adapters_are_not_stacked(adapted, text):
    with pytest.raises(ValueError, match="unmerged adapter"):
        wn.recover(adapted, text)
