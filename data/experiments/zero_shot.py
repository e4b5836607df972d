"""Notebook 07: seven tasks, right or wrong for every item, so that models can be compared on the same ones."""

from __future__ import annotations

import copy

import torch

import wanda_nb as wn

from .record import Experiment
from .steps import loaded, pinned, pruned

WAYS = {
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
}


def zero_shot(limit: int = 200) -> Experiment:
    """Dense, and four methods at 50%, on up to the first ``limit`` items of each task."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"source": "pinned", "limit": limit, "dtype": "bfloat16"}
    model, tokenizer = loaded()
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def scored(model) -> dict:
        found, items = wn.zero_shot(model.to(torch.bfloat16), tokenizer, limit=limit), {}
        for task, rows in found.items.groupby("task", sort=False):
            metrics = [metric for metric in ("acc", "acc_norm") if rows[metric].notna().all()]
            items[task] = {metric: rows[metric].astype(int).tolist() for metric in metrics}
            items[task]["choices"] = rows["choices"].tolist()
        return {"mean": round(found.mean, 2), "items": items}

    rows = {"dense": lambda: scored(copy.deepcopy(model))}
    for name, how in WAYS.items():
        rows[f"{name} 50%"] = lambda how=how: scored(pruned(model, tokens, **how, sparsity=0.5))
    settings = {"calibration": calibration, "evaluation": evaluation}
    return Experiment(settings, model, rows, pinned("smollm2-135m", "tasks"))


def thousand() -> Experiment:
    """The same on the first thousand items of each task, of which 800 are fresh."""
    return zero_shot(1000)
