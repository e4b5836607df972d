"""What a run leaves as it is: every weight outside the pruned layers, and why."""

from __future__ import annotations

import re

import pandas as pd
import torch
from torch import nn

from ..blocks import CONVOLUTIONS, is_pointwise, is_vector, linear_layers


def left_over(model: nn.Module, blocks: list[nn.Module]) -> pd.DataFrame:
    """The weights that pruning the blocks leaves: name, kind, weights, share of all weights, why; most of them first.

    Names that differ in a number alone, as those of one layer in all blocks, make one row. Shared weights count once.
    """
    pruned = {id(layer.weight) for block in blocks for layer in linear_layers(block).values()}
    inside = {part for block in blocks for part in block.modules()}
    tied = getattr(model, "all_tied_weights_keys", {})  # on the meta device they are no longer one
    named = model.named_parameters(remove_duplicate=False)
    parameters = {id(parameter): (name, parameter) for name, parameter in named if name not in tied}
    total = sum(parameter.numel() for _, parameter in parameters.values())
    rows = []
    for name, parameter in parameters.values():
        module = model.get_submodule(name.rpartition(".")[0])
        if id(parameter) not in pruned:
            why = _why(module, parameter, module in inside)
            row = {"name": re.sub(r"\b\d+\b", "*", name), "kind": type(module).__name__, "why": why}
            rows.append({**row, "weights": parameter.numel(), "share": parameter.numel() / total})
    if not rows:
        return pd.DataFrame(columns=["name", "kind", "weights", "share", "why"])
    table = pd.DataFrame(rows).groupby(["name", "kind", "why"], as_index=False, sort=False).sum()
    table = table.sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return table[["name", "kind", "weights", "share", "why"]]


def _why(module: nn.Module, parameter: torch.Tensor, inside: bool) -> str:
    if isinstance(module, nn.Embedding):
        return "a table, looked up"
    if is_vector(parameter):
        return "a number for each channel"
    if isinstance(module, CONVOLUTIONS) and not is_pointwise(module):
        if max(module.kernel_size) == 1:
            return "a convolution with a stride, padding or groups"
        return f"a convolution over {'×'.join(map(str, module.kernel_size))} positions"
    return "a matrix in a block that is no linear layer" if inside else "outside the blocks"
