"""A model whose weights stay on disk: its modules on the meta device, and what running it block by block will take."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from transformers import AutoConfig, AutoModelForCausalLM

from ..blocks import decoder_blocks, linear_layers
from .shards import FLOATS, INDEX, SINGLE, Shards, check_finite

EXPECTED_ALL = (
    ": expected all tensors of the model in config.json. Is the download complete? If its names are of an older "
    "fashion, load the model once and model.save_pretrained(folder)."
)


class Skeleton:
    """A checkpoint folder and its model, whose parameters are on the meta device until they are put in place.

    Raises ValueError, from headers alone, for a checkpoint that does not fit its config.json, or is quantised.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None = None):
        self.shards = Shards(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(f"{folder} is quantised: stream the unquantised checkpoint, then quantise the result.")
        if named := getattr(config, "transformers_weights", None):
            raise ValueError(
                f"config.json names {named} as its weights: expected {INDEX} or {SINGLE}. Load the model once and "
                "model.save_pretrained(another folder)."
            )
        stored = [FLOATS[kind] for kind in self.shards.kinds.values() if kind in FLOATS]
        self.dtype = dtype or config.dtype or stored[0]
        with init_empty_weights(include_buffers=False):
            self.model = AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        self.blocks = decoder_blocks(self.model)
        where = {id(module): name + "." for name, module in self.model.named_modules()}
        prefixes = [where[id(block)] for block in self.blocks]
        spelt = self._spelling(prefixes[0] + next(iter(self.blocks[0].state_dict())))
        #: For each block, {name inside it: name in the checkpoint}.
        self.names = [
            {name: spelt(prefix + name) for name in block.state_dict()}
            for prefix, block in zip(prefixes, self.blocks, strict=True)
        ]
        inside = {name for names in self.names for name in names.values()}
        #: Names in the checkpoint of all that lies outside the blocks.
        self.rest = [name for name in self.shards.files if name not in inside]
        base = where.get(id(self.model.base_model), "").removesuffix(".")
        outside = [n for n in self.model.state_dict() if n.startswith(base) and not n.startswith(tuple(prefixes))]
        found = {name: self._stored(name, spelt) for name in outside}
        #: What has to be there for the first hidden states: {name in the model: name in the checkpoint}.
        self.first = {name: stored for name, stored in found.items() if stored is not None}
        self._check()

    def _spelling(self, example: str):
        """How the checkpoint spells the model's names: alike, or with less or more of the base model's prefix."""
        base = self.model.base_model_prefix + "."
        for spelt in (lambda name: name, lambda name: name.removeprefix(base), lambda name: base + name):
            if spelt(example) in self.shards.files:
                return spelt
        return lambda name: name

    def _stored(self, name: str, spelt) -> str | None:
        """Where a tensor outside the blocks is stored: under its name, or a name that it is tied to, as in
        ``from_pretrained``; None for a buffer that is not stored. Raises ValueError for a parameter that is not."""
        tied = getattr(self.model, "all_tied_weights_keys", {})  # {name: whose values it has}
        root = tied.get(name, name)
        partners = [name, root, *(other for other, its in tied.items() if its == root)]
        stored = next((spelt(one) for one in partners if spelt(one) in self.shards.files), None)
        if stored is None and name in dict(self.model.named_parameters(remove_duplicate=False)):
            raise ValueError(f"{spelt(name)} is in no shard{EXPECTED_ALL}")
        return stored

    def _check(self) -> None:
        for index, (block, names) in enumerate(zip(self.blocks, self.names, strict=True)):
            layers, own = linear_layers(block), block.state_dict()
            for name, stored in names.items():
                if stored not in self.shards.files:
                    raise ValueError(f"{stored} (block {index}) is in no shard{EXPECTED_ALL}")
                shape, kind = self.shards.shapes[stored], self.shards.kinds[stored]
                if shape != tuple(own[name].shape):
                    raise ValueError(
                        f"{stored} is {shape}, but by config.json it should be {tuple(own[name].shape)}: the shards "
                        "belong to another model."
                    )
                if name.removesuffix(".weight") in layers and kind not in FLOATS:
                    raise ValueError(
                        f"{stored} is stored as {kind}: expected one of {', '.join(FLOATS)}. "
                        "Stream the unquantised checkpoint, then quantise the result."
                    )

    def cast(self, module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A module's tensors {name in it: as stored} in the dtypes that it computes in; empties what it is given."""
        own, found = module.state_dict(), {}
        for name in list(tensors):
            tensor = found[name] = tensors.pop(name)
            if tensor.is_floating_point() and tensor.dtype != own[name].dtype:
                found[name] = tensor.to(own[name].dtype)
                check_finite(found[name], f"{name} in {own[name].dtype}", "Compute in a dtype that holds its values.")
        return found

    @contextmanager
    def in_place(self, module, tensors: dict[str, torch.Tensor], device):
        """Give a module's parameters their values for a while."""
        for name, tensor in tensors.items():
            set_module_tensor_to_device(module, name, device, value=tensor, dtype=tensor.dtype)
        try:
            yield
        finally:
            for name in tensors:
                set_module_tensor_to_device(module, name, "meta")
