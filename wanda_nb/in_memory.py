"""The place of a model in memory, whose blocks may visit a device."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from .capture import write_count
from .patched import replaced_tensors


class InMemory:
    """A `Place` in memory: copies of the blocks visit the device in turn, and what has changed there is copied home."""

    def __init__(self, blocks, device):
        self.blocks, self.device = blocks, device

    def finished(self, index: int) -> None:
        return None

    @contextmanager
    def visit(self, index: int):
        block = self.blocks[index]
        home = home_of(block)
        if not travels(block, self.device):
            yield home
            return
        own = {**dict(block.named_parameters(remove_duplicate=False)), **dict(block.named_buffers())}
        there = {id(tensor): tensor.detach().to(self.device) for tensor in own.values()}
        writes = {key: write_count(tensor) for key, tensor in there.items()}
        try:
            with replaced_tensors(block, {name: there[id(tensor)] for name, tensor in own.items()}):
                try:
                    yield self.device
                finally:
                    for tensor in own.values():
                        if write_count(there[id(tensor)]) != writes[id(tensor)]:
                            tensor.copy_(there[id(tensor)])
        finally:
            block.to(home)  # what it has made itself

    def keep(self, index: int, rows: list[dict], results: dict) -> None:
        pass  # pruned in place


def home_of(block: nn.Module) -> torch.device:
    """The device that a block's weights are on."""
    return next(block.parameters()).device


def size_of(block: nn.Module) -> int:
    """Bytes of a block's parameters and buffers."""
    return sum(tensor.nbytes for tensor in chain(block.parameters(), block.buffers()))


def travels(block: nn.Module, device: torch.device | None) -> bool:
    """Whether a block has to leave its home in order to be computed on the device."""
    home = home_of(block)
    return device is not None and (home.type != device.type or device.index not in (None, home.index))
