"""Notebook 06: perplexity against sparsity on more windows, each window's loss kept."""

from __future__ import annotations

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned


def intervals() -> Experiment:
    """Three methods from 20% to 70%."""
    calibration = {"source": "c4", "samples": 32, "length": 256, "seed": 0}
    evaluation = {**EVALUATION, "windows": 32}
    model, tokenizer = loaded()
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    heldout = wn.evaluation_tokens(tokenizer, **evaluation)
    rows = {"dense": lambda: {"method": None, "sparsity": 0.0, **losses(model, heldout)}}
    for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        for method in ("magnitude", "wanda", "sparsegpt"):
            how = {"method": method, "sparsity": share}
            rows[f"{method} {share:.0%}"] = lambda how=how: {**how, **losses(pruned(model, tokens, **how), heldout)}
    return Experiment({"calibration": calibration, "evaluation": evaluation}, model, rows, pinned())
