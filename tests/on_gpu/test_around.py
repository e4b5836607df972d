"""Around prune, on a pretended GPU: owl_sparsity, perplexity, recover, merge_lora, the command line."""

import json
from unittest.mock import patch

import pytest
import torch
from package import assert_same, at_home, files, inner, nothing_left, saved, weights
from tiny import ARCHITECTURES, tiny_model

import wanda_nb as wn
from wanda_nb.__main__ import main


def test_owl_sparsity(tokens, gpu):
    model = tiny_model()
    before = weights(model)
    assert wn.owl_sparsity(model, tokens, 0.7, device="cuda") == wn.owl_sparsity(tiny_model(), tokens, 0.7)
    assert at_home(model) and nothing_left(gpu)
    assert_same(weights(model), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_perplexity(architecture, tokens, gpu):
    model = tiny_model(architecture)
    losses, value = wn.window_losses(model, tokens), wn.perplexity(model, tokens)
    model.to("cuda")
    assert torch.equal(wn.window_losses(model, tokens), losses) and wn.perplexity(model, tokens) == value
    del model
    assert nothing_left(gpu)


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_merge_lora(keep_zeros, tokens, gpu):
    peft = pytest.importorskip("peft")

    def merged(device):
        model = tiny_model()
        wn.prune(model, None, method="magnitude")
        torch.manual_seed(0)
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model, lost = wn.merge_lora(model.to(device), keep_zeros)
        assert {parameter.device.type for parameter in model.parameters()} == {device}
        return weights(model), lost

    (ours, lost), (theirs, expected) = merged("cuda"), merged("cpu")
    assert_same(ours, theirs)
    assert lost.equals(expected) and nothing_left(gpu)


def test_masks_follow_the_model_to_its_device(gpu):
    model = tiny_model()
    wn.prune(model, None, method="magnitude")
    zeros = {name: weight == 0 for name, weight in weights(model).items() if name.endswith("proj.weight")}
    watch = inner("KeepZeros")[0].KeepZeros(model)
    model.to("cuda")  # as the trainer does
    watch.on_train_begin()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = len(gpu.copies)
    watch.on_optimizer_step()
    assert len(gpu.copies) == before  # the masks are there
    after = weights(model)
    assert len(zeros) == 21 and not any(after[name][mask].any() for name, mask in zeros.items())
    assert wn.sparsity(model) == 0.5


@pytest.mark.parametrize(("gpu", "count"), [("cuda", 1), ("cuda", 2), ("xpu", 2), ("mps", 1)], indirect=["gpu"])
def test_one_process_trains_on_one_device(count, tokens, tmp_path, gpu):
    settings = {"steps": 1, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "seed": 0}
    with patch.object(torch.get_device_module(gpu.device), "device_count", lambda: count):
        model = tiny_model().to(gpu.device)
        made = inner("trainer")[0].trainer(model, tokens, settings, tmp_path, None, [])
    assert made.args.n_gpu == 1 and made.args.train_batch_size == 2 and made.args.device.type == gpu.device.type


@pytest.fixture
def words(tmp_path):
    """A tiny checkpoint with a tokenizer, a text, and the words of the command line that say so."""
    _, tokenizer = wn.load_model()
    saved(tmp_path / "dense", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path / "dense")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    return ["--text", str(tmp_path / "text.txt"), "--length", "16", "--dtype", "float32"]


def test_the_command_line(words, tmp_path, gpu):
    dense, found = str(tmp_path / "dense"), {}
    for device in ("cpu", "cuda"):
        where = ["--device", device]
        out = tmp_path / device
        assert main(["prune", dense, str(out), *words, "--samples", "4", "--batch-size", "2", *where]) == 0
        record = tmp_path / f"{device}.json"
        assert main(["evaluate", str(out), *words, "--windows", "8", "--record", str(record), *where]) == 0
        found[device] = json.loads(record.read_text())
    assert files(tmp_path / "cpu") == files(tmp_path / "cuda") and nothing_left(gpu)
    assert found["cuda"]["losses"] == found["cpu"]["losses"] and found["cuda"]["device"] == "Pretended GPU"
    assert found["cpu"]["device"].startswith("CPU")
    assert json.loads((tmp_path / "cuda" / "pruning.json").read_text())["device"] == "Pretended GPU"
