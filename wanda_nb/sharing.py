"""A pruned model that leaves the house, in the standard layout with a model card."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .models import check_weights, decoder_blocks, sparsity
from .provenance import provenance
from .results import Report, repository
from .shards import sync


def save_pruned(model, tokenizer, folder, report: Report, *, calibration: dict | None = None, **measured) -> Path:
    """Save a pruned model where ``AutoModelForCausalLM.from_pretrained(folder)`` finds it, with its model card.

    report: what ``prune`` returned. calibration: source, samples, length, seed and whatever else tells which tokens.
    measured: what was measured, such as ``perplexity=32.4``. All goes into the card (README.md) and into pruning.json.
    The folder is there whole or not at all. Raises ValueError if the model carries unmerged adapters, or has fewer
    zeros than the report says, as after a dense merge; FileExistsError if the folder is not empty.
    Introduced in notebook 06, "Save and share".
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: choose another folder, or clear it.")
    check_weights(model, decoder_blocks(model))
    zeros = sparsity(model)
    if zeros < report.reached - 1e-6:
        raise ValueError(
            f"{zeros:.2%} of the weights are zero, but the report says {report.reached:.2%}: something filled zeros "
            "since, such as a dense merge of LoRA. Merge with merge_lora(model, keep_zeros=True), or train masked."
        )
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        half = Path(scratch, target.name)
        half.mkdir()
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)
        write_card(half, report, zeros, provenance(model), calibration, measured)
        for path in (*half.rglob("*"), half):
            sync(path)
        if folder.exists():
            target.rmdir()  # empty, or this is refused
        os.replace(half, target)
    sync(target.parent)
    return folder


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
