"""The block loop: capture, select, propagate, one decoder block at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import pandas as pd
import torch
from torch import nn

from .blocks import check_weights, decoder_blocks, evaluating, linear_layers, weight_matrix
from .calibration import Calibration
from .device import check_dtypes, missing_operators_named, usable_device
from .distributed import my_share, world
from .footprint import need
from .hardware import PeakMemory, allocator, free_memory, matmul_rate, windows_at_a_time
from .in_memory import InMemory, home_of, size_of, travels
from .inputs.hidden_states import first_hidden_states, samples_and_length
from .inputs.rehearsal import flops_of, rehearse
from .inputs.samples import check_samples, samples_in
from .inputs.statistics import Captured, Inputs, Rare, looked_up
from .inputs.text import begin_with_bos
from .masks import check_width
from .methods import Factors, make_plan
from .reporting.identity import model_identity
from .reporting.left import left_over
from .reporting.progress import Clock, duration, progress_bar
from .reporting.report import Report


def prune(
    model,
    tokens: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
    method: str | Callable = "wanda",
    sparsity: float | Sequence[float] | None = None,
    *,
    pattern: str | None = None,
    group: str | None = None,
    update: str | None = None,
    damping: float | None = None,
    attention_mask: torch.Tensor | None = None,
    calibration: Calibration | None = None,
    device=None,
    batch_size: int | None = None,
    blocks: str | Iterable[nn.Module] | None = None,
    rare: int = 0,
    rare_by: str = "magnitude",
) -> Report:
    """Remove weights from all linear layers of all blocks, in place, with no retraining.

    Block by block: run the block on its inputs and note the norm of every input channel, prune its linear layers, then
    run it again, so that the next block sees the output of the pruned one. Embeddings, norms, head and convolutions
    larger than 1×1 are not pruned: ``report.left`` lists them.

    tokens: calibration windows, LongTensor (samples, length); or what else the model's forward takes, a dict of tensors
    (samples, ...) by its names: ``{"pixel_values": images}``. None for magnitude, or with a calibration.
    method: ``"wanda"``, ``"magnitude"``, ``"sparsegpt"``, ``"ria"``, ``"wanda-variant"`` (the paper's appendix), or
    your own ``score(W, norm) -> (out, in)``.
    sparsity: the fraction of each comparison group to remove, in [0, 1); by default 0.5, or what the pattern removes.
    One number, or one for each block (``owl_sparsity``).
    pattern: N:M such as ``"2:4"``, which keeps 2 of every 4 weights along the input.
    group: ``"output"``, ``"input"``, ``"layer"`` or ``"running-sum"``; by default the one the method was published with
    (Wanda output, magnitude and RIA layer). A pattern or an iterative update has its own.
    update: ``"one-shot"``: choose the mask, then move the kept weights to make up (OBS); ``"iterative"``: choose it
    128 columns at a time, or N:M group by group, from the weights as updated so far, as SparseGPT always does. Either
    removes all weights of an input channel that is zero throughout the text, as published, even beyond the sparsity.
    ``"least-squares"``: keep the method's mask, and move all kept weights at once to where the output error is least.
    damping: what holds an update back, as a share of the mean diagonal of XᵀX; by default 0.01, more for little text.
    attention_mask: (samples, length), 0 for padding, which then counts in no statistic; in a dict, one of its tensors.
    calibration: what ``calibrate`` or ``load_calibration`` gave, in place of tokens: each block is pruned by what it
    reads in the dense model, and no block is run. An update needs a calibration with ``statistic="gram"``.
    device: where to compute (``"auto"``: the best there is); blocks of a model in CPU memory visit it one at a time.
    batch_size: windows at a time.
    blocks: which of several lists of blocks to prune: its name or a part of it (``"encoder"``, ``"vision_tower"``), or
    the list itself.
    rare: an expert that saw fewer tokens than this is pruned by something else, and ``report.rare_experts`` says which;
    with 0, one that saw none stops the run. rare_by: ``"magnitude"``, as if all its inputs were alike; or ``"others"``,
    by what all experts of its list read. Stacked experts: ``separate_experts``.

    Raises ValueError for invalid arguments and unsuitable models before any weight changes; to that end, and for the
    estimate of time, the first window runs through the whole dense model beforehand, unless its blocks visit, which
    would move each of them twice. An activation that overflows later stops the run half-way; the message names the
    block, and those before it are pruned.
    Introduced in notebook 00, "Prune", and built by hand in notebook 03; section 3 and algorithm 1 of the paper.
    """
    blocks = decoder_blocks(model, blocks)
    plan = make_plan(len(blocks), method, sparsity, pattern=pattern, group=group, update=update, damping=damping)
    check_weights(model, blocks)
    check_widths(blocks, plan)
    few = Rare.checked(rare, rare_by)
    device = usable_device(device) if device is not None else None
    compute = device or home_of(blocks[0])
    check_dtypes({parameter.dtype for parameter in model.parameters()}, compute)
    identity = partial(model_identity, model, blocks=blocks)
    inputs: Inputs | None = looked_up(calibration, model, plan, tokens, attention_mask, identity, blocks, few)
    reads_text = plan.statistic is not None and calibration is None
    shape: tuple[int, ...] = ()
    if reads_text:
        tokens, attention_mask = check_samples(model, tokens, attention_mask)
        with evaluating(model):
            shape = samples_and_length(model, tokens, blocks)
        tokens, attention_mask = my_share(tokens, attention_mask)
        batch_size = windows_at_a_time(batch_size, shape[1], blocks[0], compute)
        bos = begin_with_bos(model, tokens, attention_mask)
    hidden_on, visits = compute, any(travels(block, device) for block in blocks)
    if visits and compute.type != "cpu":
        read = tokens if reads_text else None
        needed = need(model, plan, read, attention_mask, batch_size, max(map(size_of, blocks)), blocks=blocks)
        needed.check(compute)
        hidden_on = compute if needed.leaves_room(free_memory(compute)) else torch.device("cpu")
    clock = Clock(compute)
    bar = progress_bar(total=len(blocks), desc=f"prune ({plan.name})", unit="block", silent=world()[0] > 0)
    with evaluating(model), torch.no_grad(), PeakMemory(compute) as memory, bar, missing_operators_named(compute):
        if reads_text:
            with clock("prepare"):
                seconds = 0.0 if visits else rehearse(model, blocks, tokens, attention_mask)
                states = first_hidden_states(model, tokens, attention_mask, batch_size, allocator(hidden_on), blocks)
                flops, one = flops_of(model, blocks, states, shape[1])
                if not visits:  # the rehearsal ran one window through every block
                    seconds *= flops / one if one else 2 * samples_in(tokens)
                    bar.set_description(f"prune ({plan.name}), about {duration(seconds)}")
            inputs = Captured(states, plan.statistic, clock, rare=few)
        rows = block_loop(blocks, inputs, partial(prune_block, plan, clock), InMemory(blocks, device), bar)
    report = Report(plan.name, pattern, plan.group, plan.update, shape, pd.DataFrame(rows), clock.seconds, memory.peak)
    report.left, report.damping = left_over(model, blocks), plan.damping if plan.update else None
    if inputs is not None:
        report.activations, report.calibration = inputs.kind, None if calibration is None else calibration.texts()
        report.rare_experts, report.rare_by = inputs.rare_experts, rare_by
    if reads_text:
        report.flops, report.rate, report.bos = flops, matmul_rate(compute, model.dtype), bos
    return report


class Place(Protocol):
    """Where the block loop takes blocks from, and where they go once they are pruned."""

    def finished(self, index: int) -> list[dict] | None:
        """The rows for the report of a block that an earlier run pruned; None for one that is still to be pruned."""

    def visit(self, index: int) -> AbstractContextManager[torch.device]:
        """While open, have the weights of a block in memory; gives the device to compute on."""

    def keep(self, index: int, rows: list[dict], results: dict[str, torch.Tensor | None]) -> None:
        """Store a block that was treated, during its visit. results: by layer name, what ``treat`` gave for it."""


def block_loop(blocks, inputs: Inputs | None, treat: Callable, place: Place, bar) -> list[dict]:
    """Capture, select, propagate: the one loop over the blocks, for every method, place and number of processes.

    inputs: None for a method that reads none. treat: ``(index, block, statistics) -> (rows, results)``, what is done to
    a block: it is pruned (``prune_block``), or its statistics are noted. Returns all rows, one for each layer.
    """
    rows = []
    for index, block in enumerate(blocks):
        block_rows = place.finished(index)
        # nothing reads the output of the last block
        propagates = inputs is not None and inputs.runs and block is not blocks[-1]
        if block_rows is None or propagates:
            with place.visit(index) as device:
                if block_rows is None:
                    statistics = {} if inputs is None else inputs.statistics(index, block, device)
                    block_rows, results = treat(index, block, statistics)
                    place.keep(index, block_rows, results)
                    del statistics, results  # they may lie on the device
                if propagates:
                    inputs.advance(index, block, device)
        rows += block_rows
        bar.update()
    return rows


def prune_block(plan, clock, index, block, statistics) -> tuple[list[dict], dict[str, torch.Tensor | None]]:
    """Prune the layers of a block, in place; returns rows for the report, and masks (None after an update)."""
    rows, masks, factors = [], {}, Factors()
    with clock("select"):
        for name, layer in linear_layers(block).items():
            start = time.perf_counter()
            W = weight_matrix(layer)
            masks[name], extra = plan.prune_layer(W, statistics.get(name), index, factors)
            reached = 1 - int((W != 0).count_nonzero()) / W.numel()  # torch.count_nonzero(W) takes five times as long
            row = {"block": index, "name": name, "shape": tuple(W.shape), "asked": plan.sparsity_of(index)}
            rows.append({**row, "reached": reached, **extra, "select s": time.perf_counter() - start})
    return rows, masks


def check_widths(blocks, plan) -> None:
    """Raise ValueError, naming the layer, if M of the N:M pattern does not divide its width."""
    for index, block in enumerate(blocks if plan.nm else ()):
        for name, layer in linear_layers(block).items():
            check_width(weight_matrix(layer).shape[1], plan.nm, f"{name} in block {index}")
