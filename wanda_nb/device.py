"""Devices by whatever name torch has for them: cpu, cuda (NVIDIA and AMD), xpu (Intel), mps (Apple)."""

from __future__ import annotations

import re
from contextlib import contextmanager

import torch


def best_device() -> torch.device:
    """The accelerator that torch finds on this machine; the CPU if there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu" if found is None else found.type)


def usable_device(device) -> torch.device:
    """The torch device of that name, ``"auto"`` for the best there is. Raises ValueError if it is not there."""
    try:
        usable = best_device() if device == "auto" else torch.device(device)
        torch.zeros(1, device=usable).cpu()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        kind = best_device().type
        others = [] if kind == "cpu" else [f"{kind}:{index}" for index in range(torch.accelerator.device_count())]
        raise ValueError(
            f"device={str(device)!r} is not usable here: expected {' or '.join(['cpu', *others])}, "
            "or auto for the best of them."
        ) from error
    return usable


def check_dtypes(dtypes, device: torch.device) -> None:
    """Raise ValueError if float64 is among the dtypes and the device has none."""
    if torch.float64 in dtypes and not has_float64(device):
        raise ValueError(f"{device} has no float64: expected float32 weights, or device='cpu'.")


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return False
    return True


def native_dtype(device: torch.device) -> torch.dtype:
    """The dtype to load models in: float32 on a CPU, bfloat16 on a GPU that has it in hardware, else float16."""
    if device.type == "cpu":
        return torch.float32
    # mps does not say what its hardware has: every Apple GPU has float16, and older ones emulate bfloat16.
    has_bfloat16 = getattr(torch.get_device_module(device), "is_bf16_supported", lambda including_emulation: False)
    return torch.bfloat16 if has_bfloat16(including_emulation=False) else torch.float16


def device_name(device: torch.device) -> str:
    """What a record says of the device, such as "NVIDIA A100-SXM4-40GB"; of the CPU, the number of threads."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    if device.type == "mps":
        return torch.backends.mps.get_name()
    name = getattr(torch.get_device_module(device), "get_device_name", str)
    return name(device)


def streams(device: torch.device):
    """The module with the device's ``Stream``, ``stream`` and ``current_stream``, such as torch.cuda; None without any.

    The CPU and mps have no streams.
    """
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "Stream") else None


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what this thread asked of it; its other streams go on. The CPU is never behind."""
    if module := streams(device):
        module.current_stream(device).synchronize()
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def missing_operators_named(device: torch.device):
    """While open, an operator that the device lacks raises a ValueError that names it and says what to do."""
    try:
        yield
    except NotImplementedError as error:
        operator = re.search(r"\b(aten|prims|quantized|torchvision)::[\w.]+", str(error))
        if operator is None or device.type == "cpu":
            raise
        fallback = ", or set PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts" if device.type == "mps" else ""
        raise ValueError(
            f"{device} lacks the operator {operator[0]}: expected a device that has it. Use device='cpu'{fallback}."
        ) from error
