"""A pruned model that leaves the house: the standard layout with a model card, and a file as small as its sparsity."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from .models import check_weights, decoder_blocks, sparsity
from .results import Report, provenance, repository

FORMAT = "wanda_nb bitmask 1"
BITS, SHAPE, VALUES = ":bitmask", ":shape", ":values"


def save_pruned(model, tokenizer, folder, report: Report, *, calibration: dict | None = None, **measured) -> Path:
    """Save a pruned model where ``AutoModelForCausalLM.from_pretrained(folder)`` finds it, with its model card.

    report: what ``prune`` returned. calibration: source, samples, length, seed and whatever else tells which tokens.
    measured: what was measured, such as ``perplexity=32.4``. All goes into the card (README.md) and into pruning.json.
    Raises ValueError if the model carries unmerged adapters, or has fewer zeros than the report says, as after
    a dense merge; FileExistsError if the folder is not empty.
    Introduced in notebook 06, "Save and share".
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder, or clear it.")
    check_weights(model, decoder_blocks(model))
    zeros = sparsity(model)
    if zeros < report.reached - 1e-6:
        raise ValueError(
            f"{zeros:.2%} of the weights are zero, but the report says {report.reached:.2%}: something filled zeros "
            "since, such as a dense merge of LoRA. Merge with merge_lora(model, keep_zeros=True), or train masked."
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, report, zeros, provenance(model), calibration, measured)
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


def save_compressed(model: nn.Module, path) -> int:
    """Write the weights as one safetensors file in which zeros take one bit each; returns its size in bytes.

    Each pruned weight (out, in) becomes a bit for each element, 1 where it is kept, and the kept values in order; a
    tensor that would not shrink is stored as it is. Every bit pattern is kept, -0.0 too. Tied weights are stored once.
    Introduced in notebook 06, "Save and share".
    """
    tensors: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:  # tied
            continue
        seen.add(tensor.data_ptr())
        tensors |= _packed(name, tensor.detach().cpu().contiguous())
    save_file(tensors, path, metadata={"format": FORMAT})
    return os.path.getsize(path)


def load_compressed(model: nn.Module, path) -> nn.Module:
    """Fill a model of the same architecture with the weights of ``save_compressed``, bit for bit.

    model: for instance ``AutoModelForCausalLM.from_config(config)``. Raises ValueError for another kind of file, or
    weights that do not fit.
    Introduced in notebook 06, "Save and share".
    """
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("format") != FORMAT:
            raise ValueError(f"{path} is no file of save_compressed: expected a safetensors file of format {FORMAT!r}.")
        names = set(file.keys())
        plain = {name.removesuffix(VALUES) for name in names if not name.endswith((BITS, SHAPE))}
        state = {name: _unpacked(file, name, name + BITS in names) for name in plain}
    own = model.state_dict()
    stored = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name, tensor in own.items() if name not in state and tensor.data_ptr() not in stored]
    unknown = [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {', '.join((missing + unknown)[:3])} missing or of another "
            "shape. Expected a model built from the same config."
        )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
    return model


def _packed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if tensor.ndim != 2:
        return {name: tensor}
    kept = (_bits(tensor) != 0).numpy()  # -0.0 has a bit set
    values = tensor[torch.from_numpy(kept)]
    bitmask = torch.from_numpy(np.packbits(kept, axis=1))
    if bitmask.nbytes + values.nbytes >= tensor.nbytes:
        return {name: tensor}
    return {name + VALUES: values, name + BITS: bitmask, name + SHAPE: torch.tensor(tensor.shape)}


def _unpacked(file, name: str, packed: bool) -> torch.Tensor:
    if not packed:
        return file.get_tensor(name)
    values, shape = file.get_tensor(name + VALUES), file.get_tensor(name + SHAPE).tolist()
    kept = np.unpackbits(file.get_tensor(name + BITS).numpy(), axis=1, count=shape[1]).astype(bool)
    tensor = torch.zeros(shape, dtype=values.dtype)
    tensor[torch.from_numpy(kept)] = values
    return tensor


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
