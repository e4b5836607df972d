"""The block loop over a checkpoint on disk: a few blocks are in memory at a time, and a kill costs one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from ..calibration import Calibration
from ..device import check_dtypes, missing_operators_named, usable_device
from ..distributed import my_share, world
from ..files import other_place
from ..hardware import PeakMemory, allocator, windows_at_a_time
from ..inputs.hidden_states import first_hidden_states
from ..inputs.statistics import Captured, LookedUp, looked_up
from ..inputs.text import begin_with_bos, check_tokens
from ..methods import Plan, make_plan
from ..pruning import Inputs, block_loop, check_widths, prune_block
from ..reporting.identity import tokens_identity
from ..reporting.left import left_over
from ..reporting.progress import Clock, duration, progress_bar
from ..reporting.provenance import provenance
from ..reporting.report import Report, gib
from .estimate import Estimate, estimate_pruning
from .on_disk import OnDisk
from .resume import Run, identity, in_use
from .shards import FLOATS
from .skeleton import Skeleton


class _Request(NamedTuple):
    """The checked arguments of a call."""

    skeleton: Skeleton
    plan: Plan
    tokens: torch.Tensor | None  # if they are to be read
    attention_mask: torch.Tensor | None
    batch_size: int | None
    device: torch.device
    inputs: LookedUp | None


def _request(
    source, tokens, method, sparsity, attention_mask, calibration, device, batch_size, dtype, choice
) -> _Request:
    device = usable_device(device)
    check_text_of_a_folder(tokens)
    skeleton = Skeleton(Path(source), dtype)
    plan = make_plan(len(skeleton.blocks), method, sparsity, **choice)
    check_widths(skeleton.blocks, plan)
    inputs = looked_up(calibration, skeleton.model, plan, tokens, attention_mask, skeleton.identity)
    runs = plan.statistic is not None and inputs is None
    stored = {FLOATS.get(kind) for kind in skeleton.shards.kinds.values()}
    check_dtypes({skeleton.dtype} if runs else stored, device)
    if not runs:
        return _Request(skeleton, plan, None, None, None, device, inputs)
    check_tokens(skeleton.model, tokens, attention_mask)
    return _Request(skeleton, plan, tokens, attention_mask, batch_size, device, None)


def check_text_of_a_folder(tokens, blocks=None) -> None:
    """Raise ValueError unless tokens are text: of a checkpoint folder, only a decoder-only language model is built."""
    if isinstance(tokens, Mapping) or blocks is not None:
        given = "blocks" if blocks is not None else "a dict of inputs"
        raise ValueError(
            f"A checkpoint folder with {given}: expected tokens (samples, length) for a decoder-only language model. "
            "Load the model into memory and give it to prune; padding of tokens goes into attention_mask."
        )


def prune_checkpoint(
    source,
    destination,
    tokens: torch.Tensor | None = None,
    method: str | Callable = "wanda",
    sparsity: float | Sequence[float] | None = None,
    *,
    attention_mask: torch.Tensor | None = None,
    calibration: Calibration | None = None,
    device="cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    text: dict | None = None,
    **choice,
) -> Report:
    """Prune a checkpoint folder into a new one, one block at a time: the masks of ``prune`` in little memory.

    source: a folder with config and safetensors shards, which is never changed. destination: a new folder that plain
    ``from_pretrained`` loads: tokenizer, config, model card, and a shard for each block. Every tensor keeps its dtype
    and every kept weight its bits; the new weights of an update are rounded to the dtype they had.
    tokens, method, sparsity, attention_mask, calibration, device, batch_size, and, in choice, pattern, group, update
    and damping: as for ``prune``. dtype: to run blocks in, by default that of config.json; masks are those of ``prune``
    on the model in that dtype. Magnitude without an update, and every method with a calibration, runs no block: each
    is read, pruned as it is stored, and written, once.
    budget: bytes of CPU memory for the hidden states, by default half of what is free; beyond it they go to a file.
    text: what the model card says of the text; a calibration has its own.

    After every block, what is finished is safe on disk. A killed run, started again with the same arguments, goes on
    and ends with the same bytes; it runs finished blocks once more, to compute what enters the next one. Under
    ``torchrun`` the processes share the windows; all of them must see both folders.

    Raises, before any work: ValueError for arguments that do not fit or a damaged checkpoint; FileExistsError for a
    destination of something else, of a run with other arguments, or of one with a score function that cannot be
    identified; OSError for too little space or a destination in use; ValueError for too little memory on a device that
    is not the CPU. A value that is not finite raises ValueError at its block.
    Introduced in notebook 11, "A model larger than memory"; algorithm 1 of the paper.
    """
    destination = other_place(Path(destination), Path(source))
    request = _request(source, tokens, method, sparsity, attention_mask, calibration, device, batch_size, dtype, choice)
    with in_use(destination):
        return _pruned(request, destination, budget, text)


def _identity(request: _Request) -> dict:
    """What must be the same for a run to go on."""
    skeleton, plan = request.skeleton, request.plan
    return {
        "source": skeleton.shards.identity(),
        "plan": identity(plan),
        "tokens": None if request.tokens is None else tokens_identity(request.tokens, request.attention_mask),
        "calibration": None if request.inputs is None else request.inputs.calibration.digest(),
        "windows at a time": request.batch_size,
        "dtype": None if request.tokens is None else str(skeleton.dtype),
        "processes": world()[1],
    }


def _pruned(request: _Request, destination: Path, budget, text) -> Report:
    skeleton, plan, tokens, attention_mask, batch_size, device, looked_up = request
    run = Run(destination, _identity(request), len(skeleton.blocks))
    reads_text = tokens is not None
    shape = tuple(tokens.shape) if reads_text else ()
    bos = begin_with_bos(skeleton.model, tokens, attention_mask) if reads_text else None
    if reads_text:
        tokens, attention_mask = my_share(tokens, attention_mask)
        batch_size = run.batch_size or windows_at_a_time(batch_size, shape[1], skeleton.blocks[0], device)
    estimate = estimate_pruning(skeleton, tokens, plan, batch_size, device, attention_mask, must_fit=True)
    run.begin(estimate, batch_size)
    clock = Clock(device, run.seconds)
    label = f"prune ({plan.name}), {gib(estimate.device or estimate.memory)}, at least {duration(estimate.seconds)}"
    bar = progress_bar(total=len(skeleton.blocks), desc=label, unit="block", silent=world()[0] > 0)
    place = OnDisk(skeleton, run, device, clock, reads_text, plan.update is not None)
    inputs: Inputs | None = looked_up
    with torch.no_grad(), PeakMemory(device) as memory, place, bar, missing_operators_named(device):
        with clock("prepare"), place.beginning():
            if place.to_visit and reads_text:
                where = device if estimate.hidden_there else torch.device("cpu")
                allocate = allocator(where, budget, destination / f"hidden-states-{world()[0]}.tmp")
                states = first_hidden_states(skeleton.model, tokens, attention_mask, batch_size, allocate)
                inputs = Captured(states, plan.statistic, clock)
        rows = block_loop(skeleton.blocks, inputs, partial(prune_block, plan, clock), place, bar)
    report = Report(
        plan.name,
        f"{plan.nm[0]}:{plan.nm[1]}" if plan.nm else None,
        plan.group,
        plan.update,
        shape,
        pd.DataFrame(rows),
        clock.seconds,
        memory.peak,
        read=sum(place.bytes_read),
        written=place.bytes_written,
        flops=estimate.flops,
        rate=estimate.flops / estimate.seconds if estimate.seconds else 0.0,
        bos=bos,
        activations=looked_up.kind if looked_up else Captured.kind if reads_text else None,
        calibration=looked_up.calibration.texts() if looked_up else None,
        left=left_over(skeleton.model, skeleton.blocks),
        damping=plan.damping if plan.update else None,
    )
    run.end(skeleton, report, provenance(skeleton.model, device), text)
    return report


def estimate_checkpoint(
    source,
    tokens: torch.Tensor | None = None,
    method: str | Callable = "wanda",
    sparsity: float | Sequence[float] | None = None,
    *,
    attention_mask: torch.Tensor | None = None,
    calibration: Calibration | None = None,
    device="cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    **choice,
) -> Estimate:
    """What ``prune_checkpoint`` with these arguments will take, from the headers of the shards alone.

    Raises ValueError for arguments that do not fit or a damaged checkpoint.
    Introduced in notebook 11, "A model larger than memory".
    """
    skeleton, plan, tokens, attention_mask, batch_size, device, _ = _request(
        source, tokens, method, sparsity, attention_mask, calibration, device, batch_size, dtype, choice
    )
    if tokens is not None:
        batch_size = windows_at_a_time(batch_size, tokens.shape[1], skeleton.blocks[0], device)
    return estimate_pruning(skeleton, tokens, plan, batch_size, device, attention_mask)
