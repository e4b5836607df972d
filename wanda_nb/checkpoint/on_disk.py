"""The place of a checkpoint's blocks: read from the source before they are pruned, written to the destination after."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from transformers.pytorch_utils import Conv1D

from ..blocks import linear_layers, replaced_tensors
from ..device import streams
from ..distributed import world
from ..methods import Plan
from ..reporting.progress import Clock
from .resume import Run
from .shards import FLOATS, check_finite, read_shard, write_shard
from .skeleton import Skeleton

KEPT = "Blocks before it are finished and kept."


class OnDisk:
    """A `Place` whose blocks are read ahead of their turn and written once pruned, both in threads of their own."""

    def __init__(self, skeleton: Skeleton, run: Run, device, clock: Clock, plan: Plan):
        self.skeleton, self.run, self.device, self.clock = skeleton, run, device, clock
        #: Whether blocks are run, in the skeleton's dtypes. If not, weights are scored as they are stored.
        self.computes, self.updates = plan.statistic is not None, plan.update is not None
        #: Bytes of each reading, in a list because several threads read; bytes written in all.
        self.bytes_read: list[int] = []
        self.bytes_written = 0
        unfinished = [index for index in range(len(skeleton.blocks)) if index not in run.rows]
        #: The blocks to be visited, in order. Finished ones are visited only for the hidden states that leave them.
        self.to_visit = list(range(len(skeleton.blocks))) if self.computes and unfinished else unfinished
        self._reader, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._reading: dict[int, Future] = {}
        self._leaving: Future | None = None
        self._writing: Future | None = None
        #: The reader's and the writer's, where the device has streams.
        self._on = streams(device)  # torch.cuda, torch.xpu …
        self._streams = [self._on.Stream(device), self._on.Stream(device)] if self._on else None

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()  # what is being written is finished, whatever else went wrong
        if kind is None:
            self._wait_for_writer()

    @contextmanager
    def beginning(self):
        """Write what lies outside the blocks, and have it in place for the first hidden states."""
        skeleton, path = self.skeleton, self.run.folder / self.run.shard(None)
        computes, missing = self.computes and self.to_visit, world()[0] == 0 and not path.exists()
        names = skeleton.outside_blocks if computes or missing else []
        outside = self._counted(skeleton.shards.read(names))
        if missing:
            self.bytes_written += write_shard(path, outside)
        with ExitStack() as stack:
            if computes:
                tensors = {name: outside[stored] for name, stored in skeleton.before_blocks.items()}
                tensors = skeleton.cast(skeleton.model, tensors)
                tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
                stack.enter_context(replaced_tensors(skeleton.model, tensors))
                del tensors
                for kind in dict.fromkeys(type(block) for block in skeleton.blocks):
                    # one block of each kind is run once, to learn whether it returns a tuple
                    index = next(index for index, block in enumerate(skeleton.blocks) if type(block) is kind)
                    self._prefetch([index])
                    stack.enter_context(replaced_tensors(skeleton.blocks[index], self._weights(index)))
            outside.clear()
            yield
        first = self.to_visit[:1]
        self._reading = {index: reading for index, reading in self._reading.items() if index in first}
        self._prefetch(first)

    def finished(self, index: int) -> list[dict] | None:
        """The rows of a block that an earlier run finished, or None."""
        return self.run.rows.get(index)

    @contextmanager
    def visit(self, index: int):
        """Put a block's weights in place while the context is open, and start to read the next block."""
        with self.clock("load"):
            weights = self._weights(index)
            del self._reading[index]
        after = self.to_visit.index(index) + 1
        self._prefetch(self.to_visit[after : after + 1])
        with replaced_tensors(self.skeleton.blocks[index], weights):
            yield self.device

    def keep(self, index: int, rows: list[dict], masks: dict[str, torch.Tensor | None]) -> None:
        """Hand the pruned block to the writer. It is safe on disk once the next block is handed over."""
        with self.clock("write"):
            tensors = self._to_write(index)
            masks = self._masks_of_cast_layers(index, masks)
            ready = self._on.current_stream(self.device).record_event() if self._streams else None
            self._wait_for_writer()
            if world()[0] == 0:
                seconds = dict(self.clock.seconds)
                self._leaving = self._writer.submit(self._home, tensors, ready)
                self._writing = self._writer.submit(self._write, index, self._leaving, masks, rows, seconds)

    def _masks_of_cast_layers(self, index: int, masks: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        """The masks, by name in the checkpoint, of layers whose stored dtype is not the one they are computed in."""
        block, names, stored_masks = self.skeleton.blocks[index], self.skeleton.names[index], {}
        for name, mask in masks.items():
            layer, stored = block.get_submodule(name), names[f"{name}.weight"]
            if mask is not None and layer.weight.dtype != FLOATS[self.skeleton.shards.kinds[stored]]:
                stored_masks[stored] = (mask.T if isinstance(layer, Conv1D) else mask).cpu()
        return stored_masks

    def _to_write(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of a pruned block that are written as they are; the others are read again from the source."""
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
            if index not in self._reading:
                self._reading[index] = self._reader.submit(self._load, index, self._leaving)

    def _weights(self, index: int) -> dict[str, torch.Tensor]:
        """The weights of a block on the device, once they are read, for the current stream to use and to free."""
        weights = self._reading[index].result()
        if not self._streams:
            return {name: tensor.to(self.device) for name, tensor in weights.items()}
        for tensor in weights.values():
            tensor.record_stream(self._on.current_stream(self.device))
        return weights

    def _load(self, index: int, leaving: Future | None) -> dict[str, torch.Tensor]:
        """The weights of a block {name in it: tensor}, from the destination if it is finished; by stream on the device.

        There they wait until the block that leaves has made room: two blocks are on the device, never three.
        """
        names = self.skeleton.names[index]
        if index in self.run.rows:
            tensors = read_shard(self.run.folder / self.run.shard(index), names.values())
        else:
            tensors = self.skeleton.shards.read(names.values())
        self._counted(tensors)
        tensors = {name: tensors[stored] for name, stored in names.items()}
        if self.computes:
            tensors = self.skeleton.cast(self.skeleton.blocks[index], tensors)
        if not self._streams:
            return tensors
        if leaving is not None:
            wait([leaving])
        with self._on.stream(self._streams[0]):
            tensors = {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in tensors.items()}
        self._streams[0].synchronize()
        return tensors

    def _home(self, tensors: dict[str, torch.Tensor], ready) -> dict[str, torch.Tensor]:
        """A pruned block's tensors, copied into CPU memory one by one, each of which makes room on the device."""
        with self._on.stream(self._streams[1]) if self._streams else nullcontext():
            if self._streams:
                self._streams[1].wait_event(ready)
            for name in tensors:
                tensors[name] = tensors[name].cpu()
        return tensors

    def _write(self, index: int, home: Future, masks: dict, rows: list[dict], seconds: dict) -> None:
        tensors = home.result()
        rounded = [stored for stored in self.skeleton.names[index].values() if stored not in tensors]
        originals = self._counted(self.skeleton.shards.read(rounded))  # kept weights keep all bits of the source
        for stored, mask in masks.items():
            originals[stored].masked_fill_(mask, 0)
        tensors |= originals
        self.bytes_written += write_shard(self.run.folder / self.run.shard(index), tensors)
        self.run.add(index, rows, seconds)

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _counted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.bytes_read.append(sum(tensor.nbytes for tensor in tensors.values()))
        return tensors
