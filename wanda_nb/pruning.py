"""The block loop: capture, select, propagate, one decoder block at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from .capture import InputNorms, first_hidden_states
from .masks import GROUPS, check_group, check_sparsity, check_width, nm_mask, parse_pattern, prune_mask
from .models import check_weights, decoder_blocks, linear_layers, weight_matrix
from .progress import Clock, PeakMemory, progress_bar
from .results import Report
from .scores import METHODS, Method
from .text import check_tokens

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 16384


def prune(
    model,
    tokens: torch.Tensor | None,
    method: str | Callable = "wanda",
    sparsity: float | None = None,
    *,
    pattern: str | None = None,
    group: str | None = None,
    attention_mask: torch.Tensor | None = None,
    device=None,
    batch_size: int | None = None,
) -> Report:
    """Remove weights from all linear layers of all decoder blocks, in place, with no retraining.

    Block by block: run the block on its inputs and note the norm of every input channel, prune its linear
    layers, run it again, so that the next block sees what the pruned one puts out. Embeddings, norms and head stay.

    tokens: calibration windows, LongTensor (samples, length); None will do for magnitude.
    method: ``"wanda"``, ``"magnitude"`` or your own ``score(W, norm) -> (out, in)``.
    sparsity: the fraction of each comparison group to remove, in [0, 1); 0.5 unless a pattern says it.
    pattern: N:M such as ``"2:4"``, which keeps 2 of every 4 weights along the input.
    group: ``"output"``, ``"input"`` or ``"layer"``; by default the one the method was published with (Wanda output,
    magnitude layer). A pattern brings its own.
    attention_mask: (samples, length), 0 for padding, which then counts in no statistic.
    device: where to compute; with the model in CPU memory and ``"cuda"``, one block at a time visits the GPU.
    batch_size: windows at a time.

    Everything that can be wrong is refused with a ValueError before any weight changes, the first window
    being run through the whole dense model for that and for the estimate of time. An activation that overflows
    only in a later window stops the run, and the message says at which block.
    Introduced in notebook 00, "Prune", and built by hand in notebook 03; section 3 and algorithm 1 of the paper.
    """
    plan = _plan(method, sparsity, pattern, group)
    blocks = decoder_blocks(model)
    check_weights(model, blocks)
    if plan.nm:
        _check_widths(blocks, plan.nm)
    device = torch.device(device) if device is not None else None
    if plan.method.reads_inputs:
        check_tokens(model, tokens, attention_mask)
        batch_size = _batch_size(batch_size, tokens, device or _device(blocks[0]))
    clock = Clock(device or _device(blocks[0]))
    bar = progress_bar(total=len(blocks), desc=f"prune ({plan.name})", unit="block")
    with _as_it_was(model), torch.no_grad(), PeakMemory(clock.device) as memory, bar:
        states = None
        if plan.method.reads_inputs:
            with clock("prepare"):
                seconds = _rehearse(model, blocks, tokens, attention_mask, device)
                bar.set_description(f"prune ({plan.name}), about {_words(2 * seconds * len(tokens))}")
                states = first_hidden_states(model, tokens, attention_mask, batch_size)
        rows = _loop(blocks, states, plan, device, clock, bar)
    shape = tuple(tokens.shape) if plan.method.reads_inputs else ()
    return Report(plan.name, plan.sparsity, pattern, plan.group, shape, pd.DataFrame(rows), clock.seconds, memory.peak)


def _loop(blocks, states, plan, device, clock, bar) -> list[dict]:
    """The loop over the blocks, for every method."""
    rows = []
    for index, block in enumerate(blocks):
        with _visiting(block, device) as where:
            norms = {}
            if states is not None:
                with clock("capture"):
                    norms = _capture(states, index, block, where)
            with clock("select"):
                rows += [
                    {"block": index, "name": name, **_prune_layer(layer, norms.get(name), plan)}
                    for name, layer in linear_layers(block).items()
                ]
            if states is not None and block is not blocks[-1]:  # nobody reads what leaves the last block
                with clock("propagate"):
                    states.advance(index, block, where)
        bar.update()
    return rows


def _capture(states, index, block, where) -> InputNorms:
    with InputNorms(block) as norms:
        norms.token_mask = states.token_masks[0]
        for number, _ in states.through(index, block, where):
            norms.token_mask = states.token_masks[(number + 1) % len(states.token_masks)]
    for name in linear_layers(block):
        if name not in norms:
            raise ValueError(
                f"{name} in block {index} saw no token (an expert never chosen?), so its weights cannot be scored. "
                f"Blocks before {index} are already pruned. Use more calibration text, or magnitude."
            )
        if not bool(norms[name].isfinite().all()):
            raise ValueError(
                f"The input of {name} in block {index} is not finite. Blocks before {index} are already pruned: "
                "load the model again. Expected finite activations; try float32 or bfloat16, or look at the text."
            )
    return norms


def _prune_layer(layer: nn.Module, norm: torch.Tensor | None, plan: _Plan) -> dict:
    start = time.perf_counter()
    W = weight_matrix(layer)
    score = plan.method.score(W, norm)
    if not isinstance(score, torch.Tensor) or score.shape != W.shape:
        given = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
        raise ValueError(f"{plan.name} gave {given} for a layer of {tuple(W.shape)}: expected one score a weight.")
    mask = nm_mask(score, *plan.nm) if plan.nm else prune_mask(score, plan.sparsity, plan.group)
    W.masked_fill_(mask, 0)
    return {
        "shape": tuple(W.shape),
        "asked": plan.sparsity,
        "reached": float((W == 0).float().mean()),
        "select s": time.perf_counter() - start,
    }


def _rehearse(model, blocks, tokens, attention_mask, device) -> float:
    """Seconds for the first window to pass the dense blocks; ValueError if it does not stay finite."""
    mask = None if attention_mask is None else attention_mask[:1]
    states = first_hidden_states(model, tokens[:1], mask, 1)
    real = slice(None) if mask is None else mask.bool()
    start = time.perf_counter()
    for index, block in enumerate(blocks):
        with _visiting(block, device) as where:
            states.advance(index, block, where)
        if not bool(states.hidden[0][real].isfinite().all()):
            raise ValueError(
                f"Block {index} puts out activations that are not finite, in {states.hidden[0].dtype}. "
                "Nothing was changed. Expected finite ones: try float32 or bfloat16, or check the checkpoint."
            )
    return time.perf_counter() - start


class _Plan(NamedTuple):
    """What was asked for, checked."""

    name: str
    method: Method
    sparsity: float
    nm: tuple[int, int] | None
    group: str


def _plan(method, sparsity, pattern, group) -> _Plan:
    if callable(method):
        name, method = getattr(method, "__name__", "your score"), Method(method, True, "output")
    elif method in METHODS:
        name, method = method, METHODS[method]
    else:
        raise ValueError(
            f"method={method!r}: expected one of {', '.join(METHODS)}, or a function score(W, norm) -> (out, in)."
        )
    if sparsity is not None:
        check_sparsity(sparsity)
    if group is not None:
        check_group(group)
    if pattern is None:
        return _Plan(name, method, 0.5 if sparsity is None else sparsity, None, group or method.group)
    n, m = parse_pattern(pattern)
    if sparsity is not None and abs(sparsity - (1 - n / m)) > 1e-9:
        raise ValueError(
            f"sparsity={sparsity} with pattern={pattern!r}: keeping {n} of every {m} removes {1 - n / m:g}. "
            "Leave sparsity out, or make them agree."
        )
    if group not in (None, "output"):
        raise ValueError(
            f"group={group!r} with pattern={pattern!r}: N:M compares the {m} neighbours of a group in one row. "
            f"Leave group out; {', '.join(GROUPS)} are for unstructured sparsity."
        )
    return _Plan(name, method, 1 - n / m, (n, m), f"{m} neighbours")


def _check_widths(blocks, pattern: tuple[int, int]) -> None:
    for index, block in enumerate(blocks):
        for name, layer in linear_layers(block).items():
            check_width(weight_matrix(layer).shape[1], pattern, f"{name} in block {index}")


def _batch_size(batch_size, tokens, device) -> int:
    if batch_size is None:
        at_once = GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
        return max(1, at_once // tokens.shape[1])
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of windows, at least 1.")
    return batch_size


def _device(block: nn.Module) -> torch.device:
    return next(block.parameters()).device


@contextmanager
def _visiting(block: nn.Module, device):
    """Have the block on the device, and back home afterwards."""
    home = _device(block)
    try:
        if device is not None:
            block.to(device)
        yield device or home
    finally:
        block.to(home)


@contextmanager
def _as_it_was(model: nn.Module):
    """Evaluation mode, then each module's own mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
