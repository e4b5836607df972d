"""Answers of the real harness, kept in a file: on the disk in time, and of this model alone."""

import os
import stat
from types import SimpleNamespace

import pytest
import torch
from tiny import letters_of

import wanda_nb as wn
from wanda_nb.evaluation import zero_shot as evaluation

QUESTIONS = [("abc", " d"), ("abcd", "ef"), ("b", "a"), ("dcba", "xyz"), ("f", "gg")]


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """Puts the questions to a model, two at a time; all answers are kept in one file."""
    monkeypatch.setattr(evaluation, "load_tasks", lambda *_: {})
    requests = [SimpleNamespace(args=question) for question in QUESTIONS]
    monkeypatch.setattr(evaluation, "score_tasks", lambda lm, loaded, limit: lm.loglikelihood(requests))

    def ask(model, tokenizer, kept=tmp_path / "answers"):
        return wn.zero_shot(model, tokenizer, batch_size=2, kept=kept)

    return ask


def test_answers_of_a_batch_are_on_the_disk_before_the_next_is_read(answers, model, tmp_path, monkeypatch):
    """As much of the file as was synced survives a power cut."""
    kept, synced, fsync, lines = tmp_path / "answers", [0], os.fsync, []

    def watched(handle):
        fsync(handle)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            synced.append(os.fstat(handle).st_size)

    def before(*_):
        assert kept.stat().st_size == synced[-1]
        lines.append(len(kept.read_text().splitlines()))

    monkeypatch.setattr(os, "fsync", watched)
    model.register_forward_pre_hook(before)
    answers(model, letters_of("llama"))
    assert lines == [1, 3, 5] and len(kept.read_text().splitlines()) == 6


def test_answers_of_another_model_or_tokenizer_are_refused(answers, model, tmp_path):
    read = []
    model.register_forward_hook(lambda *_: read.append(1))
    found = answers(model, letters_of("llama"))
    assert answers(model, letters_of("llama")) == found == answers(model, letters_of("llama"), None)
    assert len(read) == 6  # three batches, nothing, and again without the file
    before = (tmp_path / "answers").read_bytes()
    with pytest.raises(ValueError, match="keeps answers of another tokenizer"):
        answers(model, letters_of("gemma"))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.view(-1)[1] += 1e-3
    with pytest.raises(ValueError, match="keeps answers of another model"):
        answers(model, letters_of("llama"))
    assert len(read) == 6 and (tmp_path / "answers").read_bytes() == before
