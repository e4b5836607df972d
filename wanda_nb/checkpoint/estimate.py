"""What a run over a checkpoint will take: memory, disk, arithmetic and time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ..hardware import matmul_rate
from ..reporting.progress import duration
from ..reporting.report import gib
from .skeleton import Skeleton


class Estimate(NamedTuple):
    """What a run over a checkpoint will take."""

    #: Bytes of memory at its peak, this process as it is included; of which hidden states.
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


def reading_estimate(folder: Path, tokens: torch.Tensor, device, dtype: torch.dtype, passes: int, weights: int) -> str:
    """Memory and time of reading tokens so many times with so many copies of the weights."""
    numbers = sum(torch.Size(shape).numel() for shape in Skeleton(folder).shards.shapes.values())
    flops = 2.0 * numbers * tokens.numel() * passes
    floor = duration(flops / matmul_rate(device, dtype))
    return (
        f"weights {gib(weights * numbers * dtype.itemsize)} of memory and activations on top · "
        f"{tokens.numel():,} tokens, {flops:.1e} floating-point operations, at least {floor} here"
    )
