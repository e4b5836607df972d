"""Notebook 06 and the README: the paper's measure, on all of WikiText-2."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import wanda_nb as wn

from .record import Experiment
from .steps import losses, pruned


def wikitext(source: str) -> Experiment:
    """Dense, and three methods at 50%, 2:4 and 4:8, in windows of 2048."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"text": "WikiText-2 raw, test", "length": 2048, "dtype": "bfloat16"}
    model, tokenizer = wn.load_model()
    heldout = wn.evaluation_tokens(tokenizer, source, length=evaluation["length"])
    evaluation["windows"] = len(heldout)
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def measured(model) -> dict:
        return losses(model.to(torch.bfloat16), heldout)

    rows = {"dense": lambda: {"method": None, "pattern": None, **measured(copy.deepcopy(model))}}
    for pattern in (None, "2:4", "4:8"):
        for method in ("wanda", "magnitude", "sparsegpt"):
            how = {"method": method, "pattern": pattern}
            rows[f"{method} {pattern or '50%'}"] = lambda how=how: {**how, **measured(pruned(model, tokens, **how))}
    files = () if source.startswith("hub:") else (Path(source),)
    return Experiment({"calibration": calibration, "evaluation": evaluation}, model, rows, files=files)
