"""Adapters added to the weights they stand beside, without losing the zeros."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import nn


def merge_lora(model, keep_zeros: bool | None = None) -> tuple[nn.Module, pd.DataFrame]:
    """Add the adapters to the weights they stand beside; the plain model again, and what the merge cost by layer.

    W + scaling * B A is dense, whatever W was. keep_zeros=True merges under the mask: where W (out, in) is
    zero it stays zero, and the part of the update that fell on zeros is lost. keep_zeros=False merges densely,
    which undoes the pruning. One of the two must be said. Active adapters are summed in float32 and rounded once to
    the weight's dtype; those that are not active, or switched off, are left out, as they are in a forward pass.
    The table has a row a layer: layer, sparsity before and after, and ``lost``, the fraction of the update's squared
    norm that fell on zeros. Raises ValueError, before any weight changes, if nothing was said, if there are no LoRA
    adapters, if they are merged already, and for DoRA and the like, which add more than the product B A.
    Introduced in notebook 07, "Merging without losing the zeros".
    """
    adapted = list(_lora_layers(model))
    if not adapted:
        raise ValueError(f"{type(model).__name__} has no LoRA adapters: expected the model that recover() returned.")
    if keep_zeros is None:
        raise ValueError(
            "A plain merge makes every adapted layer dense again. Say keep_zeros=True to merge under the mask, or "
            "keep_zeros=False if a dense model is what you want."
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
    if layer.merged:
        raise ValueError(
            f"{name}: adapters are merged already. Call unmerge_adapter() on the model first, or unload() to keep "
            "the dense merge: what was zero can no longer be told."
        )
    if more := [one for one in _active(layer) if one in layer.lora_variant or layer.lora_bias.get(one)]:
        raise ValueError(f"{name}: {', '.join(more)} adds more than B A (DoRA, a bias): expected plain LoRA adapters.")


def _active(layer) -> list[str]:
    """The adapters that a forward pass through this layer adds."""
    if layer.disable_adapters:
        return []
    return [one for one in layer.active_adapters if one in layer.lora_A or one in layer.lora_embedding_A]


def _update(layer, weight: torch.Tensor) -> torch.Tensor:
    """What the active adapters add to a weight, in float32 at least: peft rounds a 16-bit adapter's product."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    update = torch.zeros_like(weight, dtype=wide)
    for part in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B):
        part.to(wide)
    for adapter in _active(layer):
        update += layer.get_delta_weight(adapter)
    return update


def _lora_layers(model) -> Iterator[tuple[str, nn.Module]]:
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module
