"""Training that keeps the zeros, goes on after a kill, and merges only as it is told."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import recovery, training

FAST = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2}


@pytest.fixture
def pruned(model, tokens):
    wn.prune(model, tokens)
    return model


@pytest.fixture
def text():
    return torch.randint(3, 96, (24, 12), generator=torch.Generator().manual_seed(5))


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


def updates(model):
    """B A alpha / r of each adapted layer, from its own matrices."""
    found = {}
    for name, layer in recovery._lora_layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found[name] = (b @ a * 16 / 8).detach()
    return found


def test_a_merge_under_the_mask_keeps_zeros_and_says_what_it_cost(adapted):
    before = {name: layer.get_base_layer().weight.clone() for name, layer in recovery._lora_layers(adapted)}
    added = updates(adapted)
    merged, table = wn.merge_lora(adapted, keep_zeros=True)
    assert wn.sparsity(merged) == 0.5 and not hasattr(merged, "peft_config")
    for row in table.itertuples():
        W, update = before[row.layer], added[row.layer]
        expected = torch.where(W == 0, 0.0, W + update)
        torch.testing.assert_close(merged.get_submodule(row.layer).weight.detach(), expected)
        assert row.lost == pytest.approx(float(update[W == 0].pow(2).sum() / update.pow(2).sum()), rel=1e-4)
        assert (row._2, row._3) == (0.5, 0.5)
    assert len(table) == 6


def test_a_dense_merge_is_what_peft_does_and_must_be_asked_for(adapted, text):
    theirs = copy.deepcopy(adapted).merge_and_unload()
    with pytest.raises(ValueError, match="Say keep_zeros=True"):
        wn.merge_lora(adapted)
    expected = adapted(text[:2]).logits
    merged, table = wn.merge_lora(adapted, keep_zeros=False)
    torch.testing.assert_close(merged(text[:2]).logits, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(merged.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert table["sparsity after"].max() < 0.01 and (table["lost"] == 0).all()


def test_a_merge_needs_adapters(pruned):
    with pytest.raises(ValueError, match="no LoRA adapters"):
        wn.merge_lora(pruned, keep_zeros=True)


CHILD = """
import sys, os, signal
sys.path.insert(0, sys.argv[1])
import torch, wanda_nb as wn
from tiny import tiny_model
from wanda_nb import training
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
            os.fspath(Path(__file__).parent),
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


def test_another_run_is_not_continued(pruned, text, tmp_path):
    wn.recover(copy.deepcopy(pruned), text, folder=tmp_path, save_every=3, **FAST)
    with pytest.raises(ValueError, match="other learning_rate"):
        wn.recover(copy.deepcopy(pruned), text, folder=tmp_path, save_every=3, **{**FAST, "learning_rate": 1e-3})
    with pytest.raises(ValueError, match="other tokens"):
        wn.recover(copy.deepcopy(pruned), text.flip(0), folder=tmp_path, save_every=3, **FAST)


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
    recovery._beside_old_torchao()
    assert wn.recover(pruned, text, **FAST).trainable


def test_adapters_are_not_stacked(adapted, text):
    with pytest.raises(ValueError, match="unmerged adapter"):
        wn.recover(adapted, text)
