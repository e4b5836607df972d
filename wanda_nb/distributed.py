"""Several processes, one result: calibration windows split among ranks, statistics summed over all of them.

The engine is ``torch.distributed``, as ``torchrun`` or ``accelerate launch`` set it up. One process is the same code.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves, tree_map

from .device import best_device, usable_device


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks: (0, 1) for a single process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def join_processes(device: str) -> torch.device:
    """This process's device of that name; sets up torch.distributed if a launcher started several processes.

    Each process takes the accelerator of its local rank; mps is one device, which all share. Raises ValueError if the
    device is not usable or the processes cannot be joined.
    """
    if "WORLD_SIZE" not in os.environ:
        return usable_device(device)
    kind = best_device().type
    if device in (kind, "auto") and kind not in ("cpu", "mps"):
        device = f"{kind}:{os.environ.get('LOCAL_RANK', 0)}"
    own_device = usable_device(device)
    try:
        if own_device.index is not None:
            torch.accelerator.set_device_index(own_device)
        if not dist.is_initialized():
            dist.init_process_group(dist.get_default_backend_for_device(own_device))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The processes could not be joined: {str(error).splitlines()[0]}") from error
    return own_device


def my_share(tokens, attention_mask=None) -> tuple:
    """This rank's windows, or a dict with its samples of each tensor; and their mask.

    Raises ValueError if there are fewer windows than ranks.
    """
    rank, ranks = world()
    if (count := len(tree_leaves(tokens)[0])) < ranks:
        raise ValueError(
            f"{count} calibration windows for {ranks} processes: expected one each or more. "
            "Ask for more samples, or start fewer processes."
        )
    share = tree_map(lambda tensor: tensor.tensor_split(ranks)[rank], tokens)
    return share, None if attention_mask is None else attention_mask.tensor_split(ranks)[rank]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks, in place; returns it, with the same bits on every rank."""
    if world()[1] > 1:
        here = tensor.cpu() if dist.get_backend() == "gloo" else tensor  # gloo reads no memory of mps
        dist.all_reduce(here)
        if here is not tensor:
            tensor.copy_(here)
    return tensor


def from_first_rank(thing):
    """Rank 0's object, on every rank."""
    if world()[1] == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0)
    return box[0]
