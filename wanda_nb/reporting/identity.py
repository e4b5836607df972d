"""The identity of a model: its config, and every byte of its weights or a sample of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import torch

from ..blocks import block_names, decoder_blocks, input_embeddings

# The folder of a model and the program that wrote it do not change what it computes.
PLACES = {"_name_or_path", "architectures", "transformers_version"}
# What else of a config says nothing of the activations, beside the ids of tokens; weights are compared by value.
ASIDE = PLACES | {"dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions", "output_hidden_states"}
ROWS = 4  # of each weight, in a sample


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


def model_identity(model, read: Callable[[str, torch.Tensor], torch.Tensor] | None = None, blocks=None) -> dict:
    """What a model computes in its blocks, from a sample of its weights: the same in memory and on disk.

    Its class, its config, and a sha256 over names, shapes and a few rows of the embeddings and of each tensor in the
    blocks, rounded to bfloat16, so that a checkpoint and the model loaded from it in float32 or bfloat16 share it; one
    of float32 loaded in float16 does not. It tells the original from a pruned, trained or merged model, but not from
    one in which a few weights differ; for that see ``identity``.
    read: gives the ``sample`` of a tensor by its name in the model, if the model is on the meta device. blocks: as for
    ``decoder_blocks``.
    """
    embeddings = {id(tensor) for tensor in input_embeddings(model).parameters()}
    tensors = {name: tensor for name, tensor in model.named_parameters() if id(tensor) in embeddings}
    for prefix, block in zip(block_names(model, blocks), decoder_blocks(model, blocks), strict=True):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in block.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        rows = sample(tensor.detach(), tensor.shape) if read is None else read(name, tensor)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(rows.bfloat16() if rows.is_floating_point() else rows))
    config = json.loads(json.dumps(model.config.to_dict(), default=_plain))
    return {"class": type(model).__name__, "config": _essential(config), "weights": digest.hexdigest()}


def sample(tensor, shape) -> torch.Tensor:
    """Four rows of a tensor, the first and the last among them, or all of a vector. tensor: or the slice of a file."""
    if len(shape) < 2:
        return tensor[...]
    rows = sorted({number * (shape[0] - 1) // (ROWS - 1) for number in range(ROWS)})
    return torch.cat([tensor[row : row + 1] for row in rows])


def _essential(config: dict) -> dict:
    """What of a config can change activations, as far as one can tell by its names."""
    kept = {key: value for key, value in config.items() if key not in ASIDE and not key.endswith("_token_id")}
    return {key: _essential(value) if isinstance(value, dict) else value for key, value in kept.items()}


def difference(one: dict, other: dict) -> str | None:
    """What first differs between two ``model_identity``, in words; None if nothing does.

    What only one config has does not count: versions of transformers add and drop settings.
    """
    for key, value in one.items():
        if key not in other or value == other[key]:
            continue
        if not isinstance(value, dict) or not isinstance(other[key], dict):
            return key if key == "weights" else f"{key} ({value} and {other[key]})"
        if found := difference(value, other[key]):
            return found
    return None


def tokens_identity(tokens: torch.Tensor, attention_mask) -> str:
    """A sha256 over tokens (samples, length), or a dict of inputs, and their attention mask: 64 hexadecimal digits."""
    if isinstance(tokens, torch.Tensor):
        digest = hashlib.sha256(f"{tuple(tokens.shape)}".encode())
        tensors = [tokens.long()]
    else:
        named = sorted(tokens.items())
        digest = hashlib.sha256(f"{[(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in named]}".encode())
        tensors = [tensor for _, tensor in named]
    for tensor in [*tensors, *([] if attention_mask is None else [attention_mask.long()])]:
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's values as bytes in row-major order, with no copy if they are so in CPU memory already."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _plain(value):
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
