"""Calibration windows on their way through the model: what enters the blocks, and how the model calls them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress

import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from transformers import Cache

from ..blocks import decoder_blocks, eager, is_expert, linear_layers, needs_compiler, replaced_forward
from ..capture import InputNorms, Seen, value_reads, written

PLAIN = (bool, int, float, str, type(None))


class HiddenStates:
    """What enters the next block, for all calibration windows.

    Built by ``first_hidden_states``. hidden: batches (batch, length, width) in the model's dtype, views of one buffer,
    which every block overwrites in turn; a window with padding is a batch by itself, (1, real tokens, width).
    calls: ``[batch][block] -> (args, kwargs)``: masks, positions and whatever else the model passes on.
    """

    def __init__(self, hidden: list[torch.Tensor], calls: list[list[tuple]]):
        self.hidden = tuple(hidden)
        self.calls = calls

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Replace what entered block number ``index`` by what leaves it."""
        for number, hidden in enumerate(self.hidden):
            output = self._run(number, index, block, device)
            hidden.copy_(output if isinstance(output, torch.Tensor) else output[0])

    def capture(self, index: int, block: nn.Module, device, sums) -> None:
        """Run block number ``index`` on every batch while ``sums``, an open InputNorms or InputGrams, watches.

        A forward pass that reads no tensor's values takes the same steps each time it is called with the same shapes.
        So the first of a kind is run to its end; the others, where that is certain, stop at their last layer's input.
        """
        enough: dict[tuple, list[str] | None] = {}
        for number, hidden in enumerate(self.hidden):
            kind = _kind((hidden, self.calls[number][index]))
            sums.called, sums.enough = [], enough.get(kind)
            if kind in enough or needs_compiler(block):
                with suppress(Seen):
                    self._run(number, index, block, device)
                continue
            with value_reads() as reads:
                self._run(number, index, block, device)
            enough[kind] = None if reads else sums.called

    def _run(self, number: int, index: int, block: nn.Module, device):
        call = args, kwargs = send_to_device(self.calls[number][index], device)
        before = tree_leaves(call)
        writes = [written(leaf) for leaf in before]
        with eager(block):
            output = block(self.hidden[number].to(device, copy=True), *args, **kwargs)
        after = tree_leaves(call)
        if [*map(id, before)] != [*map(id, after)] or writes != [written(leaf) for leaf in after]:
            raise ValueError(
                f"{type(block).__name__} is not supported: block {index} writes into what it is called with, which "
                "other blocks may read. Expected blocks that hand on nothing but hidden states."
            )
        return output


@torch.no_grad()
def first_hidden_states(
    model, tokens: torch.Tensor, attention_mask=None, batch_size: int = 4, allocate=torch.empty
) -> HiddenStates:
    """The hidden states (batch, length, width) that enter the first block, for all tokens (samples, length).

    The model's own code prepares masks and positions for each block, while its blocks stand idle, so
    only the embeddings are computed. attention_mask: (samples, length), 0 for padding; a window that has some is run
    by itself, without it, its tokens at the positions where they were. allocate: what makes their
    buffer, called like torch.empty with shape, dtype and device.
    Raises ValueError for a model that does not run its blocks once each, in order, on nothing but each other's output
    and what can be known before them; for a layer that its block never calls; and where no token is left.
    Introduced in notebook 03, "Stop before the first block".
    """
    blocks = decoder_blocks(model)
    buffer, hidden, calls = None, [], []
    known: dict[tuple, torch.Tensor] = {}
    answers: dict[type, int | None] = {}
    for row, inputs in _batches(model, blocks, tokens, attention_mask, batch_size, answers):
        first, called = _idle_pass(model, blocks, inputs, answers)
        if buffer is None:
            buffer = allocate((*tokens.shape, first.shape[-1]), dtype=first.dtype, device=first.device)
            _check_independent(model, called, _idle_pass(model, blocks, inputs, answers, torch.cos)[1])
        hidden.append(buffer[row : row + len(first), : first.shape[1]])
        hidden[-1].copy_(first)
        calls.append(_share(called, known))
    if buffer is None:
        raise ValueError("attention_mask hides every token of the windows at hand: no text is left.")
    return HiddenStates(hidden, calls)


def _batches(model, blocks, tokens, attention_mask, batch_size, answers) -> Iterator[tuple[int, dict]]:
    """Number of the first window, and what to call the model with, for each batch."""
    where = model.get_input_embeddings().weight.device
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size].to(where)
        mask = None if attention_mask is None else attention_mask[start : start + batch_size].to(where).bool()
        if mask is None or bool(mask.all()):
            yield start, {"input_ids": batch}
            continue
        for row, (window, real) in enumerate(zip(batch, mask, strict=True)):
            if bool(real.any()):
                yield start + row, _without_padding(model, blocks, window[None], real, answers)


