"""Notebook 06 and the README: the paper's measure, on all of WikiText-2."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import wanda_nb as wn

from .record import Experiment
from .steps import loaded, losses, pinned, pruned

METHODS = {
    "wanda": {"method": "wanda"},
    "magnitude": {"method": "magnitude"},
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
}


def wikitext(source: str) -> Experiment:
    """Dense, and four methods at 50%, 2:4 and 4:8, in windows of 2048."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"text": "WikiText-2 raw, test", "length": 2048, "dtype": "bfloat16"}
    model, tokenizer = loaded()
    heldout = wn.evaluation_tokens(tokenizer, source, length=evaluation["length"])
    evaluation["windows"] = len(heldout)
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def row(how: dict) -> dict:
        return {**how, **losses(pruned(model, tokens, **how).to(torch.bfloat16), heldout)}

    def dense() -> dict:
        return {"method": None, "pattern": None, **losses(copy.deepcopy(model).to(torch.bfloat16), heldout)}

    rows = {"dense": dense}
    for pattern in (None, "2:4", "4:8"):
        for name, how in METHODS.items():
            plan = {**how, "pattern": pattern}
            rows[f"{name} {pattern or '50%'}"] = lambda plan=plan: row(plan)
    files = () if source.startswith("hub:") else (Path(source),)
    return Experiment({"calibration": calibration, "evaluation": evaluation}, model, rows, pinned(), files)
