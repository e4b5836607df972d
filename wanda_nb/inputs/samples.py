"""Calibration samples: token ids, or whatever else a model's forward takes, by its names; their checks and batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch.utils._pytree import tree_leaves

from ..blocks import input_embeddings, is_finite
from .text import check_tokens

Samples: TypeAlias = torch.Tensor | dict[str, torch.Tensor]


def check_samples(model, tokens, attention_mask=None) -> tuple[Samples, torch.Tensor | None]:
    """Token ids, or a dict without its attention mask; and the mask. Raises ValueError for what the model cannot read.

    tokens: LongTensor (samples, length), or a dict of tensors (samples, ...) by the names that the model's forward has.
    """
    if not isinstance(tokens, Mapping):
        if (reads := getattr(model, "main_input_name", "input_ids")) != "input_ids":
            raise ValueError(f"{type(model).__name__} reads no token ids alone: expected a dict, {{{reads!r}: ...}}.")
        check_tokens(model, tokens, attention_mask)
        return tokens, attention_mask
    if attention_mask is not None:
        raise ValueError(
            "attention_mask beside a dict of inputs: expected it in the dict, by the forward's name for it."
        )
    inputs = dict(tokens)
    _check_tensors(model, inputs)
    ids = inputs.get("input_ids")
    mask = None if ids is None else inputs.pop("attention_mask", None)
    for name, tensor in inputs.items():
        if name.endswith("input_ids"):
            check_tokens(model, tensor, mask if tensor is ids else None)
        if name.endswith("attention_mask") and not bool(tensor.all()):
            raise ValueError(
                f"{name} hides some positions, which would count in the statistics: only the padding of input_ids can "
                "be left out, by their attention_mask. Expected samples without padding here: give fewer, or cut them."
            )
    return inputs, mask


def _check_tensors(model, inputs: dict) -> None:
    """Raise ValueError unless inputs are what the forward takes: as many samples of each, all finite."""
    if not inputs:
        raise ValueError("There are no inputs: the dict is empty. Expected tensors by name, such as pixel_values.")
    taken = [name for name, kind in _parameters(model).items() if kind != inspect.Parameter.VAR_KEYWORD]
    for name, tensor in inputs.items():
        if name not in taken:
            raise ValueError(f"{type(model).__name__} takes no {name!r}: expected some of {', '.join(taken)}.")
        if not isinstance(tensor, torch.Tensor) or not tensor.ndim:
            given = "a single number" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{name} is {given}: expected a tensor (samples, ...).")
        if not is_finite(tensor):
            raise ValueError(f"{name} has values that are not finite: expected finite ones. Look at the preprocessing.")
    counts = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        listing = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"Numbers of samples: {listing}. Expected the same of each, and at least one.")


def _parameters(model) -> dict:
    return {name: given.kind for name, given in inspect.signature(model.base_model.forward).parameters.items()}


def samples_in(tokens: Samples) -> int:
    """The number of samples."""
    return len(tree_leaves(tokens)[0])


def run_quietly(model, inputs: dict) -> None:
    """Run the model without its head, and without a cache if it knows one."""
    parameters = _parameters(model)
    known = "use_cache" in parameters
    if inspect.Parameter.VAR_KEYWORD in parameters.values():  # handed on to the language model inside
        known = known or hasattr(model.config.get_text_config(), "use_cache")
    model.base_model(**inputs, **({"use_cache": False} if known else {}))


def batches(
    model, tokens: Samples, attention_mask, batch_size: int, enter: Callable[[dict], torch.Tensor]
) -> Iterator[tuple[int, dict]]:
    """For each batch, the number of its first sample and the keyword arguments for the model.

    enter: gives what enters the first block for such arguments; it shows at which positions a model puts tokens.
    """
    device = next(input_embeddings(model).parameters()).device
    inputs = {"input_ids": tokens} if isinstance(tokens, torch.Tensor) else tokens
    for start in range(0, samples_in(inputs), batch_size):
        rows = slice(start, start + batch_size)
        batch = {name: tensor[rows].to(device) for name, tensor in inputs.items()}
        mask = None if attention_mask is None else attention_mask[rows].to(device).bool()
        if mask is None or bool(mask.all()):
            yield start, batch
            continue
        for row, real in enumerate(mask):
            if bool(real.any()):
                sample = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                yield start + row, _without_padding(model, sample, real, enter)


def _without_padding(model, sample: dict, real: torch.Tensor, enter) -> dict:
    """The real tokens of a sample, at the positions that the model gives them in the padded window."""

    def beside_the_tokens(name, tensor):
        return tensor.shape == sample["input_ids"].shape and not name.startswith("decoder_")

    unpadded = {name: tensor[:, real] if beside_the_tokens(name, tensor) else tensor for name, tensor in sample.items()}
    mask = real[None].long()
    # without a mask, transformers would take a gap in the positions for the border between two texts
    in_place = {**unpadded, "position_ids": real.nonzero().T, "attention_mask": mask[:, real]}
    placeable = "position_ids" in _parameters(model)
    choices = [in_place, unpadded] if placeable and "position_ids" not in sample else [unpadded]
    expected = enter({**sample, "attention_mask": mask})
    if enter(unpadded).shape != expected.shape:

        def difference(inputs):  # shows which positions a model takes, where it embeds them
            return float((enter(inputs) - expected[:, real]).abs().max())

        found = min(choices, key=difference)
        known = difference(found) <= 8 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    else:  # images enter, or what a decoder reads: where the tokens are is not seen, but padding after them moves none
        found, known = choices[0], placeable or bool(real[: int(real.sum())].all())
    if not known:
        raise ValueError(
            f"{type(model).__name__} puts tokens at other positions if the padding before them is left out, and takes "
            "no position_ids. Pad on the right, or give samples of one length."
        )
    return found
