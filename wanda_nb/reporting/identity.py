"""What tells one model from another: every byte of its weights, and its config."""

from __future__ import annotations

import hashlib
import json

import torch

# Where a model lies and what wrote it do not change what it computes.
PLACES = {"_name_or_path", "architectures", "transformers_version"}


def identity(model) -> str:
    """A sha256 over the model's class, config, adapter settings and every byte of its state: 64 hexadecimal digits.

    Two models share it if and only if they compute the same; where they lie, and on which device, does not matter.
    It takes about 0.6 s a GiB on one core. Raises ValueError for weights on the meta device, which have no bytes.
    """
    found = hashlib.sha256(type(model).__name__.encode())
    config = {key: value for key, value in model.config.to_dict().items() if key not in PLACES}
    adapters = {name: adapter.to_dict() for name, adapter in getattr(model, "peft_config", {}).items()}
    found.update(json.dumps([config, adapters], sort_keys=True, default=_plain).encode())
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: load all weights before asking which model this is.")
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor_bytes(tensor))
    return found.hexdigest()


def tokens_identity(tokens: torch.Tensor, attention_mask) -> str:
    digest = hashlib.sha256(f"{tuple(tokens.shape)}".encode())
    for tensor in (tokens, attention_mask):
        if tensor is not None:
            digest.update(tensor.cpu().long().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's values as bytes, in row-major order, without a copy where it lies so in CPU memory."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _plain(value):
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
