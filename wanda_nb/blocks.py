"""The blocks of a model and the linear layers in them, recognised by structure, not from a list of names."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager, suppress

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .experts import router_weights

CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


def decoder_blocks(model: nn.Module, blocks: str | Iterable[nn.Module] | None = None) -> list[nn.Module]:
    """The model's blocks in order: its one outermost list of modules that hold linear layers.

    blocks: which of them, where there are several (an encoder and a decoder, images and language): the list itself, its
    name, or a part of its name, such as ``"encoder"`` or ``"vision_tower"``. Stages of blocks are several lists.
    Raises ValueError, listing what was found, if there is none, or more than one to choose from.
    Introduced in notebook 00, "A real model".
    """
    kind, stacks = type(model).__name__, _stacks(model)
    if blocks is not None and not isinstance(blocks, str):
        chosen, parts = list(blocks) if isinstance(blocks, Iterable) else [], set(model.modules())
        if not chosen or not all(block in parts and _linear_modules(block) for block in chosen):
            raise ValueError(f"blocks: expected a name, or a list of modules of {kind}, each with linear layers.")
        return chosen
    asked = [name for name in stacks if blocks is None or f".{blocks}." in f".{name}."]
    asked = [blocks] if blocks in stacks else asked
    if len(asked) == 1:
        return list(stacks[asked[0]])
    listing = ", ".join(f"{name} ({len(stacks[name])} blocks)" for name in asked or stacks)
    if not stacks:
        raise ValueError(f"{kind} is not supported: expected a stack of blocks with linear layers, found none.")
    which = f"blocks={blocks!r} names none" if not asked else "expected one to prune, found several"
    raise ValueError(
        f"{kind} has {listing}: {which}. Name one of them, such as blocks={next(iter(asked or stacks))!r}."
    )


def _stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not any(name.startswith(outer + ".") for outer in stacks) and _is_stack(module):
            stacks[name] = module
    return stacks


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of blocks; a list of stages is not, each of which is nothing but a list of blocks."""
    if not isinstance(module, nn.ModuleList) or not all(map(_linear_modules, module)):
        return False
    return len(module) > 0 and not all(map(_is_stage, module))


def _is_stage(module: nn.Module) -> bool:
    inner = [part for part in module.children() if isinstance(part, nn.ModuleList)]
    layers = len(_linear_modules(module))
    return any(len({type(block) for block in part}) == 1 and len(_linear_modules(part)) == layers for part in inner)


def block_names(model: nn.Module, blocks: str | Iterable[nn.Module] | None = None) -> list[str]:
    """The names of the blocks in the model, such as ``model.layers.0``."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(block)] for block in decoder_blocks(model, blocks)]


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    """The prunable layers of a block, in its own order: ``{name: nn.Linear, Conv1D or 1×1 convolution}``.

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
    known = {id(layer.weight) for layer in layers.values()} | router_weights(block)
    known |= {id(m.weight) for m in block.modules() if isinstance(m, (nn.Embedding, *CONVOLUTIONS))}
    for name, parameter in block.named_parameters():
        if not is_vector(parameter) and id(parameter) not in known:
            raise ValueError(
                f"{kind} is not supported: {name} {tuple(parameter.shape)} is a weight outside any linear layer "
                "(fused experts? Open wn.separate_experts(model) around the call), with no input channels to weigh. "
                "Expected a dense block whose matrices are nn.Linear or transformers' Conv1D."
            )
    return layers


def _linear_modules(block: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in block.named_modules() if isinstance(m, (nn.Linear, Conv1D)) or is_pointwise(m)}


def is_pointwise(module: nn.Module) -> bool:
    """Whether a convolution is a linear layer over the channels: it reads each position, by itself."""
    if not isinstance(module, CONVOLUTIONS) or module.groups > 1:
        return False
    padded = not isinstance(module.padding, str) and any(module.padding)  # "same" and "valid" add nothing to 1×1
    return not padded and all(size == 1 for size in (*module.kernel_size, *module.stride))


def is_vector(parameter: torch.Tensor) -> bool:
    """Whether a parameter holds a number for each channel, in whatever shape, rather than a matrix."""
    return sum(size > 1 for size in parameter.shape) < 2


def is_expert(block: nn.Module, name: str) -> bool:
    """Whether the named layer is inside a list of modules in the block, not all of which need to be called."""
    parts = name.split(".")
    above = (block.get_submodule(".".join(parts[:end])) for end in range(1, len(parts)))
    return any(isinstance(module, (nn.ModuleList, nn.ModuleDict)) for module in above)


def in_all_experts(block: nn.Module, name: str) -> list[str]:
    """The names of an expert's layer in all experts of its list, its own among them."""
    parts, names = name.split("."), linear_layers(block)
    for end in range(1, len(parts)):
        holder = block.get_submodule(".".join(parts[:end]))
        if isinstance(holder, (nn.ModuleList, nn.ModuleDict)):
            every = (".".join([*parts[:end], key, *parts[end + 1 :]]) for key in holder._modules)
            return [one for one in every if one in names]
    return [name]


def weight_matrix(layer: nn.Module) -> torch.Tensor:
    """A layer's weight as W (out, in), sharing its storage; Conv1D stores the transpose, a 1×1 convolution more."""
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight.flatten(1) if is_pointwise(layer) else weight


def rows_read(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a layer reads, channels last: (..., in). A 1×1 convolution reads (batch, in, positions)."""
    return x.movedim(1 - layer.weight.ndim, -1) if is_pointwise(layer) else x


def input_embeddings(model: nn.Module) -> nn.Module:
    """What the model's inputs enter by: its embeddings of tokens or of patches; the model, if it does not say."""
    with suppress(NotImplementedError):
        return model.get_input_embeddings()
    return model


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
    for block in blocks:
        linear_layers(block)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            offloaded = " (offloaded by accelerate)" if hasattr(model, "hf_device_map") else ""
            raise ValueError(
                f"{name} is on the meta device{offloaded}: expected all weights in memory. Load the model with no "
                "device_map, then prune(..., device='cuda'), which blocks visit in turn; or use prune_checkpoint."
            )
        if not is_finite(parameter):
            raise ValueError(f"{name} has values that are not finite: expected finite ones. Is the checkpoint damaged?")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; in one pass, with no copy."""
    return not tensor.numel() or all(bool(edge.isfinite()) for edge in tensor.detach().aminmax())


def sparsity(model: PreTrainedModel, blocks: str | Iterable[nn.Module] | None = None) -> float:
    """The fraction of zeros in the prunable layers. Introduced in notebook 00, "Prune"."""
    weights = [weight_matrix(m) for block in decoder_blocks(model, blocks) for m in linear_layers(block).values()]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)
