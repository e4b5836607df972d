"""A model whose weights stay on disk: its modules on the meta device, and their names in the checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from ..blocks import block_names, decoder_blocks, linear_layers
from ..reporting.identity import model_identity
from .shards import FLOATS, INDEX, SINGLE, Shards, check_finite

EXPECTED_ALL = (
    ": expected all tensors of the model in config.json. Is the download complete? If it names them in an older "
    "way, load the model once and save it with model.save_pretrained(folder)."
)


class Skeleton:
    """A checkpoint folder and its model, whose parameters are on the meta device until they are put in place.

    Raises ValueError, from headers alone, for a checkpoint that does not fit its config.json or is quantised.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None = None):
        self.shards = Shards(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(f"{folder} is quantised: prune the unquantised checkpoint, then quantise the result.")
        if file := getattr(config, "transformers_weights", None):
            raise ValueError(
                f"config.json names {file} as its weights: expected {INDEX} or {SINGLE}. Load the model once and save "
                "it with model.save_pretrained(another folder)."
            )
        stored = [FLOATS[kind] for kind in self.shards.kinds.values() if kind in FLOATS]
        self.dtype = dtype or config.dtype or stored[0]
        with init_empty_weights(include_buffers=False):
            self.model = AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        self.blocks = decoder_blocks(self.model)
        prefixes = [name + "." for name in block_names(self.model)]
        stored_name = self._naming(prefixes[0] + next(iter(self.blocks[0].state_dict())))
        #: For each block, {name inside it: name in the checkpoint}.
        self.names = [
            {name: stored_name(prefix + name) for name in block.state_dict()}
            for prefix, block in zip(prefixes, self.blocks, strict=True)
        ]
        inside = {name for names in self.names for name in names.values()}
        #: Names in the checkpoint of all that lies outside the blocks.
        self.outside_blocks = [name for name in self.shards.files if name not in inside]
        base = next((name for name, module in self.model.named_modules() if module is self.model.base_model), "")
        outside = [n for n in self.model.state_dict() if n.startswith(base) and not n.startswith(tuple(prefixes))]
        stored_names = {name: self._stored(name, stored_name) for name in outside}
        #: What the first hidden states are computed with: {name in the model: name in the checkpoint}.
        self.before_blocks = {name: stored for name, stored in stored_names.items() if stored is not None}
        self._check()

    def _naming(self, example: str):
        """A function from a name in the model to the one in the checkpoint, which may lack or add the base's prefix."""
        base = self.model.base_model_prefix + "."
        for stored_name in (lambda name: name, lambda name: name.removeprefix(base), lambda name: base + name):
            if stored_name(example) in self.shards.files:
                return stored_name
        return lambda name: name

    def _stored(self, name: str, stored_name) -> str | None:
        """The stored name of a tensor outside the blocks, or of one that it is tied to, as in ``from_pretrained``.

        None for a buffer that is not stored. Raises ValueError for a parameter that is not.
        """
        tied = getattr(self.model, "all_tied_weights_keys", {})  # {name: name of the tensor that it shares}
        root = tied.get(name, name)
        candidates = map(stored_name, [name, root, *(other for other, source in tied.items() if source == root)])
        stored = next((candidate for candidate in candidates if candidate in self.shards.files), None)
        if stored is None and name in dict(self.model.named_parameters(remove_duplicate=False)):
            raise ValueError(f"{stored_name(name)} is in no shard{EXPECTED_ALL}")
        return stored

    def _check(self) -> None:
        """Raise ValueError unless every tensor of every block is stored, in the shape that the model has."""
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
                        "Prune the unquantised checkpoint, then quantise the result."
                    )

    def identity(self) -> dict:
        """What the model computes, the same as of the model in memory; see ``model_identity``."""
        stored = dict(self.before_blocks)
        for prefix, names in zip(block_names(self.model), self.names, strict=True):
            stored |= {f"{prefix}.{name}": its_name for name, its_name in names.items()}
        return model_identity(self.model, lambda name, tensor: self.shards.sample(stored[name]))

    def cast(self, module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A module's tensors, {name in it: tensor}, in the dtypes that it computes in. Empties ``tensors``, for memory.

        Raises ValueError for a value that the dtype cannot hold.
        """
        own, cast = module.state_dict(), {}
        for name in list(tensors):
            tensor = cast[name] = tensors.pop(name)
            if tensor.is_floating_point() and tensor.dtype != own[name].dtype:
                cast[name] = tensor.to(own[name].dtype)
                check_finite(cast[name], f"{name} in {own[name].dtype}", "Compute in a dtype that holds its values.")
        return cast
