"""Several processes, one result: calibration windows shared among ranks, sums taken over all of them.

The engine is ``torch.distributed``, as ``torchrun`` or ``accelerate launch`` set it up. One process is the same code.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks: (0, 1) where there is one process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def my_share(tokens: torch.Tensor, attention_mask=None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """This rank's windows, and their mask. Raises ValueError where there are fewer windows than ranks."""
    rank, ranks = world()
    if len(tokens) < ranks:
        raise ValueError(
            f"{len(tokens)} calibration windows for {ranks} processes: expected one each or more. "
            "Ask for more samples, or start fewer processes."
        )
    mine = tokens.tensor_split(ranks)[rank]
    return mine, None if attention_mask is None else attention_mask.tensor_split(ranks)[rank]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor that every rank holds, in place; the same bits on each."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def from_first_rank(thing):
    """What rank 0 holds, on every rank."""
    if world()[1] == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]
