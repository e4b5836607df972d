"""What the block loop will hold on the device that computes: for a batch, by a dry pass; for a layer, counted."""

from __future__ import annotations

import copy
import weakref
from contextlib import ExitStack
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .blocks import block_names, decoder_blocks, linear_layers, weight_matrix
from .capture import InputNorms
from .hardware import activation_bytes, free_memory
from .inputs.hidden_states import positions
from .inputs.samples import run_quietly, samples_in
from .patched import eager, replaced_tensors
from .reporting.report import gib
from .scores import magnitude_score, wanda_score
from .selection import DEVICE_SLAB
from .updates import BLOCK


class Allocations(TorchDispatchMode):
    """While open, counts the bytes of the tensors that are made on a device, while they live, and the most at once."""

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device = device
        self.alive = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet()  # storages

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._known.update(x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        for tensor in tree_leaves(result):
            here = isinstance(tensor, torch.Tensor) and tensor.device.type == self.device
            if here and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.alive)
        return result

    def _freed(self, size: int) -> None:
        self.alive -= size


class _Fused(TorchFunctionMode):
    """Attention as fused kernels compute it, which hold no scores (length, length)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is scaled_dot_product_attention and torch.backends.cuda.mem_efficient_sdp_enabled():
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        return func(*args, **(kwargs or {}))


class Pass(NamedTuple):
    """What one batch takes on its way through the model, beyond weights and hidden states."""

    #: Bytes at the peak within a block whose inputs are watched, its statistics not counted; those of the batch's
    #: hidden states.
    block: int
    hidden: int
    #: Bytes of what several blocks are called with, and of what is for one block alone, in all blocks together.
    common: int
    own: int


class _Seen(Exception):
    """Raised by a hook after the last block."""


@torch.no_grad()
def dry_pass(model, batch: dict[str, torch.Tensor], statistic=InputNorms, blocks=None) -> Pass:
    """What a batch of inputs takes, found by a pass through a twin whose blocks are on the meta device.

    blocks: as for ``decoder_blocks``. statistic: what the capture sums up, InputNorms or InputGrams. Blocks that look
    at values, which are not there, are taken to hold the inputs and outputs of all layers at once. What blocks hand on
    to one another besides hidden states (keys and values that some share) is not counted.
    """
    names = block_names(model, blocks)
    twin = _twin(model, names)
    blocks, count, most, started = [*map(twin.get_submodule, names)], Allocations(), [], [0]
    entered: list[tuple[int, int]] = []  # bytes of what enters the first block, and positions
    given: dict[tuple, tuple] = {}  # a tensor, and the blocks that are called with it

    def enter(block, args, kwargs):
        others = tree_leaves((args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}))
        for x in others:
            if isinstance(x, torch.Tensor):
                given.setdefault((x.data_ptr(), x.shape, x.dtype), (x, set()))[1].add(block)
        moved = send_to_device((args, kwargs), "meta")
        x = moved[0][0] if args else moved[1]["hidden_states"]
        entered.append((x.nbytes, positions(x, blocks[0])))
        count.peak = started[0] = count.alive
        return moved

    def leave(block, *_):
        most.append(count.peak - started[0])
        if block is blocks[-1]:
            raise _Seen

    with eager(twin), _Fused(), count, ExitStack() as stack:
        for block in blocks:
            stack.enter_context(statistic(block))
            for layer in linear_layers(block).values():  # statistics that earlier batches have left
                layer(layer.weight.new_empty(1, weight_matrix(layer).shape[1], *layer.weight.shape[2:]))
            block.register_forward_pre_hook(enter, with_kwargs=True)
            block.register_forward_hook(leave)
        try:
            run_quietly(twin, {name: tensor.cpu() for name, tensor in batch.items()})
        except _Seen:
            pass
        except RuntimeError:
            most.append(entered[0][1] * max(map(activation_bytes, blocks)))
    common, own = (
        sum(x.nbytes for x, readers in given.values() if (len(readers) > 1) == several) for several in (True, False)
    )
    return Pass(max(most), entered[0][0], common, own)


def _twin(model, names: list[str]):
    """A copy of a model that takes no memory: its blocks are on the meta device, the other weights are zeros."""
    weights = {name: tensor.to("meta") for name, tensor in model.named_parameters(remove_duplicate=False)}
    with replaced_tensors(model, weights):
        twin = copy.deepcopy(model).eval()
    inside = {part for name in names for part in twin.get_submodule(name).to("meta").modules()}
    for part in set(twin.modules()) - inside:
        for name, weight in part.named_parameters(recurse=False):
            zero = torch.zeros((), dtype=weight.dtype)
            setattr(part, name, nn.Parameter(zero.expand(weight.shape), requires_grad=False))
    return twin


class Need(NamedTuple):
    """Bytes that the block loop holds on the device that computes, at the peak."""

    #: Of the hidden states of all windows, which may also lie in CPU memory, and of everything else.
    hidden: int
    others: int

    def leaves_room(self, free: int) -> bool:
        """Whether the hidden states may lie on the device, of which so many bytes are free."""
        return self.hidden <= min(free // 3, free - self.others)

    def check(self, device: torch.device) -> None:
        """Raise ValueError if the device has too little free memory even without the hidden states."""
        if self.others > (free := free_memory(device)):
            raise ValueError(
                f"{device} has {gib(free)} of memory free, but {gib(self.others)} are needed there at one time. "
                "Choose a smaller batch_size, end what else is using it, or take device='cpu'."
            )


def need(
    model, plan, tokens, attention_mask, batch_size: int | None, there: int, starting: int = 0, blocks=None
) -> Need:
    """What the loop takes on a device where so many bytes of blocks are ``there`` at one time.

    tokens: or a dict of inputs; None if no block is run. blocks: as for ``decoder_blocks``. starting: bytes of weights
    that are there when the first hidden states are computed; 0 if that is done elsewhere.
    """
    blocks = decoder_blocks(model, blocks)
    selection = max(selection_bytes(plan, block) for block in blocks)
    if tokens is None:
        return Need(0, there + selection)
    samples, windows = samples_in(tokens), min(batch_size, samples_in(tokens))
    first = {"input_ids": torch.zeros_like(tokens)} if isinstance(tokens, torch.Tensor) else tokens
    batch = dry_pass(model, tree_map(lambda tensor: tensor[:windows], first), plan.statistic, blocks)
    batches = -(-samples // windows)
    calls = batches * batch.own if starting else batch.own // len(blocks)
    # masks are alike in all batches; an encoder's output, which all blocks of a decoder read, is not
    calls += batch.common * (batches if getattr(model.config, "is_encoder_decoder", False) else 1)
    if attention_mask is not None:  # a window with padding has a mask, and positions, of its own
        counts = attention_mask.bool()
        width = model.dtype.itemsize if model.config._attn_implementation == "eager" else 1
        padded = int((counts.any(dim=1) & ~counts.all(dim=1)).sum())
        calls += padded * (batch.common + counts.shape[1] ** 2 * width)
    statistics = max(statistic_bytes(plan, block) for block in blocks)
    running = there + calls + max(statistics + batch.block + batch.hidden, selection)
    beginning = starting + calls + batch.block + 4 * batch.hidden if starting else 0
    # A twelfth for what is not counted, the libraries' own workspaces: on an H200 it was a seventeenth, 116 of 1972 MB.
    others = max(running, beginning) * 13 // 12
    return Need(batch.hidden * samples // windows, others)


def selection_bytes(plan, block) -> int:
    """The most that pruning a block's layers holds at one time: statistics, masks, a score, what ranking it takes."""
    kept = most = 0
    for layer in linear_layers(block).values():
        W = weight_matrix(layer)
        most = max(most, kept + (_update_bytes(plan, W) if plan.update else _ranking_bytes(plan, W)))
        if _needs_factor(plan):
            kept = 4 * W.shape[1] ** 2  # the last factor
        elif not plan.update:
            kept += W.numel()  # all masks
    return most + statistic_bytes(plan, block)


