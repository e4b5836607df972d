"""Estimates of what a run over a checkpoint takes: memory, disk space, arithmetic and time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from ..blocks import linear_layers, weight_matrix
from ..hardware import activation_bytes, matmul_rate
from ..pruning import two_passes
from ..reporting.progress import duration
from ..reporting.report import gib
from .shards import FLOATS
from .skeleton import Skeleton


class Estimate(NamedTuple):
    """What a run over a checkpoint will take."""

    #: Bytes of memory at the peak, with what this process already holds; and the share of hidden states in it.
    memory: int
    hidden: int
    #: Bytes of new files.
    disk: int
    #: Floating-point operations of the linear layers in two passes, and seconds at this machine's measured rate.
    flops: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"memory {gib(self.memory)} (hidden states {gib(self.hidden)}) · new files {gib(self.disk)} · "
            f"{self.flops:.1e} floating-point operations, at least {duration(self.seconds)} here"
        )


def estimate_pruning(skeleton: Skeleton, tokens: torch.Tensor | None, plan, batch_size: int | None, device) -> Estimate:
    """What pruning a checkpoint by the plan will take, with ``batch_size`` windows of tokens, if any, at a time."""
    block = max(skeleton.shards.size(names.values()) for names in skeleton.names)
    layers = [weight_matrix(layer) for layer in linear_layers(skeleton.blocks[0]).values()]
    select = 8 * max(W.numel() for W in layers)  # a score, 16-bit sizes, the mask
    if tokens is not None and {FLOATS.get(kind) for kind in skeleton.shards.kinds.values()} != {skeleton.dtype}:
        select += sum(W.numel() for W in layers)  # masks, kept until the original weights are read again
        block = max(block, *(sum(t.nbytes for t in block.state_dict().values()) for block in skeleton.blocks))
    if plan.update:
        select += sum(4 * W.shape[1] ** 2 for W in layers) + 12 * max(W.shape[1] for W in layers) ** 2
    hidden = compute = 0
    flops = 0.0
    if tokens is not None:
        hidden = tokens.numel() * skeleton.model.config.get_text_config().hidden_size * skeleton.dtype.itemsize
        compute = batch_size * tokens.shape[1] * activation_bytes(skeleton.blocks[0])
        flops = two_passes(skeleton.blocks, tokens)
    # The block being pruned, the one before it being written, and two copies of the next while its file is read.
    running = hidden + max(4 * block + compute, 3 * block + select)
    starting = hidden + 2 * skeleton.shards.size(skeleton.outside_blocks)
    memory = psutil.Process().memory_info().rss + max(running, starting)
    seconds = flops / matmul_rate(device, skeleton.dtype) if flops else 0.0
    return Estimate(memory, hidden, skeleton.shards.size(), flops, seconds)


def reading_estimate(folder: Path, tokens: torch.Tensor, device, dtype: torch.dtype, passes: int, weights: int) -> str:
    """Memory and time of ``passes`` forward passes over the tokens with ``weights`` copies of the weights, as text."""
    parameters = sum(torch.Size(shape).numel() for shape in Skeleton(folder).shards.shapes.values())
    flops = 2.0 * parameters * tokens.numel() * passes
    floor = duration(flops / matmul_rate(device, dtype))
    return (
        f"weights {gib(weights * parameters * dtype.itemsize)} of memory and activations on top · "
        f"{tokens.numel():,} tokens, {flops:.1e} floating-point operations, at least {floor} here"
    )
