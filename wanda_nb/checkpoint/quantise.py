"""A pruned model in fewer bits: what torchao makes of it, and the bytes that it then takes in a file."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..blocks import decoder_blocks, is_wrapped, linear_layers


def quantised(model, bits: int = 8, group: int | None = 32):
    """A copy of the model whose decoder blocks' linear layers hold their weights in 8 or 4 bits, by torchao.

    Each ``group`` of neighbouring weights in a row (None: the whole row) shares a step, kept in 16 bits, and each weight
    is rounded to a multiple of it; a zero stays a zero, and more may join it. 32 is what GGUF's Q8_0 and Q4_0 have. What
    layers read is not quantised, nor are embeddings, norms and head. In memory, a weight of 4 bits takes 8.
    Needs the extra ``quantise``. Prune first, then quantise:

    ====================================================================  ==========================================
    ``perplexity``, ``window_losses``, ``zero_shot``, ``complete``        read the copy
    ``prune``, ``calibrate``, ``recover``, ``sparsity``, ``save_pruned``  refuse it: they read or change weights
    ``prune_checkpoint``                                                  refuses a quantised checkpoint
    ``save_compressed``                                                   refuses it; ``stored_bytes`` says the size
    ``save_gguf``                                                         refuses it: quantises the model itself
    ====================================================================  ==========================================

    Raises ValueError for other bits, a group that does not divide a row, layers that are not nn.Linear (GPT-2's), and
    whatever ``prune`` refuses in a layer; ImportError without torchao.
    Introduced in notebook 04, "What it saves".
    """
    if bits not in (8, 4):
        raise ValueError(f"bits={bits!r}: expected 8 or 4.")
    for block in decoder_blocks(model):
        for name, layer in linear_layers(block).items():
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"{name} is a {type(layer).__name__}: torchao quantises nn.Linear alone.")
            if group is not None and (group < 1 or layer.in_features % group):
                raise ValueError(f"group={group!r} does not divide the {layer.in_features} columns of {name}.")
    try:
        from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_
    except ImportError as error:
        raise ImportError('Quantising needs torchao: pip install "wanda-nb[quantise]".') from error
    copied = copy.deepcopy(model)
    layers = {id(layer) for block in decoder_blocks(copied) for layer in linear_layers(block).values()}
    kind = {8: torch.int8, 4: torch.int4}[bits]
    config = IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerAxis(0) if group is None else PerGroup(group))
    quantize_(copied, config, filter_fn=lambda module, _: id(module) in layers)
    for module in copied.modules():
        if id(module) in layers:  # what is judged is what a file would hold
            module.weight.scale.copy_(module.weight.scale.half())
    return copied


def stored_bytes(model: nn.Module) -> int:
    """The bytes of a model's tensors in a file that spends one bit on a zero wherever that makes a matrix smaller.

    Of a plain model, it is the size of ``save_compressed``'s file but for header and shapes; of a ``quantised`` one,
    values take their 8 or 4 bits and steps 16. Tied weights count once.
    Introduced in notebook 04, "What it saves".
    """
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(map(_bytes, tensors.values()))


def _bytes(tensor: torch.Tensor) -> int:
    if not is_wrapped(tensor):
        return _smaller(tensor, tensor.element_size() * 8)
    return _smaller(tensor.qdata, {torch.int8: 8, torch.int4: 4}[tensor.target_dtype]) + 2 * tensor.scale.numel()


def _smaller(values: torch.Tensor, bits: int) -> int:
    dense = -(-values.numel() * bits // 8)
    if values.ndim != 2:
        return dense
    rows, columns = values.shape
    kept = int((values != 0).sum())
    return min(dense, rows * -(-columns // 8) + -(-kept * bits // 8))