def statistic_bytes(plan, block) -> int:
    """The norms or Hessians of a block's layers."""
    power = 2 if plan.update else 1
    return sum(4 * weight_matrix(layer).shape[1] ** power for layer in linear_layers(block).values())


def _ranking_bytes(plan, W: torch.Tensor) -> int:
    """What scoring a layer and ranking the scores hold, the mask included. A weight's bytes are counted in the code."""
    weights, slab = W.numel(), min(W.numel(), DEVICE_SLAB)
    narrow, by_size = W.element_size() == 2, plan.score is magnitude_score
    scoring = (6 if narrow else 4) if by_size else (6 if narrow else 8) if plan.score is wanda_score else 16
    # of 16-bit sizes many are alike, and more of them at the threshold than are to go
    tied = narrow and (plan.group == "input" or (by_size and plan.group == "output"))
    ranking = 8.25 if plan.nm else (12 if tied else 2) + (4 if plan.group == "input" else 0)  # beside scores and mask
    if plan.goes_by_rows:
        held = weights + max(scoring, 4 + ranking) * slab
    elif plan.group == "running-sum":
        held = 25 * weights
    else:
        held = max(scoring * weights, 5 * weights + ranking * slab)
    return int(held) + 16 * sum(W.shape)


def _needs_factor(plan) -> bool:
    """Whether a plan's update needs the factor of a layer's Hessian."""
    return plan.update is not None and (plan.update != "least-squares" or plan.score is None)


def _update_bytes(plan, W: torch.Tensor) -> int:
    """What the factor of a layer's Hessian, and then the update with it, hold; least squares may need no factor."""
    rows, width = W.shape
    if plan.update == "least-squares":  # the mask, the solution, residual, direction, its image, a product; gram damped
        solving = (25 if W.element_size() == 2 else 21) * W.numel() + 4 * width**2 + 16 * sum(W.shape)
        if not _needs_factor(plan):
            return max(_ranking_bytes(plan, W), solving)
        return max(_update_bytes(plan._replace(update="iterative"), W), 4 * width**2 + solving)
    errors = 4 * rows * min(width, BLOCK)
    if plan.update == "one-shot":
        choosing = max(_ranking_bytes(plan, W), 6 * W.numel() + errors)
    else:  # so many columns at a time; of 16-bit weights some scores are alike
        choosing = 6 * W.numel() + errors * (1.3 if plan.nm else 5 if W.element_size() == 2 else 3.7)
    updating = 4 * width**2 + W.element_size() * W.numel() + choosing + 16 * sum(W.shape)
    return int(max(19 * width**2 + 16 * sum(W.shape), updating))
