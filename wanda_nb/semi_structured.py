"""2:4 on the hardware that has it, what compression really saves, and what a matrix product takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from .models import decoder_blocks, linear_layers


def use_sparse_kernels(model: nn.Module) -> int:
    """Let all 2:4-pruned linear layers of the blocks compute with the GPU's sparse tensor cores, in place; how many.

    The weights become torch's semi-structured tensors, stored compressed. Raises RuntimeError where the hardware
    has none (a CPU, a GPU before compute capability 8.0), ValueError for a layer that is not 2:4, or not in 16 bits.
    Introduced in notebook 04, "What the hardware does".
    """
    layers = [item for block in decoder_blocks(model) for item in linear_layers(block).items()]
    _check_hardware(layers[0][1].weight.device)
    for name, layer in layers:
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is {type(layer).__name__}, which keeps weights transposed: expected nn.Linear.")
        if layer.weight.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name} is {layer.weight.dtype}: the kernels want float16 or bfloat16, so convert first.")
        if not is_nm(layer.weight, 2, 4):
            raise ValueError(f"{name} is not 2:4: expected two zeros in every four. Prune with pattern='2:4' first.")
    for _, layer in layers:
        compressed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(compressed, requires_grad=False)
    return len(layers)


def _check_hardware(device: torch.device) -> None:
    found = str(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return
        found = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    raise RuntimeError(
        f"No 2:4 kernels on this device ({found}): expected an NVIDIA GPU of compute capability 8.0 or newer "
        "(Ampere: A100, RTX 30). Elsewhere 2:4 is a mask like any other."
    )


def is_nm(W: torch.Tensor, n: int, m: int) -> bool:
    """Whether W (out, in) keeps at most n of every m weights along its input."""
    return W.shape[1] % m == 0 and bool(((W != 0).reshape(len(W), -1, m).sum(dim=-1) <= n).all())


def compressed_bytes(numel: int, dtype: torch.dtype, kind: str, sparsity: float = 0.5) -> int:
    """What a matrix of so many weights takes, in bytes.

    kind: ``"dense"``; ``"2:4"``, as the hardware stores it (half the values, and 2 bits to place each of them);
    ``"bitmask"`` (the values kept, and one bit for every weight); ``"csr"`` (the values kept, and a 32-bit column
    each).
    Raises ValueError for another kind. Introduced in notebook 04, "What it saves".
    """
    size = torch.empty((), dtype=dtype).element_size()
    kept = numel - int(numel * sparsity)
    sizes = {
        "dense": numel * size,
        "2:4": numel // 2 * size + numel // 2 // 4,
        "bitmask": kept * size + numel // 8,
        "csr": kept * (size + 4),
    }
    if kind not in sizes:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(sizes)}.")
    return sizes[kind]


def paired_seconds(first, second, repeats: int = 15) -> tuple[list[float], list[float]]:
    """Seconds of two functions, called in turn so that a noisy machine is noisy for both; one warm-up call each.

    Quote the median of the ratios, not the times. Introduced in notebook 04, "Honest timings".
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, taken in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                taken.append(time.perf_counter() - start)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """The median of first / second, pair by pair: below 1, the first is faster."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
