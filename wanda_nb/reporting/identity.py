"""The identity of a model: every byte of its weights, and its config."""

from __future__ import annotations

import hashlib
import json

import torch

# The folder of a model and the program that wrote it do not change what it computes.
PLACES = {"_name_or_path", "architectures", "transformers_version"}


def identity(model) -> str:
    """A sha256 over the model's class, config, adapter settings and every byte of its state: 64 hexadecimal digits.

    Two models that share it compute the same. Their folder and device do not matter. It takes about 0.6 s per GiB on
    one core. Raises ValueError for weights on the meta device, which have no bytes.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    config = {key: value for key, value in model.config.to_dict().items() if key not in PLACES}
    adapters = {name: adapter.to_dict() for name, adapter in getattr(model, "peft_config", {}).items()}
    digest.update(json.dumps([config, adapters], sort_keys=True, default=_plain).encode())
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: load all weights before its identity is taken.")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tokens_identity(tokens: torch.Tensor, attention_mask) -> str:
    """A sha256 over tokens (samples, length) and their attention mask, if any: 64 hexadecimal digits."""
    digest = hashlib.sha256(f"{tuple(tokens.shape)}".encode())
    for tensor in (tokens, attention_mask):
        if tensor is not None:
            digest.update(tensor.cpu().long().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's values as bytes in row-major order, with no copy if they are so in CPU memory already."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _plain(value):
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
