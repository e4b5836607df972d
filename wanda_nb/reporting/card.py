"""The model card: what was done to a model, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .report import Report

REPOSITORY = "https://github.com/wanda-nb/wanda-nb"  # notebooks/fork.py changes it


def repository() -> str:
    """Where this package lives on the web, as in pyproject.toml."""
    return REPOSITORY


def write_card(folder: Path, report: Report, zeros: float, origin: dict, calibration: dict | None, measured: dict):
    """The model card (README.md), and all it says for programs (pruning.json). origin: see ``provenance``."""
    shape = dict(zip(("samples", "length"), report.tokens, strict=False))
    begins = {} if report.bos is None else {"windows begin with BOS": report.bos}
    about = {
        "method": report.method,
        "pattern": report.pattern,
        "comparison group": report.group,
        "weight update": report.update,
        "sparsity": round(zeros, 6),
        "calibration": {**(calibration or {}), **shape, **begins} if shape else None,
        **measured,
        **origin,
    }
    (folder / "pruning.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    name = about["model"]
    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", tags=["pruned", "sparse", "wanda"]
    )
    rows = "\n".join(f"| {key} | {_words(value)} |" for key, value in about.items() if value is not None)
    what = about["pattern"] or f"{about['sparsity']:.0%} of the weights"
    ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}, pruned\n\n"
        f"{name} with {what} of its decoder's linear layers set to zero by {about['method']} in "
        f"[wanda_nb]({repository()}). The zeros are stored like any number: the model is neither "
        "smaller nor faster by itself. It keeps the licence and the limits of the model it was made from.\n\n"
        f"| | |\n|---|---|\n{rows}\n"
    ).save(folder / "README.md")


def _words(value) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
