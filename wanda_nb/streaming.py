"""The block loop over a checkpoint on disk: a few blocks in memory at a time, and a kill costs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import torch

from .capture import first_hidden_states
from .memory import PeakMemory, allocator, windows_at_a_time
from .methods import Plan, make_plan
from .progress import Clock, duration, progress_bar
from .pruning import block_loop, check_widths
from .ranks import my_share, world
from .results import Report, begin_with_bos, gib, provenance
from .runs import Run, digest, identity
from .shards import FLOATS, read_shard, write_shard
from .skeleton import Estimate, Skeleton
from .text import check_tokens


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
    ``from_pretrained`` loads: tokenizer, config and model card, a shard for each block, every tensor in its old dtype.
    tokens, method, sparsity, pattern, group, update, attention_mask, device, batch_size: as for ``prune``.
    dtype: to compute in, by default the checkpoint's. budget: bytes of CPU memory for the hidden states, by default
    half of what is free; with more of them, they are kept in a file. calibration: what the model card says of the text.

    What is finished is safe on disk after every block. Started again with the same arguments, a killed run goes on and
    ends with the same bytes; it runs finished blocks once more, for what enters the next one. Under ``torchrun`` the
    windows are shared among the processes, which must all see both folders.

    Before any work, raises ValueError for arguments that do not fit or a damaged checkpoint, FileExistsError for a
    destination begun otherwise, OSError for too little space. A value that is not finite stops the run at its block.
    Introduced in notebook 03, "A model larger than memory"; algorithm 1 of the paper.
    """
    source, destination, device = Path(source), Path(destination), torch.device(device)
    if destination.exists() and destination.resolve() == source.resolve():
        raise ValueError(f"{destination} is the source, which is never changed: choose another destination.")
    skeleton = Skeleton(source, dtype)
    plan = _checked_plan(skeleton, tokens, attention_mask, method, sparsity, pattern, group, update)
    asked = {
        "source": skeleton.shards.identity(),
        "plan": identity(plan),
        "tokens": digest(tokens, attention_mask) if plan.statistic else None,
        "windows at a time": batch_size,
        "dtype": str(skeleton.dtype),
        "processes": world()[1],
    }
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
    place = _OnDisk(skeleton, run, device, clock, plan.statistic is not None)
    with torch.no_grad(), PeakMemory(device) as memory, place, bar:
        states = None
        with clock("prepare"), place.beginning():
            if place.wanted and plan.statistic:
                put = allocator(device, budget, destination / f"hidden-states-{world()[0]}.tmp")
                states = first_hidden_states(skeleton.model, tokens, attention_mask, batch_size, put)
        rows = block_loop(skeleton.blocks, states, plan, place, clock, bar)
    report = Report(
        plan.name,
        pattern,
        plan.group,
        plan.update,
        shape,
        pd.DataFrame(rows),
        clock.seconds,
        memory.peak,
        read=place.read,
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
    device = torch.device(device)
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


class _OnDisk:
    """Blocks that are read when their turn is near and written when they are pruned, both beside the computing."""

    def __init__(self, skeleton: Skeleton, run: Run, device, clock: Clock, propagates: bool):
        self.skeleton, self.run, self.device, self.clock = skeleton, run, device, clock
        self.read = self.written = 0
        unfinished = [index for index in range(len(skeleton.blocks)) if index not in run.rows]
        #: The blocks that have to be visited, in order: finished ones only for what leaves them.
        self.wanted = list(range(len(skeleton.blocks))) if propagates and unfinished else unfinished
        self._reader, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._reading: dict[int, Future] = {}
        self._writing: Future | None = None
        on_gpu = device.type == "cuda"
        self._streams = [torch.cuda.Stream(device), torch.cuda.Stream(device)] if on_gpu else []

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()  # what is being written is finished, whatever else went wrong
        if kind is None:
            self._wait_for_writer()

    @contextmanager
    def beginning(self):
        """What lies outside the blocks is written, and at hand for the first hidden states."""
        skeleton, path = self.skeleton, self.run.folder / self.run.shard(None)
        if not self.wanted and (path.exists() or world()[0] > 0):
            yield
            return
        rest = self._counted(skeleton.shards.read(skeleton.rest))
        if world()[0] == 0 and not path.exists():
            self.written += write_shard(path, rest)
        first = {name: rest[stored] for name, stored in skeleton.first.items()}
        del rest
        with ExitStack() as stack:
            stack.enter_context(skeleton.in_place(skeleton.model, first, self.device))
            for kind in {type(block) for block in skeleton.blocks}:
                # the first block of each kind is asked how it answers, which takes its weights
                index = next(index for index, block in enumerate(skeleton.blocks) if type(block) is kind)
                stack.enter_context(skeleton.in_place(skeleton.blocks[index], self._load(index), self.device))
            yield
        self._prefetch(self.wanted[:1])

    def finished(self, index: int) -> list[dict] | None:
        return self.run.rows.get(index)

    @contextmanager
    def visit(self, index: int):
        with self.clock("load"):
            weights = self._reading.pop(index).result()
            if self.device.type == "cuda":
                for tensor in weights.values():
                    tensor.record_stream(torch.cuda.current_stream(self.device))
        after = self.wanted.index(index) + 1
        self._prefetch(self.wanted[after : after + 1])
        with self.skeleton.in_place(self.skeleton.blocks[index], weights, self.device):
            del weights
            yield self.device

    def keep(self, index: int, rows: list[dict]) -> None:
        """Hand the pruned block to the writer; it is safe once the next one is handed over."""
        with self.clock("write"):
            tensors = {}
            for name, tensor in self.skeleton.blocks[index].state_dict().items():
                stored = self.skeleton.names[index][name]
                tensors[stored] = tensor.to(FLOATS.get(self.skeleton.shards.kinds[stored], tensor.dtype))
                if tensors[stored] is not tensor:
                    tensor.copy_(tensors[stored])  # an update may be finer than what the file can hold
            ready = torch.cuda.current_stream(self.device).record_event() if self._streams else None
            self._wait_for_writer()
            if world()[0] == 0:
                self._writing = self._writer.submit(self._write, index, tensors, rows, dict(self.clock.seconds), ready)

    def _prefetch(self, indices: list[int]) -> None:
        for index in indices:
            self._reading[index] = self._reader.submit(self._load, index)

    def _load(self, index: int) -> dict[str, torch.Tensor]:
        names = self.skeleton.names[index]
        if index in self.run.rows:
            found = read_shard(self.run.folder / self.run.shard(index), names.values())
        else:
            found = self.skeleton.shards.read(names.values())
        self._counted(found)
        found = {name: self.skeleton.cast(found.pop(stored)) for name, stored in names.items()}
        if not self._streams:
            return found
        with torch.cuda.stream(self._streams[0]):
            found = {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in found.items()}
        self._streams[0].synchronize()
        return found

    def _write(self, index: int, tensors: dict[str, torch.Tensor], rows: list[dict], seconds: dict, ready) -> None:
        if self._streams:
            with torch.cuda.stream(self._streams[1]):
                self._streams[1].wait_event(ready)
                tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        self.written += write_shard(self.run.folder / self.run.shard(index), tensors)
        self.run.add(index, rows, seconds)

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _counted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.read += sum(tensor.nbytes for tensor in tensors.values())
        return tensors
