"""How much memory there is, how much a run takes, and what therefore goes where."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import nn

from .models import linear_layers, weight_matrix

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 8192


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on a device; of the machine where it is the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def windows_at_a_time(batch_size, tokens, block: nn.Module, device: torch.device) -> int:
    """batch_size, or what the device computes well and has room for. Raises ValueError for no whole number."""
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: expected a whole number of windows, at least 1.")
        return batch_size
    at_once = CPU_BATCH_TOKENS
    if device.type == "cuda":
        at_once = min(GPU_BATCH_TOKENS, free_memory(device) // 4 // activation_bytes(block))
    return max(1, int(at_once // tokens.shape[1]))


def activation_bytes(block: nn.Module) -> int:
    """An upper estimate of what one token takes while it passes a block: all inputs and outputs at once."""
    shapes = [weight_matrix(layer) for layer in linear_layers(block).values()]
    return sum(sum(W.shape) * W.element_size() for W in shapes) + 8 * max(W.shape[1] for W in shapes)


def allocator(to: torch.device, budget: int | None = None, path: Path | None = None) -> Callable:
    """A function like torch.empty that puts the hidden states where there is room for them.

    On the GPU that computes, if they take a third of what is free there; else in CPU memory, if they take no more than
    the budget in bytes (by default half of what is free); else, given a path, in a file, mapped into memory.
    """

    def allocate(shape, dtype, device=None) -> torch.Tensor:
        size = dtype.itemsize * torch.Size(shape).numel()
        if to.type == "cuda" and size <= free_memory(to) // 3:
            return torch.empty(shape, dtype=dtype, device=to)
        room = free_memory(torch.device("cpu")) // 2 if budget is None else budget
        if path is None or size <= room:
            return torch.empty(shape, dtype=dtype)
        return _mapped(shape, dtype, size, path)

    return allocate


def _mapped(shape, dtype, size: int, path: Path) -> torch.Tensor:
    """An empty tensor in a new file; where the system allows, the file's name goes at once and its space with us."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):  # take the space now: a page that finds none later kills the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    tensor = torch.from_file(os.fspath(path), shared=True, size=size // dtype.itemsize, dtype=dtype).view(shape)
    if os.name == "posix":
        path.unlink()
    return tensor


class PeakMemory:
    """The most memory in use while open: of the GPU where there is one, else of this process, sampled."""

    def __init__(self, device: torch.device):
        self.device = device
        self.peak = 0
        self._done = threading.Event()

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self):
        process = psutil.Process()
        while not self._done.wait(0.05):
            self.peak = max(self.peak, process.memory_info().rss)

    def __exit__(self, *error):
        self._done.set()
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._thread.join()
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
