"""Calibration windows on their way through the model: what enters each block, and how the model calls it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from transformers import Cache

from ..blocks import decoder_blocks, eager, is_expert, linear_layers, needs_compiler, replaced_forward
from ..capture import AllInputsSeen, InputNorms, value_reads, write_count
from .sent import Sent

PLAIN = (bool, int, float, str, type(None))


class HiddenStates:
    """What enters the next block, for all calibration windows.

    Built by ``first_hidden_states``.
    hidden: batches (batch, length, width) in the model's dtype, views of one buffer, which every block overwrites in
    turn; a window with padding is a batch by itself, (1, real tokens, width).
    calls: ``[batch][block] -> (args, kwargs)``: masks, positions and whatever else the model passes on.
    """

    def __init__(self, hidden: list[torch.Tensor], calls: list[list[tuple]]):
        self.hidden = tuple(hidden)
        self.calls = calls
        self._sent = Sent(calls, self.hidden[0])

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Replace the input of block number ``index`` by its output."""
        for number, hidden in enumerate(self.hidden):
            hidden.copy_(self._run(number, index, block, device))

    def capture(self, index: int, block: nn.Module, device, sums) -> None:
        """Run block number ``index`` on every batch while ``sums``, an open InputNorms or InputGrams, watches.

        A forward pass that reads no tensor's values takes the same steps whenever it is called with the same shapes. So
        the first of each kind runs to its end; the others, where that is certain, stop at their last layer's input.
        """
        orders: dict[tuple, list[str] | None] = {}
        for number, hidden in enumerate(self.hidden):
            kind = _kind((hidden, self.calls[number][index]))
            sums.called, sums.stop_after = [], orders.get(kind)
            if kind in orders or needs_compiler(block):
                with suppress(AllInputsSeen):
                    self._run(number, index, block, device)
                continue
            with value_reads() as reads:
                self._run(number, index, block, device)
            orders[kind] = None if reads else sums.called

    def _run(self, number: int, index: int, block: nn.Module, device):
        call = args, kwargs = self._sent.call(number, index, device)
        before = tree_leaves(call)
        writes = [write_count(leaf) for leaf in before]
        with eager(block):
            output = block(self.hidden[number].to(device, copy=True), *args, **kwargs)
        after = tree_leaves(call)
        if [*map(id, before)] != [*map(id, after)] or writes != [write_count(leaf) for leaf in after]:
            raise ValueError(
                f"{type(block).__name__} is not supported: block {index} writes into what it is called with, and "
                "other blocks may read that. Expected blocks that hand on nothing but hidden states."
            )
        return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def first_hidden_states(
    model, tokens: torch.Tensor, attention_mask=None, batch_size: int = 4, allocate=torch.empty
) -> HiddenStates:
    """The hidden states (batch, length, width) that enter the first block, for all tokens (samples, length).

    The model's own code prepares masks and positions for each block while its blocks stand idle, so that only the
    embeddings are computed.
    attention_mask: (samples, length), 0 for padding; a window with padding is run by itself, without the padding, its
    tokens at their original positions.
    allocate: makes the buffer of the hidden states, called like torch.empty with shape, dtype and device.
    Raises ValueError for a model that does not run its blocks once each, in order, on nothing but the previous block's
    output and what is known before the first block; for a layer that its block never calls; and if no token is left.
    Introduced in notebook 03, "Stop before the first block".
    """
    blocks = decoder_blocks(model)
    buffer, hidden, calls = None, [], []
    shared: dict[tuple, torch.Tensor] = {}
    output_lengths: dict[type, int | None] = {}
    for row, inputs in _batches(model, blocks, tokens, attention_mask, batch_size, output_lengths):
        first, called = _idle_pass(model, blocks, inputs, output_lengths)
        if buffer is None:
            buffer = allocate((*tokens.shape, first.shape[-1]), dtype=first.dtype, device=first.device)
            _check_independent(model, called, _idle_pass(model, blocks, inputs, output_lengths, torch.cos)[1])
        hidden.append(buffer[row : row + len(first), : first.shape[1]])
        hidden[-1].copy_(first)
        calls.append(_share(called, shared))
    if buffer is None:
        raise ValueError("attention_mask hides every token of the windows at hand: expected at least one that counts.")
    return HiddenStates(hidden, calls)


def _batches(model, blocks, tokens, attention_mask, batch_size, output_lengths) -> Iterator[tuple[int, dict]]:
    """For each batch, the number of its first window and the keyword arguments for the model."""
    device = model.get_input_embeddings().weight.device
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size].to(device)
        mask = None if attention_mask is None else attention_mask[start : start + batch_size].to(device).bool()
        if mask is None or bool(mask.all()):
            yield start, {"input_ids": batch}
            continue
        for row, (window, real) in enumerate(zip(batch, mask, strict=True)):
            if bool(real.any()):
                yield start + row, _without_padding(model, blocks, window[None], real, output_lengths)


def _without_padding(model, blocks, window, real, output_lengths) -> dict:
    """The real tokens of a window (1, length), at the positions that the model gives them in the padded window."""
    unpadded = {"input_ids": window[:, real]}
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return unpadded
    padded = {"input_ids": window, "attention_mask": real[None].long()}
    expected = _idle_pass(model, blocks, padded, output_lengths)[0][:, real]
    # without a mask, transformers would take a gap in the positions for the border between two texts
    in_place = {**unpadded, "position_ids": real.nonzero().T, "attention_mask": padded["attention_mask"][:, real]}

    def difference(inputs):  # shows which positions a model takes, where it embeds them
        return float((_idle_pass(model, blocks, inputs, output_lengths)[0] - expected).abs().max())

    return min(in_place, unpadded, key=difference)


