"""The machine: its devices, how much memory there is, how fast it multiplies, and its 2:4 kernels."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from torch import nn

from .blocks import decoder_blocks, linear_layers, weight_matrix
from .device import best_device, wait_for
from .masks import is_nm

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 8192


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, with those that torch keeps for later; available in the machine for the CPU."""
    available = psutil.virtual_memory().available
    if device.type == "cpu":
        return available
    if device.type == "mps":  # shares the machine's memory
        return min(available, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    kept = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return torch.accelerator.get_memory_info(device)[0] + kept


def windows_at_a_time(batch_size, length: int, block: nn.Module, device: torch.device) -> int:
    """batch_size, by default as many windows of a length as the device computes well and has room for.

    Raises ValueError unless batch_size is None or a whole number of at least 1.
    """
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: expected a whole number of windows, at least 1.")
        return batch_size
    batch_tokens = CPU_BATCH_TOKENS
    if device.type != "cpu":
        batch_tokens = min(GPU_BATCH_TOKENS, free_memory(device) // 4 // activation_bytes(block))
    return max(1, int(batch_tokens // length))


def activation_bytes(block: nn.Module) -> int:
    """An upper estimate of the bytes that one token takes in a block: the inputs and outputs of all layers at once."""
    weights = [weight_matrix(layer) for layer in linear_layers(block).values()]
    return sum(sum(W.shape) * W.element_size() for W in weights) + 8 * max(W.shape[1] for W in weights)


def allocator(compute: torch.device, budget: int | None = None, path: Path | None = None) -> Callable:
    """A function, called like torch.empty, that allocates the hidden states where there is room for them.

    They go on the GPU that computes, if they take at most a third of its free memory; else into CPU memory, if they
    take at most the budget in bytes (by default half of what is free); else, given a path, into a memory-mapped file.
    """

    def allocate(shape, dtype, device=None) -> torch.Tensor:
        size = dtype.itemsize * torch.Size(shape).numel()
        if compute.type != "cpu" and size <= free_memory(compute) // 3:
            return torch.empty(shape, dtype=dtype, device=compute)
        room = free_memory(torch.device("cpu")) // 2 if budget is None else budget
        if path is None or size <= room:
            return torch.empty(shape, dtype=dtype)
        return _mapped(shape, dtype, size, path)

    return allocate


def _mapped(shape, dtype, size: int, path: Path) -> torch.Tensor:
    """An empty tensor in a new file, unlinked at once where the system allows, so that no file outlives the process."""
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
    """Measures the peak memory in bytes while open: of the device, or of this process where the CPU computes.

    Devices keep their own account of the peak; for mps and for the CPU, what is in use is sampled.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.peak = 0
        self._sampled = device.type in ("cpu", "mps")
        self._done = threading.Event()

    def __enter__(self):
        if not self._sampled:
            torch.accelerator.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self):
        process = psutil.Process()
        in_use = torch.mps.current_allocated_memory if self.device.type == "mps" else lambda: process.memory_info().rss
        ended = False
        while not ended:
            ended = self._done.wait(0.01)
            self.peak = max(self.peak, in_use())

    def __exit__(self, *error):
        if not self._sampled:
            self.peak = torch.accelerator.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()


@lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second that a device reaches on a large product: the best seen in 0.2 s."""
    largest = 2048 if device.type == "cpu" else 8192
    size, best = 128, 0.0
    _product_seconds(size, device, dtype)  # the first one waits for libraries to load
    start = time.perf_counter()
    while True:
        seconds = min(_product_seconds(size, device, dtype) for _ in range(2))  # the first of a size may be compiled
        best = max(best, 2 * size**3 / seconds)
        remaining = 0.2 - (time.perf_counter() - start)
        if size < largest and 2 * 8 * seconds < remaining:  # twice the rows, eight times the work
            size *= 2
        elif 2 * seconds > remaining:
            return best


def _product_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a = torch.ones(size, size, device=device, dtype=dtype)
    wait_for(device)
    start = time.perf_counter()
    a @ a
    wait_for(device)
    return time.perf_counter() - start


def use_sparse_kernels(model: nn.Module) -> int:
    """Make the linear layers of all blocks compute on the GPU's sparse tensor cores, in place; returns their number.

    The weights become torch's semi-structured tensors, stored compressed. Raises RuntimeError on hardware without such
    kernels (a CPU, a GPU below compute capability 8.0), ValueError for a layer that is not 2:4 or not in 16 bits.
    Introduced in notebook 04, "What the hardware does".
    """
    layers = [item for block in decoder_blocks(model) for item in linear_layers(block).items()]
    check_sparse_kernels(layers[0][1].weight.device)
    for name, layer in layers:
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is {type(layer).__name__}, which keeps weights transposed: expected nn.Linear.")
        if layer.weight.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name} is {layer.weight.dtype}: the kernels need float16 or bfloat16, so convert first.")
        if not is_nm(layer.weight, 2, 4):
            raise ValueError(f"{name} is not 2:4: expected two zeros in every four. Prune with pattern='2:4' first.")
    for _, layer in layers:
        compressed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(compressed, requires_grad=False)
    return len(layers)


def check_sparse_kernels(device: torch.device) -> None:
    """Raise RuntimeError unless the device has 2:4 kernels."""
    description = str(device)
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return
        description = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    raise RuntimeError(
        f"No 2:4 kernels on this device ({description}): expected an NVIDIA GPU of compute capability 8.0 or newer "
        "(Ampere: A100, RTX 30). Elsewhere 2:4 is a mask like any other."
    )


def paired_seconds(first, second, repeats: int = 15) -> tuple[list[float], list[float]]:
    """Seconds of two functions, called in turn so that noise affects both alike, after one warm-up call of each.

    Quote the median of the ratios, not the times. Introduced in notebook 04, "Honest timings".
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            function()
            wait_for(best_device())
            if repeat:
                times.append(time.perf_counter() - start)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """The median of first / second, pair by pair: below 1, the first is faster."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
