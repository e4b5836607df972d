"""The block loop over a checkpoint on disk: a few blocks in memory at a time, and a kill costs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from ..distributed import my_share, world
from ..hardware import PeakMemory, allocator, usable_device, windows_at_a_time
from ..inputs.hidden_states import first_hidden_states
from ..inputs.text import begin_with_bos, check_tokens
from ..methods import Plan, make_plan
from ..pruning import block_loop, check_widths
from ..reporting.progress import Clock, duration, progress_bar
from ..reporting.provenance import provenance
from ..reporting.report import Report, gib
from .estimate import Estimate
from .place import OnDisk
from .runs import Run, digest, identity, in_use
from .skeleton import Skeleton


def prune_checkpoint(
    source,
    destination,
    tokens: torch.Tensor | None,
    method: str | Callable = "wanda",
    sparsity: float | Sequence[float] | None = None,
    *,
    pattern: str | None = None,
    group: str | None = None,
    update: str | None = None,
    attention_mask: torch.Tensor | None = None,
    device="cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    calibration: dict | None = None,
) -> Report:
    """Prune a checkpoint folder into a new one, one block at a time: the masks of ``prune``, in little memory.

    source: a folder with config and safetensors shards, never changed. destination: a new folder, which plain
    ``from_pretrained`` loads: tokenizer, config and model card, a shard for each block. Every tensor keeps its dtype,
    and every value that is not pruned its bits; the new weights of an update are rounded to the dtype they had.
    tokens, method, sparsity, pattern, group, update, attention_mask, device, batch_size: as for ``prune``.
    dtype: to compute in, by default what config.json names; the masks are those of ``prune`` on the model loaded in it.
    Magnitude without an update computes nothing: it compares the weights as they are stored.
    budget: bytes of CPU memory for the hidden states, by default half of what is free; with more of them, they are kept
    in a file. calibration: what the model card says of the text.

    What is finished is safe on disk after every block. Started again with the same arguments, a killed run goes on and
    ends with the same bytes; it runs finished blocks once more, for what enters the next one. Under ``torchrun`` the
    windows are shared among the processes, which must all see both folders.

    Before any work, raises ValueError for arguments that do not fit or a damaged checkpoint, FileExistsError for a
    destination begun otherwise, or with a score of your own of which nobody can say whether it is still the same;
    OSError for too little space or another run at work there. A value that is not finite stops the run at its block.
    Introduced in notebook 03, "A model larger than memory"; algorithm 1 of the paper.
    """
    source, destination, device = Path(source), Path(destination), usable_device(device)
    if destination.exists() and destination.resolve() == source.resolve():
        raise ValueError(f"{destination} is the source, which is never changed: choose another destination.")
    skeleton = Skeleton(source, dtype)
    plan = _checked_plan(skeleton, tokens, attention_mask, method, sparsity, pattern, group, update)
    asked = {
        "source": skeleton.shards.identity(),
        "plan": identity(plan),
        "tokens": digest(tokens, attention_mask) if plan.statistic else None,
        "windows at a time": batch_size,
        "dtype": str(skeleton.dtype) if plan.statistic else None,
        "processes": world()[1],
    }
    with in_use(destination):
        return _pruned(
            skeleton, plan, asked, destination, tokens, attention_mask, batch_size, device, budget, calibration
        )


def _pruned(
    skeleton, plan, asked, destination, tokens, attention_mask, batch_size, device, budget, calibration
) -> Report:
    run = Run(destination, asked, len(skeleton.blocks))
    shape = tuple(tokens.shape) if plan.statistic else ()
    bos = begin_with_bos(skeleton.model, tokens, attention_mask) if plan.statistic else None
    if plan.statistic:
        tokens, attention_mask = my_share(tokens, attention_mask)
        batch_size = run.batch_size or windows_at_a_time(batch_size, tokens, skeleton.blocks[0], device)
    estimate = skeleton.estimate(tokens, plan, batch_size, device)
    run.begin(estimate, batch_size)
    clock = Clock(device, run.seconds)
    what = f"prune ({plan.name}), {gib(estimate.memory)}, at least {duration(estimate.seconds)}"
    bar = progress_bar(total=len(skeleton.blocks), desc=what, unit="block", silent=world()[0] > 0)
    place = OnDisk(skeleton, run, device, clock, plan)
    with torch.no_grad(), PeakMemory(device) as memory, place, bar:
        states = None
        with clock("prepare"), place.beginning():
            if place.wanted and plan.statistic:
                put = allocator(device, budget, destination / f"hidden-states-{world()[0]}.tmp")
                states = first_hidden_states(skeleton.model, tokens, attention_mask, batch_size, put)
        rows = block_loop(skeleton.blocks, states, plan, place, clock, bar)
    report = Report(
        plan.name,
        f"{plan.nm[0]}:{plan.nm[1]}" if plan.nm else None,
        plan.group,
        plan.update,
        shape,
        pd.DataFrame(rows),
        clock.seconds,
        memory.peak,
        read=sum(place.read),
        written=place.written,
        flops=estimate.flops,
        rate=estimate.flops / estimate.seconds if estimate.seconds else 0.0,
        bos=bos,
    )
    run.end(skeleton, report, provenance(skeleton.model, device), calibration)
    return report


def estimate_checkpoint(
    source,
    tokens: torch.Tensor | None,
    method: str | Callable = "wanda",
    sparsity=None,
    *,
    pattern: str | None = None,
    group: str | None = None,
    update: str | None = None,
    attention_mask: torch.Tensor | None = None,
    device="cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Estimate:
    """What ``prune_checkpoint`` with these arguments will take, from the headers of the shards; checks them too.

    Introduced in notebook 03, "A model larger than memory".
    """
    device = usable_device(device)
    skeleton = Skeleton(Path(source), dtype)
    plan = _checked_plan(skeleton, tokens, attention_mask, method, sparsity, pattern, group, update)
    if plan.statistic:
        batch_size = windows_at_a_time(batch_size, tokens, skeleton.blocks[0], device)
    return skeleton.estimate(tokens, plan, batch_size, device)


def _checked_plan(skeleton, tokens, attention_mask, method, sparsity, pattern, group, update) -> Plan:
    plan = make_plan(method, sparsity, pattern, group, update, len(skeleton.blocks))
    check_widths(skeleton.blocks, plan)
    if plan.statistic:
        check_tokens(skeleton.model, tokens, attention_mask)
    return plan
