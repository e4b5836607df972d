"""Around prune, on a pretended GPU: owl_sparsity, perplexity, merge_lora, the command line, other devices."""

import json

import pretended_gpu
import pytest
import torch
from package import LITTLE, assert_same, at_home, files, nothing_left, saved, text, weights
from tiny import ARCHITECTURES, tiny_model

import wanda_nb as wn
from wanda_nb.__main__ import main, parser

OTHERS = pytest.mark.parametrize("gpu", ["xpu", "mps"], indirect=True)


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


def test_the_command_line_takes_the_gpu_there_is(gpu):
    assert parser().parse_args(["evaluate", "model"]).device == "cuda"


@OTHERS
def test_pruning_on_other_devices(tokens, tmp_path, gpu):
    kind = gpu.device.type
    expected, visiting, whole = (tiny_model() for _ in range(3))
    whole.to(kind)
    wn.prune(expected, tokens)
    wn.prune(visiting, tokens, device=kind)
    wn.prune(whole, tokens)
    assert at_home(visiting) and gpu.peak > 0
    assert_same(weights(visiting), weights(expected))
    assert_same(weights(whole), weights(expected))
    saved(tmp_path / "dense")
    for name in ("cpu", kind):
        wn.prune_checkpoint(tmp_path / "dense", tmp_path / name, tokens, device=name)
    assert files(tmp_path / "cpu") == files(tmp_path / kind)
    del whole
    assert nothing_left(gpu)


def test_no_float64_where_there_is_none(tokens):
    with pretended_gpu.device("mps", float64=False):
        for how in ({"method": "magnitude"}, {"method": "ria"}, {"method": "sparsegpt"}, {"update": "one-shot"}):
            wn.prune(tiny_model(**LITTLE), text(how, tokens), device="mps", **how)
        wn.owl_sparsity(tiny_model(**LITTLE), tokens, device="mps")
        wn.perplexity(tiny_model(**LITTLE).to("mps"), tokens)
