"""Perplexity against its definition, for every architecture's own head."""

import math

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model

import wanda_nb as wn
from wanda_nb import evaluation


def by_definition(model, tokens):
    """exp of the mean of -log p(next token), in float64, one token at a time."""
    total, count = 0.0, 0
    for window in tokens:
        with torch.no_grad():
            logits = model(input_ids=window[None]).logits[0].double()
        for position in range(len(window) - 1):
            total -= float(logits[position].log_softmax(-1)[window[position + 1]])
            count += 1
    return math.exp(total / count)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_perplexity_is_its_definition(architecture, tokens, monkeypatch):
    model = tiny_model(architecture)
    expected = by_definition(model, tokens)
    assert expected > 50  # a random model over 96 tokens
    for at_once, batch_size in ((2**24, None), (1, 4), (96 * 6 * 5, 6)):  # slices of 11, 1 and 5 positions
        monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", at_once)
        assert wn.perplexity(model, tokens, batch_size) == pytest.approx(expected, rel=1e-5)


def test_window_losses_are_those_of_transformers(model, tokens):
    losses = wn.window_losses(model, tokens, batch_size=4)
    with torch.no_grad():
        expected = [float(model(input_ids=window[None], labels=window[None]).loss) for window in tokens]
    torch.testing.assert_close(losses, torch.tensor(expected))
    assert wn.perplexity(model, tokens) == pytest.approx(math.exp(losses.mean()))


def test_never_holds_all_logits(model, monkeypatch):
    """The widest slice that the head is asked for stays within the budget."""
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 96 * 2 * 3)
    sizes = []
    model.lm_head.register_forward_hook(lambda _, args, output: sizes.append(output.numel()))
    wn.window_losses(model, torch.randint(3, 96, (4, 20)), batch_size=2)
    assert max(sizes) == 96 * 2 * 3


def test_the_base_is_read_once(model, tokens):
    reads = []
    model.model.layers[0].register_forward_hook(lambda *_: reads.append(1))
    wn.window_losses(model, tokens, batch_size=3)
    assert len(reads) == 2


def test_half_precision_loss_is_float32(tokens):
    model = tiny_model(dtype=torch.bfloat16)
    assert wn.window_losses(model, tokens).dtype == torch.float32
    assert wn.perplexity(model, tokens) == pytest.approx(by_definition(tiny_model(), tokens), rel=0.1)


def test_broken_off_it_goes_on_from_the_file(model, tokens, tmp_path, monkeypatch):
    expected, kept, reads = wn.window_losses(model, tokens, batch_size=2), tmp_path / "losses", []
    whole = evaluation._losses

    def breaks(model, batch):
        reads.append(len(batch))
        if len(reads) == 3:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(evaluation, "_losses", breaks)
    with pytest.raises(KeyboardInterrupt):
        wn.window_losses(model, tokens, batch_size=2, kept=kept)
    with open(kept, "a") as file:
        file.write("3.14\n2.7")  # killed while writing: half a batch, and half a number
    assert torch.equal(wn.window_losses(model, tokens, batch_size=2, kept=kept), expected)
    assert reads == [2, 2, 2, 2]  # two batches, the broken one, and only that one again
    assert torch.equal(wn.window_losses(model, tokens, batch_size=2, kept=kept), expected) and len(reads) == 4


def test_losses_of_another_model_or_other_windows_are_refused(model, tokens, tmp_path):
    wn.window_losses(model, tokens, kept=tmp_path / "losses")
    with pytest.raises(ValueError, match="another model or other windows"):
        wn.window_losses(model, tokens[:3], kept=tmp_path / "losses")
    wn.prune(model, tokens, sparsity=0.1)
    with pytest.raises(ValueError, match="another model or other windows"):
        wn.window_losses(model, tokens, kept=tmp_path / "losses")


def test_works_through_adapters(model, tokens):
    peft = pytest.importorskip("peft")
    expected = wn.perplexity(model, tokens)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert wn.perplexity(adapted, tokens) == pytest.approx(expected)


def test_leaves_the_training_mode_as_it_was(model, tokens):
    model.train()
    model.model.layers[1].eval()  # a mixture must come back as a mixture
    modes = [module.training for module in model.modules()]
    wn.perplexity(model, tokens)
    assert [module.training for module in model.modules()] == modes and "forward" not in model.model.__dict__


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(3, 1, dtype=torch.long), "a window needs two tokens"),
        (torch.ones(0, 5, dtype=torch.long), "There is no text"),
        (torch.ones(7, dtype=torch.long), r"expected a LongTensor \(windows, length\)"),
        (torch.full((1, 4), 96), "the model knows 0 to 95"),
    ],
)
def test_windows_that_cannot_be_predicted_are_refused(model, tokens, message):
    with pytest.raises(ValueError, match=message):
        wn.perplexity(model, tokens)
