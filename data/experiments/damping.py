"""How much damping does an update need, with how much text?"""

from __future__ import annotations

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned

LENGTH = 512
DRAWS = [(1, 0), (1, 1), (1, 2), (16, 0), (64, 0)]  # windows of calibration text, and which draw of them
UPDATES = {
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
}
DAMPINGS = (0.01, 0.1, 1.0)


def damping() -> Experiment:
    """50% after 1, 16 and 64 windows of C4, by Wanda alone and by two updates, each with three dampings."""
    model, tokenizer = loaded()
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)

    def row(samples: int, seed: int, how: dict) -> dict:
        tokens = wn.calibration_tokens(tokenizer, "c4", samples, LENGTH, seed)
        return {"samples": samples, "seed": seed, **how, **losses(pruned(model, tokens, **how), heldout)}

    rows = {"dense": lambda: {"method": None, **losses(model, heldout)}}
    for samples, seed in DRAWS:
        drawn = f"{samples} windows, draw {seed}"
        rows[f"wanda, {drawn}"] = lambda plan=(samples, seed, {"method": "wanda"}): row(*plan)
        for share in DAMPINGS:
            for name, how in UPDATES.items():
                plan = (samples, seed, {**how, "damping": share})
                rows[f"{name}, damping {share:g}, {drawn}"] = lambda plan=plan: row(*plan)
    calibration = {"source": "c4", "length": LENGTH}
    return Experiment({"calibration": calibration, "evaluation": EVALUATION}, model, rows, pinned())
