"""Prune, then quantise. Is half of the weights at 8 bits better than all of them at 4?"""

from __future__ import annotations

import copy

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned

FORMATS = {"16": "F16", "8": "Q8_0", "4": "Q4_0"}  # of llama.cpp


def formats() -> Experiment:
    """Dense and Wanda at 50%, at 16, 8 and 4 bits a weight of the blocks; embeddings and norms stay at 16."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    model, tokenizer = loaded()
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)

    def row(method: str | None, bits: int) -> dict:
        stored = copy.deepcopy(model) if method is None else pruned(model, tokens, method=method, sparsity=0.5)
        stored = stored.half().float() if bits == 16 else wn.quantised(stored, bits)
        about = {"method": method, "sparsity": 0.5 if method else 0.0, "bits": bits}
        return {
            **about,
            "zeros": round(wn.sparsity(stored), 4),
            "bytes": wn.stored_bytes(stored, bits),
            **losses(stored, heldout),
        }

    plans = {f"{method or 'dense'}, {bits} bits": (method, bits) for method in (None, "wanda") for bits in (16, 8, 4)}
    rows = {name: lambda plan=plan: row(*plan) for name, plan in plans.items()}
    settings = {"calibration": calibration, "evaluation": EVALUATION, "formats": FORMATS}
    return Experiment(settings, model, rows, pinned())
