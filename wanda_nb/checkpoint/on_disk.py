"""Where the block loop over a checkpoint takes its blocks from, and puts them when they are pruned."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import torch
from transformers.pytorch_utils import Conv1D

from ..blocks import linear_layers
from ..distributed import world
from ..methods import Plan
from ..reporting.progress import Clock
from .runs import Run
from .shards import FLOATS, check_finite, read_shard, write_shard
from .skeleton import Skeleton

KEPT = "Blocks before it are finished and kept."


class OnDisk:
    """Blocks that are read when their turn is near and written when they are pruned, both beside the computing."""

    def __init__(self, skeleton: Skeleton, run: Run, device, clock: Clock, plan: Plan):
        self.skeleton, self.run, self.device, self.clock = skeleton, run, device, clock
        #: Whether blocks are run, in the skeleton's dtypes; else weights are scored as they are stored.
        self.computes, self.updates = plan.statistic is not None, plan.update is not None
        #: Bytes, of each reading and in all; several threads read.
        self.read: list[int] = []
        self.written = 0
        unfinished = [index for index in range(len(skeleton.blocks)) if index not in run.rows]
        #: The blocks that have to be visited, in order: finished ones only for what leaves them.
        self.wanted = list(range(len(skeleton.blocks))) if self.computes and unfinished else unfinished
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
        computes, missing = self.computes and self.wanted, world()[0] == 0 and not path.exists()
        rest = self._counted(skeleton.shards.read(skeleton.rest)) if computes or missing else {}
        if missing:
            self.written += write_shard(path, rest)
        with ExitStack() as stack:
            if computes:
                first = {name: rest[stored] for name, stored in skeleton.first.items()}
                first = skeleton.cast(skeleton.model, first)
                stack.enter_context(skeleton.in_place(skeleton.model, first, self.device))
                del first
                for kind in {type(block) for block in skeleton.blocks}:
                    # the first block of each kind is asked how it answers, which takes its weights
                    index = next(index for index, block in enumerate(skeleton.blocks) if type(block) is kind)
                    stack.enter_context(skeleton.in_place(skeleton.blocks[index], self._load(index), self.device))
            rest.clear()
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

    def keep(self, index: int, rows: list[dict], masks: dict[str, torch.Tensor | None]) -> None:
        """Hand the pruned block to the writer; it is safe once the next one is handed over."""
        with self.clock("write"):
            tensors = self._to_write(index)
            masks = self._to_lay_on(index, masks)
            ready = torch.cuda.current_stream(self.device).record_event() if self._streams else None
            self._wait_for_writer()
            if world()[0] == 0:
                seconds = dict(self.clock.seconds)
                self._writing = self._writer.submit(self._write, index, tensors, masks, rows, seconds, ready)

    def _to_lay_on(self, index: int, masks: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        """The masks, by name in the checkpoint, of layers whose stored dtype is not the one they are computed in."""
        block, names, found = self.skeleton.blocks[index], self.skeleton.names[index], {}
        for name, mask in masks.items():
            layer, stored = block.get_submodule(name), names[f"{name}.weight"]
            if mask is not None and layer.weight.dtype != FLOATS[self.skeleton.shards.kinds[stored]]:
                found[stored] = (mask.T if isinstance(layer, Conv1D) else mask).cpu()
        return found

    def _to_write(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of a pruned block that hold what its shard shall hold; the others are read once more."""
        block, tensors = self.skeleton.blocks[index], {}
        updated = {f"{name}.weight" for name in linear_layers(block)} if self.updates else set()
        for name, tensor in block.state_dict().items():
            stored = self.skeleton.names[index][name]
            dtype = FLOATS.get(self.skeleton.shards.kinds[stored])
            if tensor.dtype == dtype or not tensor.is_floating_point():
                tensors[stored] = tensor
            elif name in updated:
                tensors[stored] = tensor.to(dtype)
                check_finite(tensors[stored], f"{stored}, updated and rounded to {dtype} as it is stored,", KEPT)
                tensor.copy_(tensors[stored])  # later blocks see what the file holds
        return tensors

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
        found = {name: found[stored] for name, stored in names.items()}
        if self.computes:
            found = self.skeleton.cast(self.skeleton.blocks[index], found)
        if not self._streams:
            return found
        with torch.cuda.stream(self._streams[0]):
            found = {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in found.items()}
        self._streams[0].synchronize()
        return found

    def _write(self, index: int, tensors: dict, masks: dict, rows: list[dict], seconds: dict, ready) -> None:
        if self._streams:
            with torch.cuda.stream(self._streams[1]):
                self._streams[1].wait_event(ready)
                tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        rounded = [stored for stored in self.skeleton.names[index].values() if stored not in tensors]
        originals = self._counted(self.skeleton.shards.read(rounded))  # every bit that stays is the source's
        for stored, mask in masks.items():
            originals[stored].masked_fill_(mask, 0)
        tensors |= originals
        self.written += write_shard(self.run.folder / self.run.shard(index), tensors)
        self.run.add(index, rows, seconds)

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _counted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.read.append(sum(tensor.nbytes for tensor in tensors.values()))
        return tensors
