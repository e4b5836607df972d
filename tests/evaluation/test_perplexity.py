"""Perplexity against its definition, for every architecture's own head."""

import math
import os
import pickle
import stat

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model

import wanda_nb as wn
from wanda_nb.evaluation import perplexity as evaluation


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
    whole = evaluation.batch_losses

    def breaks(model, batch):
        reads.append(len(batch))
        if len(reads) == 3:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(evaluation, "batch_losses", breaks)
    with pytest.raises(KeyboardInterrupt):
        wn.window_losses(model, tokens, batch_size=2, kept=kept)
    with open(kept, "a") as file:
        file.write("3.14\n2.7")  # killed while writing: half a batch, and half a number
    assert torch.equal(wn.window_losses(model, tokens, batch_size=2, kept=kept), expected)
    assert reads == [2, 2, 2, 2]  # two batches, the broken one, and only that one again
    assert torch.equal(wn.window_losses(model, tokens, batch_size=2, kept=kept), expected) and len(reads) == 4


def test_losses_of_another_model_or_other_windows_are_refused(model, tokens, tmp_path):
    kept = tmp_path / "losses"
    wn.window_losses(model, tokens, kept=kept)
    before = kept.read_bytes()
    with pytest.raises(ValueError, match="keeps losses of another text: name another file"):
        wn.window_losses(model, tokens[:3], kept=kept)
    model.config.rms_norm_eps = 0.1
    with pytest.raises(ValueError, match="losses of another model: name another file"):
        wn.window_losses(model, tokens, kept=kept)
    model.config.rms_norm_eps = 1e-6
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.view(-1)[1] += 1e-3
    with pytest.raises(ValueError, match="losses of another model"):
        wn.window_losses(model, tokens, kept=kept)
    assert kept.read_bytes() == before


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.mark),)


FOREIGN = {
    "text": b"my notes",
    "lines": b"my notes\nand more\n",
    "binary": bytes(range(256)),
    "new line": b"\n",
    "number": b"3.5\n",
    "list": b"[]\n2.5\n",
    "nested": b"[" * 100_000 + b"\n",
    "header cut short": b'{"kept": "losses", "mo',
    "old": b'"0123456789abcdef"\n2.5\n',
    "kept is another": b'{"kept": "answers"}\n',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_never_overwritten(model, tokens, tmp_path, content, monkeypatch):
    monkeypatch.setattr(evaluation, "batch_losses", lambda *_: pytest.fail("work was done"))
    kept = tmp_path / "file"
    kept.write_bytes(content)
    with pytest.raises(ValueError, match="file holds something other than losses"):
        wn.window_losses(model, tokens, kept=kept)
    assert kept.read_bytes() == content


def test_a_pickle_in_place_of_the_losses_is_not_run(model, tokens, tmp_path):
    kept = tmp_path / "file"
    kept.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ValueError, match="file holds something other than losses"):
        wn.window_losses(model, tokens, kept=kept)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("line", ["NaN", "Infinity", "null", "true", "3", '"2.5"', "[2.5]", "2.5 2.5", "", "2,5"])
def test_a_line_that_is_no_loss_is_refused(model, tokens, tmp_path, line):
    kept = tmp_path / "losses"
    wn.window_losses(model, tokens[:4], batch_size=2, kept=kept)
    lines = kept.read_text().splitlines()
    lines[2] = line
    kept.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="losses, line 3, is not one of the losses"):
        wn.window_losses(model, tokens[:4], batch_size=2, kept=kept)
    assert kept.read_text().splitlines() == lines


def test_more_losses_than_windows_are_refused(model, tokens, tmp_path):
    kept = tmp_path / "losses"
    wn.window_losses(model, tokens, batch_size=2, kept=kept)
    with open(kept, "a") as file:
        file.write("2.5\n" * 4)
    with pytest.raises(ValueError, match="10 losses, for 6 windows"):
        wn.window_losses(model, tokens, batch_size=2, kept=kept)


def test_an_empty_file_is_begun_and_a_finished_one_reads_nothing(model, tokens, tmp_path, monkeypatch):
    kept = tmp_path / "losses"
    kept.touch()
    expected = wn.window_losses(model, tokens[:5], batch_size=2, kept=kept)  # the last batch is a half
    monkeypatch.setattr(evaluation, "batch_losses", lambda *_: pytest.fail("work was done"))
    assert torch.equal(wn.window_losses(model, tokens[:5], batch_size=2, kept=kept), expected)


def test_losses_are_on_the_disk_before_the_next_batch(model, tokens, tmp_path, monkeypatch):
    """As much of the file as was synced survives a power cut."""
    kept, synced, fsync, whole = tmp_path / "losses", [0], os.fsync, evaluation.batch_losses

    def watched(handle):
        fsync(handle)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            synced.append(os.fstat(handle).st_size)

    def losses(model, batch):
        assert kept.stat().st_size == synced[-1] and len(kept.read_text().splitlines()) == 1 + 2 * len(seen)
        seen.append(len(batch))
        return whole(model, batch)

    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(evaluation, "batch_losses", losses)
    wn.window_losses(model, tokens, batch_size=2, kept=kept)
    assert seen == [2, 2, 2] and kept.stat().st_size == synced[-1]


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
        (torch.ones(3, 1, dtype=torch.long), "expected windows of two tokens or more"),
        (torch.ones(0, 5, dtype=torch.long), "There is no text"),
        (torch.ones(7, dtype=torch.long), r"expected a LongTensor \(windows, length\)"),
        (torch.full((1, 4), 96), "the model knows 0 to 95"),
    ],
)
def test_windows_that_cannot_be_predicted_are_refused(model, tokens, message):
    with pytest.raises(ValueError, match=message):
        wn.perplexity(model, tokens)
