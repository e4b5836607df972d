"""Saving a pruned model in the standard layout, with its model card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..blocks import check_weights, decoder_blocks, sparsity
from ..experts import Separated, separate_experts
from ..files import sync
from ..reporting.card import write_card
from ..reporting.provenance import provenance
from ..reporting.report import Report


def save_pruned(
    model, tokenizer, folder, report: Report, *, calibration: dict | None = None, blocks=None, **measured
) -> Path:
    """Save a pruned model, with its model card, for its own class's ``from_pretrained(folder)``; return the folder.

    tokenizer: or the processor of a model of images or speech. report: what ``prune`` returned.
    calibration: source, samples, length, seed and whatever else identifies the tokens. blocks: as for ``prune``.
    measured: results such as ``perplexity=32.4``. All of it goes into the card (README.md) and pruning.json.
    The folder appears complete or not at all. Raises ValueError if the model carries unmerged adapters, or has fewer
    zeros than the report says, as after a dense merge; FileExistsError if the folder is not empty.
    Introduced in notebook 07, "Save and share".
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: choose another folder, or clear it.")
    if any(isinstance(module, Separated) for module in model.modules()):
        raise ValueError("The experts are taken apart: save the model outside of separate_experts.")
    blocks = decoder_blocks(model, blocks)
    with separate_experts(model):
        check_weights(model, blocks)
        zeros = sparsity(model, blocks)
    if zeros < report.reached - 1e-6:
        raise ValueError(
            f"{zeros:.2%} of the weights are zero, but the report says {report.reached:.2%}: something filled zeros "
            "afterwards, such as a dense merge of LoRA. Merge with merge_lora(model, keep_zeros=True), or train masked."
        )
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        unfinished = Path(scratch, target.name)
        unfinished.mkdir()
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        write_card(unfinished, report, zeros, provenance(model), calibration, measured, model.can_generate())
        for path in (*unfinished.rglob("*"), unfinished):
            sync(path)
        if folder.exists():
            target.rmdir()  # refused unless it is empty
        os.replace(unfinished, target)
    sync(target.parent)
    return folder
