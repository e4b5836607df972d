"""Notebook 05: the same masks without an update, with OBS and with least squares."""

from __future__ import annotations

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned

WAYS = {
    "wanda": {"method": "wanda"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
    "wanda + OBS": {"method": "wanda", "update": "one-shot"},
    "sparsegpt": {"method": "sparsegpt"},
    "magnitude": {"method": "magnitude"},
    "magnitude + OBS": {"method": "magnitude", "update": "one-shot"},
    "magnitude + least squares": {"method": "magnitude", "update": "least-squares"},
    "sparsegpt + least squares": {"method": "sparsegpt", "update": "least-squares"},
}


def updates() -> Experiment:
    """2:4 and 50%, each way to treat a mask, judged on windows spread over the whole text."""
    calibration = {"source": "c4", "samples": 32, "length": 256, "seed": 0}
    model, tokenizer = loaded()
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)

    def row(pattern: str | None, how: dict) -> dict:
        return {"pattern": pattern, **how, **losses(pruned(model, tokens, pattern=pattern, **how), heldout)}

    rows = {"dense": lambda: {"method": None, **losses(model, heldout)}}
    for pattern in ("2:4", None):
        for name, how in WAYS.items():
            rows[f"{name} {pattern or '50%'}"] = lambda pattern=pattern, how=how: row(pattern, how)
    return Experiment({"calibration": calibration, "evaluation": EVALUATION}, model, rows, pinned())
