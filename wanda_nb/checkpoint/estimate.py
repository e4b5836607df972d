"""Estimates of what a run over a checkpoint takes: memory, disk space, arithmetic and time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from ..blocks import linear_layers, weight_matrix
from ..cost import loop_flops, windows_by_batch
from ..footprint import Need, need, selection_bytes
from ..hardware import activation_bytes, free_memory, matmul_rate
from ..reporting.progress import duration
from ..reporting.report import gib
from .shards import FLOATS
from .skeleton import Skeleton

PACKED = 1.45  # on the CPU, an update takes more than its tensors: libraries copy matrices for products and factors


class Estimate(NamedTuple):
    """What a run over a checkpoint will take."""

    #: Bytes of CPU memory at the peak, with what this process already holds; and the size of the hidden states.
    memory: int
    hidden: int
    #: Bytes of new files.
    disk: int
    #: Floating-point operations of matrix products (loop_flops), and seconds at this machine's measured rate.
    flops: float
    seconds: float
    #: Bytes on the device at the peak, 0 if that is the CPU; and whether the hidden states are among them.
    device: int = 0
    hidden_there: bool = False

    def __str__(self) -> str:
        states = f" (hidden states {gib(self.hidden)})"
        parts = [f"memory {gib(self.memory)}{'' if self.hidden_there else states}"]
        if self.device:
            parts.append(f"device memory {gib(self.device)}{states if self.hidden_there else ''}")
        parts.append(f"new files {gib(self.disk)}")
        parts.append(f"{self.flops:.1e} floating-point operations, at least {duration(self.seconds)} here")
        return " · ".join(parts)


def estimate_pruning(
    skeleton: Skeleton,
    tokens: torch.Tensor | None,
    plan,
    batch_size: int | None,
    device: torch.device,
    attention_mask: torch.Tensor | None = None,
    must_fit: bool = False,
) -> Estimate:
    """What pruning a checkpoint by the plan will take, with ``batch_size`` windows of tokens, if any, at a time.

    must_fit: raise ValueError if the device has too little free memory for it.
    """
    hidden, flops = 0, 0.0
    if tokens is not None:
        hidden = tokens.numel() * skeleton.model.config.get_text_config().hidden_size * skeleton.dtype.itemsize
        flops = loop_flops(skeleton.model, windows_by_batch(len(tokens), tokens.shape[1], batch_size)).total
    stored = max(skeleton.shards.size(names.values()) for names in skeleton.names)
    outside = 2 * skeleton.shards.size(skeleton.outside_blocks)
    there, hidden_there = 0, False
    if device.type == "cpu":
        host = hidden + max(_running_on_cpu(skeleton, tokens, plan, batch_size, stored), outside)
    else:
        needed = _needed_there(skeleton, tokens, attention_mask, plan, batch_size, stored)
        if must_fit:
            needed.check(device)
        hidden_there = needed.leaves_room(free_memory(device))
        there = needed.others + needed.hidden * hidden_there
        # Two copies of the next block while its file is read; of the one before, what is written, and its originals.
        host = hidden * (not hidden_there) + max(4 * stored, outside)
    memory = psutil.Process().memory_info().rss + host
    seconds = flops / matmul_rate(device, skeleton.dtype) if flops else 0.0
    return Estimate(memory, hidden, skeleton.shards.size(), flops, seconds, there, hidden_there)


def _running_on_cpu(skeleton: Skeleton, tokens, plan, batch_size, block: int) -> int:
    """Bytes of CPU memory that the block loop takes beside hidden states, if the largest block is stored in so many."""
    layers = [weight_matrix(layer) for layer in linear_layers(skeleton.blocks[0]).values()]
    select = 8 * max(W.numel() for W in layers)  # a score, 16-bit sizes, the mask
    if tokens is not None and {FLOATS.get(kind) for kind in skeleton.shards.kinds.values()} != {skeleton.dtype}:
        select += sum(W.numel() for W in layers)  # masks, kept until the original weights are read again
        block = max(block, _largest(skeleton))
    if plan.update:
        select = int(PACKED * selection_bytes(plan, skeleton.blocks[0]))
    compute = 0 if tokens is None else batch_size * tokens.shape[1] * activation_bytes(skeleton.blocks[0])
    # The block being pruned, the one before it being written, and two copies of the next while its file is read.
    return max(4 * block + compute, 3 * block + select)


def _needed_there(skeleton: Skeleton, tokens, attention_mask, plan, batch_size, stored: int) -> Need:
    """What the block loop takes on a device that is not the CPU: the block being pruned, the next one, and all else."""
    block = _largest(skeleton) if tokens is not None else stored
    state = skeleton.model.state_dict()
    outside = sum(state[name].nbytes for name in skeleton.before_blocks)
    starting = outside + block * len({type(block) for block in skeleton.blocks})
    there = block * min(2, len(skeleton.blocks))
    return need(skeleton.model, plan, tokens, attention_mask, batch_size, there, starting)


def _largest(skeleton: Skeleton) -> int:
    """Bytes of the largest block in the dtypes that it computes in."""
    return max(sum(tensor.nbytes for tensor in block.state_dict().values()) for block in skeleton.blocks)


def reading_estimate(folder: Path, tokens: torch.Tensor, device, dtype: torch.dtype, passes: int, weights: int) -> str:
    """Memory and time of ``passes`` forward passes over the tokens with ``weights`` copies of the weights, as text."""
    parameters = sum(torch.Size(shape).numel() for shape in Skeleton(folder).shards.shapes.values())
    flops = 2.0 * parameters * tokens.numel() * passes
    floor = duration(flops / matmul_rate(device, dtype))
    return (
        f"weights {gib(weights * parameters * dtype.itemsize)} of memory and activations on top · "
        f"{tokens.numel():,} tokens, {flops:.1e} floating-point operations, at least {floor} here"
    )