def _idle_pass(model, blocks, inputs, output_lengths, change=None):
    """What enters the first block, and the (args, kwargs) of each block, while no block computes anything.

    output_lengths: for each class of blocks the length of the tuple that they return, None for a bare tensor; the first
    block of a class is run to find out, and the answer is added.
    change: a function of the input; idle blocks return its value in place of the input, and of None for all else.
    """
    first: list[torch.Tensor] = []
    calls: list[tuple] = []
    outputs: list[tuple] = []

    def stand_in(index, block, forward):
        def idle(*args, **kwargs):
            if not args and "hidden_states" not in kwargs:
                raise _unsupported(model, f"block {index} is called with no hidden states, but {sorted(kwargs)}")
            x, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
            if index != len(calls):
                raise _wrong_order(model, blocks, [*range(len(calls)), index])
            if not first:
                first.append(x.clone())
            elif not _equal(x, outputs[-1][0]) or write_count(outputs[-1][0]) != outputs[-1][1]:
                raise _unsupported(model, f"it changes hidden states between block {index - 1} and block {index}")
            calls.append((args, kwargs))
            if any(isinstance(leaf, Cache) for leaf in tree_leaves(calls[-1])):
                raise _unsupported(model, f"block {index} is given a cache, although use_cache=False asks for none")
            if type(block) not in output_lengths:
                with InputNorms(block) as norms:
                    output = forward(x.clone(), *args, **kwargs)
                _check_all_called(index, block, norms)
                output_lengths[type(block)] = None if isinstance(output, torch.Tensor) else len(output)
            length = output_lengths[type(block)]
            y = x if change is None else change(x)
            outputs[:] = [(y, write_count(y))]
            return y if length is None else (y, *[change and y] * (length - 1))

        return idle

    pairs = [(block, stand_in(index, block, block.forward)) for index, block in enumerate(blocks)]
    with replaced_forward(*pairs), eager(model):
        model.base_model(**inputs, use_cache=False)
    if len(calls) != len(blocks) or first[0].shape[:-1] != inputs["input_ids"].shape:
        raise _wrong_order(model, blocks, list(range(len(calls))))
    return first[0], calls


def _wrong_order(model, blocks, order) -> ValueError:
    return _unsupported(
        model,
        f"expected a model that runs its {len(blocks)} blocks once each, in order, on hidden states "
        f"(batch, length, width); it ran {order[-8:]}",
    )


def _unsupported(model, why: str) -> ValueError:
    return ValueError(f"{type(model).__name__} is not supported: {why}.")


def _check_all_called(index: int, block: nn.Module, norms) -> None:
    """Raise ValueError if the block did not call a layer that is not an expert's."""
    for name in linear_layers(block):
        if name not in norms and not is_expert(block, name):
            raise ValueError(f"{type(block).__name__} is not supported: {never_called(name, index)}")


def never_called(name: str, index: int) -> str:
    """The reason why a layer that is not an expert's has seen no input."""
    if "cross" in name.lower() or "encoder" in name.lower():
        return (
            f"{name} in block {index} belongs to cross-attention, which reads an encoder's output. "
            "Expected a decoder-only language model, not the decoder of an encoder-decoder."
        )
    return (
        f"{name} in block {index} is never called as a module, so its input cannot be seen. "
        "Expected a block that calls each of its linear layers."
    )


def _check_independent(model, calls, changed_calls) -> None:
    """Raise ValueError if two passes, whose blocks put out different values, call a block differently."""
    for index, (call, changed) in enumerate(zip(calls, changed_calls, strict=True)):
        (leaves, spec), (changed_leaves, changed_spec) = tree_flatten(call), tree_flatten(changed)
        if spec != changed_spec or not all(map(_equal, leaves, changed_leaves)):
            raise _unsupported(
                model,
                f"block {index} is called with something that depends on what earlier blocks put out. "
                "Expected blocks that hand on nothing but hidden states",
            )


def _equal(leaf, other) -> bool:
    if not isinstance(leaf, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(leaf) is type(other) and (not isinstance(leaf, PLAIN) or leaf == other)
    return leaf is other or (leaf.dtype == other.dtype and torch.equal(leaf, other))


def _share(calls: list[tuple], earlier: dict[tuple, torch.Tensor]) -> list[tuple]:
    """The same calls, each tensor replaced by an equal one of an earlier batch, so that most are held only once."""
    leaves, spec = tree_flatten(calls)
    shared: dict[int, torch.Tensor] = {}  # one mask for all blocks is compared once
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            if id(leaf) not in shared:
                first = earlier.setdefault((place, leaf.shape, leaf.dtype, leaf.device), leaf)
                shared[id(leaf)] = first if torch.equal(first, leaf) else leaf
            leaves[place] = shared[id(leaf)]
    return tree_unflatten(leaves, spec)


def _kind(call) -> tuple:
    """What decides the steps of a forward pass that reads no tensor's values: shapes, dtypes and all else."""
    leaves, spec = tree_flatten(call)
    return repr(spec), tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf if isinstance(leaf, PLAIN) else id(leaf)
        for leaf in leaves
    )
