"""The model card: what was done to a model, written for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .report import Report

REPOSITORY = "https://github.com/wanda-nb/wanda-nb"  # notebooks/fork.py changes it


def repository() -> str:
    """The address of this package's repository, as in pyproject.toml."""
    return REPOSITORY


def write_card(
    folder: Path, report: Report, zeros: float, origin: dict, calibration: dict | None, measured: dict, writes=True
):
    """Write the model card (README.md), and its facts for programs (pruning.json).

    origin: see ``provenance``. writes: whether the model generates text.
    """
    shape = dict(zip(("samples", "length"), report.tokens, strict=False))
    beginning = {} if report.bos is None else {"windows begin with BOS": report.bos}
    texts = report.calibration or ([{**(calibration or {}), **shape, **beginning}] if shape else [None])
    facts = {
        "method": report.method,
        "pattern": report.pattern,
        "comparison group": report.group,
        "weight update": report.update,
        "damping": report.damping,
        "sparsity": round(zeros, 6),
        "activations": report.activations,
        "calibration": texts if len(texts) > 1 else texts[0],
        **measured,
        **origin,
    }
    (folder / "pruning.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    name = facts["model"]
    task, owner = ("text-generation", "decoder's") if writes else (None, "blocks'")
    data = ModelCardData(library_name="transformers", pipeline_tag=task, tags=["pruned", "sparse", "wanda"])
    rows = "\n".join(f"| {key} | {_words(value)} |" for key, value in facts.items() if value is not None)
    amount = facts["pattern"] or f"{facts['sparsity']:.0%} of the weights"
    ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}, pruned\n\n"
        f"{name} with {amount} of its {owner} linear layers set to zero by {facts['method']} in "
        f"[wanda_nb]({repository()}). The zeros are stored like any number: the model is neither "
        "smaller nor faster by itself. It keeps the licence and the limits of the model it was made from.\n\n"
        f"| | |\n|---|---|\n{rows}\n"
    ).save(folder / "README.md")


def _words(value) -> str:
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
