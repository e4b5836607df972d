"""What blocks are called with, on its way to the device that computes."""

from __future__ import annotations

from collections import defaultdict

import torch
from accelerate.utils import send_to_device
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


class Sent:
    """Sends the arguments of blocks to a device: what only one block reads, each time; what several read, once.

    calls: ``[batch][block] -> (args, kwargs)``. What a single batch reads stays on the device only if the hidden states
    lie there too (beside): where they found no room, a mask for each window would find none either.
    """

    def __init__(self, calls: list[list[tuple]], beside: torch.Tensor):
        self.calls, self.beside = calls, beside
        self._there: dict[tuple, torch.Tensor] = {}
        blocks, self._batches = defaultdict(set), defaultdict(set)
        for number, batch in enumerate(calls):
            for index, call in enumerate(batch):
                for leaf in tree_leaves(call):
                    if isinstance(leaf, torch.Tensor):
                        blocks[id(leaf)].add(index)
                        self._batches[id(leaf)].add(number)
        self._common = {key for key, readers in blocks.items() if len(readers) > 1}

    def call(self, number: int, index: int, device) -> tuple:
        """The (args, kwargs) of block number ``index`` for a batch, on the device."""
        leaves, spec = tree_flatten(self.calls[number][index])
        return tree_unflatten([self._on(torch.device(device), leaf) for leaf in leaves], spec)

    def _on(self, device: torch.device, leaf):
        if (id(leaf), device) in self._there:
            return self._there[id(leaf), device]
        sent = send_to_device(leaf, device)
        if id(leaf) in self._common and (len(self._batches[id(leaf)]) > 1 or self.beside.device == sent.device):
            self._there[id(leaf), device] = sent
        return sent
