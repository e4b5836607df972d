"""Notebooks 05, 06, 08 and 09: how much calibration text does each method need, and does an update overfit it?"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import wanda_nb as wn

from .record import Experiment
from .steps import losses, pruned

LENGTH = 512
SAMPLES = (16, 4, 1, 64, 128)
METHODS = {
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
}


def decisive(source: str) -> Experiment:
    """50% and 2:4 after 1 to 128 windows of C4, judged on C4 that no draw touches and on another domain, WikiText-2."""
    evaluation = {"windows": 32, "length": LENGTH, "spread": True, "dtype": "bfloat16"}
    evaluation |= {"c4": f"documents of at most {LENGTH} tokens", "wikitext": "WikiText-2 raw, test"}
    model, tokenizer = wn.load_model()
    documents = wn.documents("c4")
    lengths = [len(ids) for ids in tokenizer(documents, verbose=False)["input_ids"]]
    long = [text for text, length in zip(documents, lengths, strict=True) if length > LENGTH]
    short = [text for text, length in zip(documents, lengths, strict=True) if length <= LENGTH]
    how = {key: evaluation[key] for key in ("windows", "length", "spread")}
    heldout = {
        "c4": wn.evaluation_tokens(tokenizer, short, **how),
        "wikitext": wn.evaluation_tokens(tokenizer, source, **how),
    }

    def measured(model) -> dict:
        model = model.to(torch.bfloat16)
        return {domain: losses(model, windows) for domain, windows in heldout.items()}

    def row(samples: int, seed: int, pattern: str | None, how: dict) -> dict:
        tokens = None if how["method"] == "magnitude" else wn.calibration_tokens(tokenizer, long, samples, LENGTH, seed)
        return {"pattern": pattern, **how, **measured(pruned(model, tokens, pattern=pattern, **how))}

    rows = {"dense": lambda: {"method": None, **measured(copy.deepcopy(model))}}
    for pattern in (None, "2:4"):
        rows[f"magnitude {pattern or '50%'}"] = lambda pattern=pattern: row(0, 0, pattern, {"method": "magnitude"})
    plans = [(samples, seed) for seed in (0, 1, 2) for samples in SAMPLES if samples < 128 or seed == 0]
    for samples, seed in plans:  # there are not enough long documents for a second draw of 128
        for pattern in (None, "2:4"):
            for name, how in METHODS.items():
                plan = {"samples": samples, "seed": seed}
                label = f"{name} {pattern or '50%'}, {samples} windows, draw {seed}"
                rows[label] = lambda plan=plan, pattern=pattern, how=how: {**plan, **row(*plan.values(), pattern, how)}
    files = () if source.startswith("hub:") else (Path(source),)
    calibration = {"source": "c4", "length": LENGTH, "documents": len(long)}
    return Experiment({"calibration": calibration, "evaluation": evaluation}, model, rows, files=files)
