"""Notebook 09: which choices matter? Perplexity by sparsity, by calibration text, by score and comparison group."""

from __future__ import annotations

import wanda_nb as wn

from .record import Experiment
from .steps import EVALUATION, loaded, losses, pinned, pruned

CALIBRATION = {"source": "c4", "samples": 32, "length": 256}
SEEDS = (0, 1, 2)


def sparsity() -> Experiment:
    """Where does each method break?"""
    model, tokenizer = loaded()
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    plans = [("magnitude", 0, share) for share in shares]  # reads no text, so no draw changes it
    plans += [("wanda", seed, share) for seed in SEEDS for share in shares]
    plans += [("sparsegpt", seed, share) for seed in SEEDS for share in shares[4:]]
    rows = {
        f"{method} {share:.0%}, draw {seed}": {"seed": seed, "method": method, "sparsity": share}
        for method, seed, share in plans
    }
    return _by_draw(model, tokenizer, rows)


def groups() -> Experiment:
    """Which scores may compete? 50%."""
    model, tokenizer = loaded()
    compared = ("output", "input", "layer")
    plans = [("magnitude", group, 0) for group in compared]  # reads no text
    plans += [(method, group, seed) for method in ("wanda", "ria") for group in compared for seed in SEEDS]
    plans += [("wanda-variant", None, seed) for seed in SEEDS]
    rows = {
        f"{method} by {group or 'running sum'}, draw {seed}": {
            "seed": seed,
            "method": method,
            "group": group,
            "sparsity": 0.5,
        }
        for method, group, seed in plans
    }
    return _by_draw(model, tokenizer, rows)


def calibration() -> Experiment:
    """How much text, from where, and does the draw matter? Wanda at 50%."""
    model, tokenizer = loaded()
    # every second article judges, the others calibrate, so that no model is calibrated on what it is scored on
    articles = wn.documents("wikipedia")
    evaluation = {**EVALUATION, "articles": "every second, the first included"}
    heldout = wn.evaluation_tokens(tokenizer, **{**EVALUATION, "source": articles[::2]})
    sources = {"c4": wn.documents("c4"), "wikipedia": articles[1::2]}
    how = {"method": "wanda", "sparsity": 0.5}

    def measured(drawn: dict) -> dict:
        draw = {key: drawn[key] for key in ("samples", "length", "seed")}
        tokens = wn.calibration_tokens(tokenizer, sources[drawn["source"]], **draw)
        return {**drawn, **how, **losses(pruned(model, tokens, **how), heldout)}

    plans = [
        {"source": source, "samples": samples, "length": 128, "seed": seed}
        for source in sources
        for samples in (1, 4, 16, 64)
        for seed in SEEDS
    ]
    names = [f"{plan['samples']} of {plan['source']}, draw {plan['seed']}" for plan in plans]
    rows = {name: lambda plan=plan: measured(plan) for name, plan in zip(names, plans, strict=True)}
    return Experiment({"evaluation": evaluation, **_dense(model, heldout)}, model, rows, pinned())


def _by_draw(model, tokenizer, plans: dict[str, dict]) -> Experiment:
    """Rows that differ in the seed of the calibration draw and in how the model is pruned."""
    heldout = wn.evaluation_tokens(tokenizer, **EVALUATION)
    draws = [wn.calibration_tokens(tokenizer, **CALIBRATION, seed=seed) for seed in SEEDS]

    def measured(plan: dict) -> dict:
        how = {key: value for key, value in plan.items() if key != "seed"}
        return {**plan, **losses(pruned(model, draws[plan["seed"]], **how), heldout)}

    rows = {name: lambda plan=plan: measured(plan) for name, plan in plans.items()}
    settings = {"calibration": CALIBRATION, "evaluation": EVALUATION, **_dense(model, heldout)}
    return Experiment(settings, model, rows, pinned())


def _dense(model, heldout) -> dict:
    return {"dense": round(losses(model, heldout)["perplexity"], 2)}
