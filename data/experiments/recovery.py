"""Notebook 08: what training wins back, and how much of that is only the new text."""

from __future__ import annotations

import copy

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned

LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}  # as published
FAST = 1e-3  # ten times the published rate: there is a thousandth of the published text


def recovery() -> Experiment:
    """LoRA at two rates and masked training after Wanda at 50%, and of the dense model as a control."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    training = {"source": "c4", "windows": 240, "length": 128, "seed": 1}
    settings = {"steps": 60, "batch_size": 4, "every": 10}
    model, tokenizer = loaded()
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)
    text = wn.training_tokens(tokenizer, **training)
    calibrated = wn.calibration_tokens(tokenizer, **calibration)

    def trained(start, method: str, rate: float, seed: int) -> dict:
        before = losses(start, heldout)["losses"]
        how = {"learning_rate": rate, "accumulate": 1, "seed": seed, **(LORA if method == "lora" else {})}
        run = wn.recover(start, text, method, heldout=heldout, **settings, **how)
        found = {
            "method": method,
            **how,
            "before": before,
            "steps": run.heldout["step"].tolist(),
            "perplexities": run.heldout["perplexity"].round(3).tolist(),
            "trainable": run.trainable,
            "parameters": run.parameters,
            "loss": run.losses["loss"].round(4).tolist(),
        }
        if method == "lora":
            merged, _ = wn.merge_lora(copy.deepcopy(run.model), keep_zeros=True)
            under_mask = losses(merged, heldout)
            found |= {
                "merged under the mask": under_mask["perplexity"],
                "merged": under_mask["losses"],
                "sparsity": wn.sparsity(merged),
            }
        return found | {"after": losses(run.model, heldout)["losses"]}

    def start(what: str):
        return copy.deepcopy(model) if what == "dense" else pruned(model, calibrated, method="wanda", sparsity=0.5)

    plans = {"LoRA": ("lora", 1e-4), "fast LoRA": ("lora", FAST), "masked": ("masked", 2e-5)}
    rows = {
        f"{what}, {name}" + (f", seed {seed}" if seed else ""): lambda what=what, plan=(*plan, seed): trained(
            start(what), *plan
        )
        for seed in (0, 1, 2)
        for name, plan in plans.items()
        for what in ("wanda 50%", "dense")
    }
    about = {"calibration": calibration, "training": training, "evaluation": EVALUATION, "settings": settings}
    return Experiment(about, model, rows, pinned())