def _without_padding(model, blocks, window, real, answers) -> dict:
    """The real tokens of a window (1, length), in the positions that the model gives them in the padded one."""
    unpadded = {"input_ids": window[:, real]}
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return unpadded
    padded = {"input_ids": window, "attention_mask": real[None].long()}
    expected = _idle_pass(model, blocks, padded, answers)[0][:, real]
    # without a mask, transformers would take a gap in the positions for the border between two texts
    in_place = {**unpadded, "position_ids": real.nonzero().T, "attention_mask": padded["attention_mask"][:, real]}

    def difference(inputs):  # models that count positions by the mask show it where positions are embedded
        return float((_idle_pass(model, blocks, inputs, answers)[0] - expected).abs().max())

    return min(in_place, unpadded, key=difference)


def _idle_pass(model, blocks, inputs, answers, change=None):
    """What enters the first block, and (args, kwargs) of each, while all of them compute nothing.

    answers: how blocks of a class answer, a tensor (None) or so long a tuple; the first of each is run to see.
    change: what idle blocks put out in place of what went in, also in place of None for all else that they put out.
    """
    first: list[torch.Tensor] = []
    calls: list[tuple] = []
    left: list[tuple] = []

    def stand_in(index, block, forward):
        def idle(*args, **kwargs):
            if not args and "hidden_states" not in kwargs:
                raise _unsupported(model, f"block {index} is called with no hidden states, but {sorted(kwargs)}")
            x, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
            if index != len(calls):
                raise _wrong_order(model, blocks, [*range(len(calls)), index])
            if not first:
                first.append(x.clone())
            elif not _equal(x, left[-1][0]) or written(left[-1][0]) != left[-1][1]:
                raise _unsupported(model, f"it changes hidden states between block {index - 1} and block {index}")
            calls.append((args, kwargs))
            if any(isinstance(leaf, Cache) for leaf in tree_leaves(calls[-1])):
                raise _unsupported(model, f"block {index} is given a cache, although use_cache=False asks for none")
            if type(block) not in answers:
                with InputNorms(block) as seen:
                    output = forward(x.clone(), *args, **kwargs)
                _check_all_called(index, block, seen)
                answers[type(block)] = None if isinstance(output, torch.Tensor) else len(output)
            length = answers[type(block)]
            y = x if change is None else change(x)
            left.append((y, written(y)))
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


def _check_all_called(index: int, block: nn.Module, seen) -> None:
    """Raises ValueError for a layer, other than an expert's, that a block does not call."""
    for name in linear_layers(block):
        if name not in seen and not is_expert(block, name):
            raise ValueError(f"{type(block).__name__} is not supported: {never_called(name, index)}")


def never_called(name: str, index: int) -> str:
    """Why a layer that is no expert's may have seen nothing."""
    if "cross" in name.lower() or "encoder" in name.lower():
        return (
            f"{name} in block {index} belongs to cross-attention, which reads an encoder's output. "
            "Expected a decoder-only language model, not the decoder of an encoder-decoder."
        )
    return (
        f"{name} in block {index} is never called as a module, so what goes into it cannot be seen. "
        "Expected a block that calls each of its linear layers."
    )


def _check_independent(model, calls, others) -> None:
    """Raises ValueError where the calls of two passes differ, in which blocks put out different things."""
    for index, (call, other) in enumerate(zip(calls, others, strict=True)):
        (leaves, spec), (other_leaves, other_spec) = tree_flatten(call), tree_flatten(other)
        if spec != other_spec or not all(map(_equal, leaves, other_leaves)):
            raise _unsupported(
                model,
                f"block {index} is called with something that depends on what earlier blocks put out. "
                "Expected blocks that hand on nothing but hidden states",
            )


def _equal(leaf, other) -> bool:
    if not isinstance(leaf, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(leaf) is type(other) and (not isinstance(leaf, PLAIN) or leaf == other)
    return leaf is other or (leaf.dtype == other.dtype and torch.equal(leaf, other))


def _share(calls: list[tuple], known: dict[tuple, torch.Tensor]) -> list[tuple]:
    """The same calls, each tensor replaced by an equal one of an earlier batch: most are then held only once."""
    leaves, spec = tree_flatten(calls)
    shared: dict[int, torch.Tensor] = {}  # one mask for all blocks is compared once
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            if id(leaf) not in shared:
                first = known.setdefault((place, leaf.shape, leaf.dtype, leaf.device), leaf)
                shared[id(leaf)] = first if torch.equal(first, leaf) else leaf
            leaves[place] = shared[id(leaf)]
    return tree_unflatten(leaves, spec)


def _kind(call) -> tuple:
    """What decides the steps of a forward pass that reads no tensor's values: shapes, and all that is no tensor."""
    leaves, spec = tree_flatten(call)
    return repr(spec), tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf if isinstance(leaf, PLAIN) else id(leaf)
        for leaf in leaves
    )
