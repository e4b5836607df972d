"""Merging LoRA adapters into a pruned model without losing the zeros."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import nn


def merge_lora(model, keep_zeros: bool | None = None) -> tuple[nn.Module, pd.DataFrame]:
    """Merge the adapters into the weights; return the plain model, and a table of what the merge lost in each layer.

    W + scaling * B A is dense, whatever W was. keep_zeros=True merges under the mask: zeros of W (out, in) stay zero,
    and the part of the update that falls on them is lost. keep_zeros=False merges densely, which undoes the pruning.
    There is no default. Active adapters are summed in float32 and rounded once to the weight's dtype; those that are
    inactive or disabled are left out, as they are in a forward pass.
    The table has one row per layer: layer, sparsity before and after, and ``lost``, the fraction of the update's
    squared norm that fell on zeros. Raises ValueError, before any weight changes, without keep_zeros, without LoRA
    adapters, if they are merged already, and for DoRA and the like, which add more than the product B A.
    Introduced in notebook 08, "Merging".
    """
    adapted = list(lora_layers(model))
    if not adapted:
        raise ValueError(f"{type(model).__name__} has no LoRA adapters: expected the model that recover() returned.")
    if keep_zeros is None:
        raise ValueError(
            "A plain merge makes every adapted layer dense again. Give keep_zeros=True to merge under the mask, or "
            "keep_zeros=False if you want a dense model."
        )
    for name, layer in adapted:
        _check_plain(name, layer)
    rows = []
    with torch.no_grad():
        for name, layer in adapted:
            weight = layer.get_base_layer().weight
            mask = weight == 0
            update = _update(layer, weight)
            on_zeros = update.masked_fill(~mask, 0).pow(2).sum()
            lost = float(on_zeros / update.pow(2).sum()) if bool(update.any()) else 0.0
            if keep_zeros:
                update = update.masked_fill(mask, 0)
            merged = (weight + update).to(weight.dtype)  # the sum in the update's dtype
            weight.copy_(merged)
            rows.append(
                (name, float(mask.float().mean()), float((merged == 0).float().mean()), lost if keep_zeros else 0.0)
            )
    return model.unload(), pd.DataFrame(rows, columns=["layer", "sparsity before", "sparsity after", "lost"])


def _check_plain(name: str, layer) -> None:
    """Raise ValueError unless a layer's active adapters are unmerged and add nothing but the product B A."""
    if layer.merged:
        raise ValueError(
            f"{name}: adapters are merged already. Call unmerge_adapter() on the model first, or unload() to keep "
            "the dense merge; which weights were zero can no longer be told."
        )
    if more := [key for key in _active(layer) if key in layer.lora_variant or layer.lora_bias.get(key)]:
        raise ValueError(f"{name}: {', '.join(more)} adds more than B A (DoRA, a bias): expected plain LoRA adapters.")


def _active(layer) -> list[str]:
    """The adapters that a forward pass through this layer adds."""
    if layer.disable_adapters:
        return []
    return [key for key in layer.active_adapters if key in layer.lora_A or key in layer.lora_embedding_A]


def _update(layer, weight: torch.Tensor) -> torch.Tensor:
    """What the active adapters add to a weight, in float32 or wider: peft rounds the product of 16-bit adapters."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    update = torch.zeros_like(weight, dtype=dtype)
    for part in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B):
        part.to(dtype)
    for adapter in _active(layer):
        update += layer.get_delta_weight(adapter)
    return update


def lora_layers(model) -> Iterator[tuple[str, nn.Module]]:
    """Name, in the plain model, and module of each layer with LoRA adapters."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module
