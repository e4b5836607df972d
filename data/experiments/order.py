"""Notebook 03: does the order matter? Norms of the pruned blocks so far, as published, or of the dense model."""

from __future__ import annotations

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, GEMMA, loaded, losses, pinned, pruned

CALIBRATION = {"source": "c4", "samples": 32, "length": 256}
PLANS = {"20%": {"sparsity": 0.2}, "50%": {"sparsity": 0.5}, "60%": {"sparsity": 0.6}, "70%": {"sparsity": 0.7}}
PLANS |= {pattern: {"pattern": pattern} for pattern in ("4:8", "2:4")}


def order() -> Experiment:
    """Wanda on the default model, three draws."""
    return _order("smollm2-135m")


def order_gemma() -> Experiment:
    """The same on a model of another family."""
    return _order(GEMMA)


def _order(name: str) -> Experiment:
    model, tokenizer = loaded(name)
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)
    norms: dict[int, wn.Calibration] = {}  # of the last draw alone

    def measured(seed: int, where: str, how: dict) -> dict:
        tokens = wn.calibration_tokens(tokenizer, **CALIBRATION, seed=seed)
        if where == "sequential":
            return losses(pruned(model, tokens, **how), heldout)
        if seed not in norms:
            norms.clear()
            norms[seed] = wn.calibrate(model, tokens)
        return losses(pruned(model, None, calibration=norms[seed], **how), heldout)

    rows = {"dense": lambda: losses(model, heldout)}
    for seed in (0, 1, 2):
        for plan, how in PLANS.items():
            for where in ("sequential", "dense norms"):
                about = {"seed": seed, "norms": where, **how}
                label = f"{plan}, {where}, draw {seed}"
                rows[label] = lambda a=about, s=seed, w=where, h=how: {**a, **measured(s, w, h)}
    return Experiment({"calibration": CALIBRATION, "evaluation": EVALUATION}, model, rows, pinned(name))
