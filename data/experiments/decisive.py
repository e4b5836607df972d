"""Notebooks 05, 06, 09 and 10: how much calibration text does each method need, and does an update overfit it?"""

from __future__ import annotations

from pathlib import Path

import wanda_nb as wn

from .record import Experiment
from .steps import GEMMA, loaded, losses, pinned, pruned

LENGTH = 512
SEEDS = (0, 1, 2)
METHODS = {
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "wanda + least squares": {"method": "wanda", "update": "least-squares"},
}


def decisive(source: str) -> Experiment:
    """50% and 2:4 after 1 to 128 windows of C4, judged on C4 that no draw touches and on another domain, WikiText-2."""
    # there are not enough long documents for a second draw of 128
    draws = [(samples, seed) for samples in (1, 4, 16, 64) for seed in SEEDS] + [(128, 0)]
    return _judged_twice("smollm2-135m", source, draws, (None, "2:4"))


def second(source: str) -> Experiment:
    """The same questions of a model of another family: 50%, 4:8 and 2:4 after 64 windows."""
    return _judged_twice(GEMMA, source, [(64, seed) for seed in SEEDS], (None, "4:8", "2:4"))


def _judged_twice(name: str, source: str, draws: list[tuple[int, int]], patterns) -> Experiment:
    how_judged = {"windows": 32, "length": LENGTH, "spread": True}
    evaluation = {**how_judged, "c4": f"documents of at most {LENGTH} tokens", "wikitext": "WikiText-2 raw, test"}
    model, tokenizer = loaded(name)
    documents = wn.documents("c4")
    lengths = [len(ids) for ids in tokenizer(documents, verbose=False)["input_ids"]]
    long = [text for text, length in zip(documents, lengths, strict=True) if length > LENGTH]
    short = [text for text, length in zip(documents, lengths, strict=True) if length <= LENGTH]
    heldout = {
        "c4": wn.evaluation_tokens(tokenizer, short, **how_judged),
        "wikitext": wn.evaluation_tokens(tokenizer, source, **how_judged),
    }

    def measured(model) -> dict:
        return {domain: losses(model, windows) for domain, windows in heldout.items()}

    def row(pattern: str | None, how: dict, samples: int = 0, seed: int = 0) -> dict:
        tokens = wn.calibration_tokens(tokenizer, long, samples, LENGTH, seed) if samples else None
        about = {"samples": samples, "seed": seed} if samples else {}
        return {**about, "pattern": pattern, **how, **measured(pruned(model, tokens, pattern=pattern, **how))}

    rows = {"dense": lambda: {"method": None, **measured(model)}}
    for pattern in patterns:  # magnitude reads no text
        rows[f"magnitude {pattern or '50%'}"] = lambda pattern=pattern: row(pattern, {"method": "magnitude"})
    for samples, seed in draws:
        for pattern in patterns:
            for method, how in METHODS.items():
                label = f"{method} {pattern or '50%'}, {samples} windows, draw {seed}"
                rows[label] = lambda plan=(pattern, how, samples, seed): row(*plan)
    files = () if source.startswith("hub:") else (Path(source),)
    calibration = {"source": "c4", "length": LENGTH, "documents": len(long)}
    return Experiment({"calibration": calibration, "evaluation": evaluation}, model, rows, pinned(name), files)
