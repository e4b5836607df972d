"""Why blocks cannot be run one by one in a model: what is found out, and said, before anything changes."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from ..blocks import is_expert, linear_layers

PLAIN = (bool, int, float, str, type(None))


def wrong_order(model, blocks, order) -> ValueError:
    return unsupported(
        model,
        f"expected a model that runs its {len(blocks)} blocks once each, in order, on hidden states "
        f"(batch, length, width); it ran {order[-8:]}",
    )


def unsupported(model, why: str) -> ValueError:
    return ValueError(f"{type(model).__name__} is not supported: {why}.")


def check_all_called(index: int, block: nn.Module, norms) -> None:
    """Raise ValueError if the block did not call a layer that is not an expert's."""
    for name in linear_layers(block):
        if name not in norms and not is_expert(block, name):
            raise ValueError(f"{type(block).__name__} is not supported: {never_called(name, index)}")


def check_shape(index: int, block: nn.Module, hidden: torch.Tensor, output) -> None:
    """Raise ValueError if a block puts out hidden states of another shape than its input."""
    output = output if isinstance(output, torch.Tensor) else output[0]
    if output.shape != hidden.shape:
        raise ValueError(
            f"{type(block).__name__} is not supported: block {index} turns hidden states {tuple(hidden.shape)} into "
            f"{tuple(output.shape)}. Expected blocks that keep the shape; blocks=[...] can leave others out."
        )


def never_called(name: str, index: int) -> str:
    """The reason why a layer that is not an expert's has seen no input."""
    if "cross" in name.lower() or "encoder" in name.lower():
        return (
            f"{name} in block {index} belongs to cross-attention, which reads an encoder's output. Expected a "
            "decoder-only language model, or the whole encoder-decoder, with blocks='decoder' and inputs for both."
        )
    return (
        f"{name} in block {index} is never called as a module, so its input cannot be seen. "
        "Expected a block that calls each of its linear layers."
    )


def check_independent(model, calls, changed_calls) -> None:
    """Raise ValueError if two passes, whose blocks put out different values, call a block differently."""
    for index, (call, changed) in enumerate(zip(calls, changed_calls, strict=True)):
        (leaves, spec), (changed_leaves, changed_spec) = tree_flatten(call), tree_flatten(changed)
        if spec != changed_spec or not all(map(equal, leaves, changed_leaves)):
            raise unsupported(
                model,
                f"block {index} is called with something that depends on what earlier blocks put out. "
                "Expected blocks that hand on nothing but hidden states",
            )


def equal(leaf, other) -> bool:
    if not isinstance(leaf, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(leaf) is type(other) and (not isinstance(leaf, PLAIN) or leaf == other)
    return leaf is other or (leaf.dtype == other.dtype and torch.equal(leaf, other))
