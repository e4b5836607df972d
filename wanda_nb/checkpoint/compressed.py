"""A pruned model in one small file: a bit for each weight, and the values that were kept."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import settle

FORMAT = "wanda_nb bitmask 1"
BITS, SHAPE, VALUES = ":bitmask", ":shape", ":values"
INTEGERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # by element size, to see a dtype's bits as integers


def save_compressed(model: nn.Module, path) -> int:
    """Write the weights to one safetensors file in which a zero takes one bit; return its size in bytes.

    A pruned weight (out, in) is stored as one bit for each element, 1 where it is kept, and the kept values in order; a
    tensor that would not shrink is stored as it is. All bit patterns survive, -0.0 too. Tied weights are stored once.
    The file appears complete or not at all. Raises ValueError for weights on the meta device.
    Introduced in notebook 06, "Save and share".
    """
    tensors: dict[str, torch.Tensor] = {}
    seen, storages = set(), set()
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: load all weights before saving them.")
        view = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if view in seen and tensor.numel():  # tied
            continue
        seen.add(view)
        storage = tensor.untyped_storage().data_ptr()
        tensor = tensor.detach().cpu().contiguous()
        tensors |= _packed(name, tensor.clone() if storage in storages else tensor)  # a file holds no views
        storages.add(storage)
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, temporary, metadata={"format": FORMAT})
        return settle(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_compressed(model: nn.Module, path) -> nn.Module:
    """Fill a model with the weights that ``save_compressed`` stored, bit for bit, and return it.

    model: of the same architecture, such as ``AutoModelForCausalLM.from_config(config, dtype=...)``, in memory or, all
    but its buffers, on the meta device. Raises ValueError, before the model changes, for a file of another kind or a
    damaged one, and for weights that are missing, unknown, or of another shape or dtype than the model's.
    Introduced in notebook 06, "Save and share".
    """
    own = model.state_dict(keep_vars=True)
    if unfilled := [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in own]:
        raise ValueError(
            f"{unfilled[0]} is on the meta device and in no file, because a model computes it when it is built. Build "
            "the model in memory, or under accelerate's init_empty_weights(include_buffers=False)."
        )
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ValueError(
                    f"{path} was not written by save_compressed: expected a safetensors file of format {FORMAT!r}."
                )
            names = sorted({name.removesuffix(BITS).removesuffix(SHAPE).removesuffix(VALUES) for name in file.keys()})  # noqa: SIM118
            tied = _check_fit(model, own, names, path)
            state = {name: _unpacked(file, name, own[name], path) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): make or fetch it again.") from error
    state |= {name: state[stored] for name, stored in tied.items()}
    with torch.no_grad():
        for name, tensor in state.items():
            if not own[name].is_meta:
                own[name].copy_(tensor)
    on_meta = {name: tensor for name, tensor in state.items() if own[name].is_meta}
    model.load_state_dict(on_meta, strict=False, assign=True)
    for name in on_meta.keys() & tied.keys():
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, operator.attrgetter(tied[name])(model))
    return model


def _check_fit(model, own: dict, names: list[str], path) -> dict[str, str]:
    """The model's tensors that are not stored: {name: name of the stored tensor that it is tied to}."""
    by_tensor = {id(own[name]): name for name in names if name in own}
    tied = {
        name: by_tensor[id(tensor)] for name, tensor in own.items() if id(tensor) in by_tensor and name not in names
    }
    for name, source in getattr(model, "all_tied_weights_keys", {}).items():  # on the meta device, ties may be lost
        for absent, stored in ((name, source), (source, name)):
            if absent in own and absent not in names and stored in names:
                tied.setdefault(absent, stored)
    missing = [name for name in own if name not in names and name not in tied]
    unknown = [name for name in names if name not in own]
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {', '.join((missing + unknown)[:3])} missing or unknown. "
            "Expected a model built from the same config."
        )
    return tied


def _packed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the file holds of a tensor: its values, bitmask and shape, or the tensor itself where that is smaller."""
    if tensor.ndim != 2 or tensor.element_size() not in INTEGERS:
        return {name: tensor}
    bits = tensor.view(INTEGERS[tensor.element_size()])
    kept = bits != 0  # -0.0 has a bit set
    values = bits[kept].view(tensor.dtype)
    bitmask = torch.from_numpy(np.packbits(kept.numpy(), axis=1))
    if bitmask.nbytes + values.nbytes >= tensor.nbytes:
        return {name: tensor}
    return {name + VALUES: values, name + BITS: bitmask, name + SHAPE: torch.tensor(tensor.shape)}


def _unpacked(file, name: str, own: torch.Tensor, path) -> torch.Tensor:
    """A tensor of the file. What the file says of it is checked against the model before memory is allocated for it."""
    packed = name not in file.keys()  # noqa: SIM118, no mapping
    try:
        tensor = file.get_tensor(name + VALUES * packed)
        bits = file.get_tensor(name + BITS) if packed else None
        shape = tuple(file.get_tensor(name + SHAPE).flatten().tolist() if packed else tensor.shape)
    except SafetensorError as error:
        raise ValueError(f"{path} lacks a part of {name} ({error}): make or fetch it again.") from error
    if shape != tuple(own.shape):
        raise ValueError(
            f"{path} does not fit: {name} is {shape} there and {tuple(own.shape)} in the model, "
            "another shape. Expected a model built from the same config."
        )
    if tensor.dtype != own.dtype:
        raise ValueError(
            f"{name} is {tensor.dtype} in {path} and {own.dtype} in the model, which would change its bits. Build "
            f"the model with dtype={tensor.dtype}."
        )
    if not packed:
        return tensor
    rows, columns = own.shape
    if bits.dtype != torch.uint8 or bits.shape != (rows, -(-columns // 8)) or tensor.ndim != 1:
        raise ValueError(f"{path} is damaged: the bitmask of {name} is {tuple(bits.shape)} of {bits.dtype}.")
    kept = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=columns).astype(bool))
    if int(kept.sum()) != tensor.numel():
        raise ValueError(f"{path} is damaged: {name} has {tensor.numel()} values for {int(kept.sum())} bits.")
    integer = INTEGERS[tensor.element_size()]
    full = torch.zeros(own.shape, dtype=integer)
    full[kept] = tensor.view(integer)
    return full.view(tensor.dtype)


def compressed_bytes(numel: int, dtype: torch.dtype, kind: str, sparsity: float = 0.5) -> int:
    """The size in bytes of a matrix of ``numel`` weights.

    kind: ``"dense"``; ``"2:4"`` as the hardware stores it (half the values, each with 2 bits for its place);
    ``"bitmask"`` (the kept values, and one bit for every weight); ``"csr"`` (the kept values, each with a 32-bit
    column). Raises ValueError for another kind. Introduced in notebook 04, "What it saves".
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
