"""Calibration windows on their way through the model: what enters each block, and how the model calls it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from transformers import Cache

from ..blocks import decoder_blocks, linear_layers, weight_matrix
from ..capture import AllInputsSeen, InputNorms, value_reads, write_count
from ..patched import eager, needs_compiler, replaced_forward
from .refusals import PLAIN, check_all_called, check_independent, check_shape, equal, unsupported, wrong_order
from .samples import batches, run_quietly, samples_in
from .sent import Sent


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
            output = self._run(number, index, block, device)
            check_shape(index, block, hidden, output)
            hidden.copy_(output)
            del output  # or it would lie beside the next batch

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
    model,
    tokens: torch.Tensor | Mapping[str, torch.Tensor],
    attention_mask=None,
    batch_size: int = 4,
    allocate=torch.empty,
    blocks=None,
) -> HiddenStates:
    """The hidden states (batch, length, width) that enter the first block, for all tokens (samples, length).

    The model's own code prepares masks and positions for each block while its blocks stand idle, so that only what
    comes before and after them is computed: of a language model, the embeddings.
    tokens: or what else the model's forward takes, a dict of tensors (samples, ...) by its names for them.
    attention_mask: (samples, length), 0 for padding; a window with padding is run by itself, without the padding, its
    tokens at their original positions.
    allocate: makes the buffer of the hidden states, called like torch.empty with shape, dtype and device.
    blocks: as for ``decoder_blocks``.
    Raises ValueError for a model that does not run its blocks once each, in order, on nothing but the previous block's
    output and what is known before the first block; for a layer that its block never calls; and if no token is left.
    Introduced in notebook 03, "Stop before the first block".
    """
    blocks = decoder_blocks(model, blocks)
    buffer, hidden, calls = None, [], []
    shared: dict[tuple, torch.Tensor] = {}
    output_lengths: dict[type, int | None] = {}
    idle_pass = partial(_idle_pass, model, blocks, output_lengths)
    for row, inputs in batches(model, tokens, attention_mask, batch_size, lambda inputs: idle_pass(inputs)[0]):
        first, called = idle_pass(inputs)
        if isinstance(tokens, torch.Tensor) and first.shape[:-1] != inputs["input_ids"].shape:
            raise wrong_order(model, blocks, list(range(len(called))))
        if buffer is None:
            length = max(first.shape[1], 0 if attention_mask is None else attention_mask.shape[1])
            shape = samples_in(tokens), length, *first.shape[2:]
            buffer = allocate(shape, dtype=first.dtype, device=first.device)
            check_independent(model, called, idle_pass(inputs, torch.cos)[1])
        hidden.append(buffer[row : row + len(first), : first.shape[1]])
        hidden[-1].copy_(first)
        calls.append(_share(called, shared))
    if buffer is None:
        raise ValueError("attention_mask hides every token of the windows at hand: expected at least one that counts.")
    return HiddenStates(hidden, calls)


def samples_and_length(model, tokens, blocks) -> tuple[int, int]:
    """The number of samples, and the positions of each of them in the first block, for which one enters the model."""
    if isinstance(tokens, torch.Tensor):
        return tuple(tokens.shape)
    one = tree_map(lambda tensor: tensor[:1], tokens)
    hidden = first_hidden_states(model, one, None, 1, blocks=blocks).hidden[0]
    return samples_in(tokens), positions(hidden, blocks[0])


def positions(hidden: torch.Tensor, block: nn.Module) -> int:
    """How many positions there are in a batch of hidden states that enter a block, wherever their channels are."""
    return hidden.numel() // weight_matrix(next(iter(linear_layers(block).values()))).shape[1]


def _idle_pass(model, blocks, output_lengths, inputs, change=None):
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
                raise unsupported(model, f"block {index} is called with no hidden states, but {sorted(kwargs)}")
            x, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
            if index != len(calls):
                raise wrong_order(model, blocks, [*range(len(calls)), index])
            if not first:
                first.append(x.clone())
            elif not equal(x, outputs[-1][0]) or write_count(outputs[-1][0]) != outputs[-1][1]:
                raise unsupported(model, f"it changes hidden states between block {index - 1} and block {index}")
            calls.append((args, kwargs))
            if any(isinstance(leaf, Cache) for leaf in tree_leaves(calls[-1])):
                raise unsupported(model, f"block {index} is given a cache, although use_cache=False asks for none")
            if type(block) not in output_lengths:
                with InputNorms(block) as norms:
                    output = forward(x.clone(), *args, **kwargs)
                check_all_called(index, block, norms)
                output_lengths[type(block)] = None if isinstance(output, torch.Tensor) else len(output)
                check_shape(index, block, x, output)
            length = output_lengths[type(block)]
            y = x if change is None else change(x)
            outputs[:] = [(y, write_count(y))]
            return y if length is None else (y, *[change and y] * (length - 1))

        return idle

    pairs = [(block, stand_in(index, block, block.forward)) for index, block in enumerate(blocks)]
    with replaced_forward(*pairs), eager(model):
        run_quietly(model, inputs)
    if len(calls) != len(blocks) or len(first[0]) != samples_in(inputs):
        raise wrong_order(model, blocks, list(range(len(calls))))
    return first[0], calls


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
