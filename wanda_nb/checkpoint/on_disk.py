"""The place of a checkpoint's blocks: read from the source before they are pruned, written to the destination after."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from transformers.pytorch_utils import Conv1D

from ..blocks import linear_layers
from ..device import streams
from ..distributed import world
from ..patched import replaced_tensors
from ..reporting.progress import Clock
from .resume import Run
from .shards import FLOATS, check_finite, read_shard, write_shard
from .skeleton import Skeleton

KEPT = "Blocks before it are finished and kept."


class FromDisk:
    """Where blocks are read ahead of their turn from a checkpoint, in a thread of its own, and left behind unchanged.

    to_visit: the numbers of the blocks that will be visited, in order. computes: whether blocks are run, in the
    skeleton's dtypes; if not, weights are as they are stored.
    """

    def __init__(self, skeleton: Skeleton, device, clock: Clock, to_visit: list[int], computes: bool = True):
        self.skeleton, self.device, self.clock = skeleton, device, clock
        self.to_visit, self.computes = to_visit, computes
        #: Bytes of each reading, in a list because several threads read.
        self.bytes_read: list[int] = []
        self._reader = ThreadPoolExecutor(1)
        self._reading: dict[int, Future] = {}
        #: The block that a subclass is moving away from the device, which makes room for the next one.
        self._leaving: Future | None = None
        #: The reader's and the writer's, where the device has streams.
        self._on = streams(device)  # torch.cuda, torch.xpu …
        self._streams = [self._on.Stream(device), self._on.Stream(device)] if self._on else None

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self._reader.shutdown(cancel_futures=True)

    @contextmanager
    def beginning(self):
        """Have what lies outside the blocks in place for the first hidden states."""
        skeleton = self.skeleton
        with ExitStack() as stack:
            outside = self._outside_blocks()
            if self.computes and self.to_visit:
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

    def _outside_blocks(self) -> dict[str, torch.Tensor]:
        return self._counted(self.skeleton.shards.read(set(self.skeleton.before_blocks.values())))

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
        """The weights of a block {name in it: tensor}; by stream on the device.

        There they wait until the block that leaves has made room: two blocks are on the device, never three.
        """
        tensors = self._counted(self._stored(index))
        tensors = {name: tensors[stored] for name, stored in self.skeleton.names[index].items()}
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

    def _stored(self, index: int) -> dict[str, torch.Tensor]:
        return self.skeleton.shards.read(self.skeleton.names[index].values())

    def _counted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.bytes_read.append(sum(tensor.nbytes for tensor in tensors.values()))
        return tensors


class OnDisk(FromDisk):
    """A `Place` whose blocks are read ahead of their turn and written once pruned, both in threads of their own."""

    def __init__(self, skeleton: Skeleton, run: Run, device, clock: Clock, computes: bool, updates: bool):
        unfinished = [index for index in range(len(skeleton.blocks)) if index not in run.rows]
        # finished blocks are visited only for the hidden states that leave them
        to_visit = list(range(len(skeleton.blocks))) if computes and unfinished else unfinished
        super().__init__(skeleton, device, clock, to_visit, computes)
        self.run, self.updates = run, updates
        self.bytes_written = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future | None = None

    def __exit__(self, kind, *error):
        super().__exit__(kind, *error)
        self._writer.shutdown()  # what is being written is finished, whatever else went wrong
        if kind is None:
            self._wait_for_writer()

    def finished(self, index: int) -> list[dict] | None:
        """The rows of a block that an earlier run finished, or None."""
        return self.run.rows.get(index)

    def _outside_blocks(self) -> dict[str, torch.Tensor]:
        """What lies outside the blocks; the first rank has it written, too."""
        skeleton, path = self.skeleton, self.run.folder / self.run.shard(None)
        missing = world()[0] == 0 and not path.exists()
        names = skeleton.outside_blocks if missing or (self.computes and self.to_visit) else []
        outside = self._counted(skeleton.shards.read(names))
        if missing:
            self.bytes_written += write_shard(path, outside)
        return outside

    def _stored(self, index: int) -> dict[str, torch.Tensor]:
        """From the destination, if the block is finished."""
        if index in self.run.rows:
            return read_shard(self.run.folder / self.run.shard(index), self.skeleton.names[index].values())
        return super()._stored(index)

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
