"""Modules that are otherwise for a while: other forwards, other tensors, uncompiled."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def replaced_forward(*pairs):
    """While open, let each module of the (module, function) pairs compute its function instead."""
    before = [(module, module.__dict__.get("forward")) for module, _ in pairs]
    try:
        for module, function in pairs:
            module.forward = function
        yield
    finally:
        for module, forward in before:
            if forward is not None:
                module.forward = forward
            else:
                module.__dict__.pop("forward", None)


@contextmanager
def replaced_tensors(module: nn.Module, tensors: dict[str, torch.Tensor]):
    """While open, let parameters and buffers of a module, {name in it}, be others; its own ones are not touched."""
    replaced = []
    try:
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            part = module.get_submodule(path)
            if leaf in part._parameters:
                owner, tensor = part._parameters, nn.Parameter(tensor, requires_grad=False)
            else:
                owner = part._buffers
            replaced.append((owner, leaf, owner[leaf], tensor))
            owner[leaf] = tensor
        yield
    finally:
        for owner, leaf, own, tensor in replaced:
            if owner[leaf] is tensor:  # else the module has made itself another one
                owner[leaf] = own


def _compiled(module: nn.Module) -> bool:
    return any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in module.modules())


def eager(module: nn.Module):
    """While open, run compiled modules uncompiled: hooks and idle blocks do not reach into compiled code."""
    return torch.compiler.set_stance("force_eager") if _compiled(module) else nullcontext()


def needs_compiler(block: nn.Module) -> bool:
    """Whether a block holds code that torch refuses to run while its operations are watched."""
    configs = [getattr(module, "config", None) for module in block.modules()]
    return _compiled(block) or any(getattr(c, "_attn_implementation", "") == "flex_attention" for c in configs)
