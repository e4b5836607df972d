"""The decoder blocks of a model and the linear layers in them, recognised by structure, not from a list of names."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .experts import router_weights


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


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The model's decoder blocks in order: its one outermost list of modules that hold linear layers.

    Raises ValueError, listing what was found, if there is none or more than one (an encoder-decoder, a vision tower).
    Introduced in notebook 00, "A real model".
    """
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside_another = any(name.startswith(outer + ".") for outer in stacks)
        if inside_another or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(_linear_modules(block) for block in module):
            stacks[name] = module
    if len(stacks) != 1:
        listing = ", ".join(f"{name} ({len(stack)} blocks)" for name, stack in stacks.items()) or "none"
        reason = ""
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            reason = " It is an encoder-decoder: its decoder reads an encoder's output by cross-attention."
        raise ValueError(
            f"{type(model).__name__} is not supported: expected one stack of decoder blocks with linear layers, "
            f"found {listing}.{reason} Pass the decoder-only language model itself, no encoder-decoder or wrapper."
        )
    return list(next(iter(stacks.values())))


def block_names(model: nn.Module) -> list[str]:
    """The names of the decoder blocks in the model, such as ``model.layers.0``."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(block)] for block in decoder_blocks(model)]


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    """The prunable layers of a block, ``{name: nn.Linear or Conv1D}`` in the block's own order.

    Raises ValueError, naming the layer, if pruning them would not prune the block: for quantised weights, unmerged
    adapters, and matrices outside linear layers (fused experts, state spaces).
    Introduced in notebook 00, "A real model".
    """
    layers = _linear_modules(block)
    kind = type(block).__name__
    for name, module in block.named_modules():
        if hasattr(module, "base_layer"):
            raise ValueError(f"{name} in {kind} carries an unmerged adapter: merge or unload it before pruning.")
    for name, layer in layers.items():
        if layer.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(
                f"{name} in {kind} holds quantised weights ({layer.weight.dtype}): expected floating-point ones. "
                "Prune the unquantised model, then quantise the result."
            )
    owned = {id(layer.weight) for layer in layers.values()} | router_weights(block)
    embeddings = {id(m.weight) for m in block.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in block.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in owned | embeddings:
            raise ValueError(
                f"{kind} is not supported: {name} {tuple(parameter.shape)} is a weight outside any linear layer "
                "(fused experts? Open wn.separate_experts(model) around the call), with no input channels to weigh. "
                "Expected a dense block whose matrices are nn.Linear or transformers' Conv1D."
            )
    return layers


def _linear_modules(block: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in block.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def is_expert(block: nn.Module, name: str) -> bool:
    """Whether the named layer is inside a list of modules in the block, not all of which need to be called."""
    parts = name.split(".")
    above = (block.get_submodule(".".join(parts[:end])) for end in range(1, len(parts)))
    return any(isinstance(module, (nn.ModuleList, nn.ModuleDict)) for module in above)


def weight_matrix(layer: nn.Module) -> torch.Tensor:
    """A layer's weight as W (out, in), sharing its storage; Conv1D stores the transpose."""
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight


@contextmanager
def evaluating(model: nn.Module):
    """Put the model in evaluation mode while open, then restore the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_weights(model: PreTrainedModel, blocks: list[nn.Module]) -> None:
    """Raise ValueError, naming the layer or parameter, unless all weights are in memory, unquantised and finite."""
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is not None:
        raise ValueError(
            f"{type(model).__name__} is quantised ({quantisation}): load it without quantisation, prune, then quantise."
        )
    for index, block in enumerate(blocks):
        for name, layer in linear_layers(block).items():
            if layer.weight.is_meta:
                raise ValueError(
                    f"{name} in block {index} is on the meta device: load all weights first, say into CPU memory."
                )
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            raise ValueError(f"{name} has values that are not finite: expected finite ones. Is the checkpoint damaged?")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; in one pass, with no copy."""
    return not tensor.numel() or all(bool(edge.isfinite()) for edge in tensor.detach().aminmax())


def sparsity(model: PreTrainedModel) -> float:
    """The fraction of zeros in the prunable layers. Introduced in notebook 00, "Prune"."""
    weights = [weight_matrix(m) for block in decoder_blocks(model) for m in linear_layers(block).values()]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)
