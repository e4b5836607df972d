"""A pretended GPU, for tests on a machine without one: its tensors say cuda:0, are computed on the CPU, and are strict.

    with pretended_gpu.device() as gpu:  # gpu.alive, gpu.peak, gpu.copies, gpu.calls
        wn.prune(model, tokens, device="cuda")

Strict: what CUDA refuses (tensors of two devices in one operator, numpy, a second device) raises here; so does what
real streams could do in the wrong order (Race), whether or not it went well this time. Counted: bytes alive on the
device and their peak, every copy to and from it, and calls that make the host wait.

What it cannot tell: no backward pass (autograd asks C++ for the accelerator); the CPU's numbers, not those of a GPU's
kernels; one device; memory without an allocator's rounding and cache, and without the scratch inside kernels; host
threads know of each other's waiting at once. ``numpy`` and ``safetensors`` read pinned memory unseen.
Its hooks reach into all of torch: run it in a process of its own. Numbers are the CPU's bit for bit only where both
take the same kernels, for attention under ``sdpa_kernel(SDPBackend.MATH)``.
"""

import ctypes
import itertools
import sys
import sysconfig
import threading
import weakref
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch._dynamo  # torch would import it under way, in the midst of an operator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
DEVICE_TYPES = {"cuda": 1, "xpu": 12, "mps": 13}  # c10::DeviceType
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FILLING = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill.Tensor, aten.fill_.Tensor}
FOREIGN = (str(Path(torch.__file__).parents[1]), sysconfig.get_path("stdlib"), __file__, "<")


class Race(RuntimeError):
    """Real streams could have done this in the wrong order."""


class Copy(NamedTuple):
    """Bytes on their way between the host and the device."""

    way: str  #: "in" or "out"
    bytes: int
    where: str  #: the line that asked for it
    moment: int  #: operations launched before it, on all streams


class Memory:
    """One storage, on the device or pinned on the host: which streams have used it, and when."""

    def __init__(self, size: int, stream: int):
        self.size, self.stream, self.where = size, stream, site()
        self.write: tuple[int, int] | None = None  # stream and time of the last write
        self.reads: Counter = Counter()  # stream -> time of the last read since
        self.told: set[int] = set()  # streams of record_stream

    def uses(self, reads: bool = True) -> list[tuple[int, int]]:
        """(stream, time) of what has to be over before the memory is written, or (reads=False) read."""
        return ([self.write] if self.write else []) + (list(self.reads.items()) if reads else [])


class Tensor(torch.Tensor):
    """A tensor on the device; ``held``, on the CPU, has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data, requires_grad=False, **_):
        return torch.nn.Parameter(data, requires_grad)  # accelerate calls type(parameter)(data)

    def __init__(self, *_, **__):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        gpu = next(leaf.gpu for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return gpu.run(func, args, kwargs or {})

    def __deepcopy__(self, memo):
        copy = self.detach().clone()
        return memo.setdefault(id(self), torch.nn.Parameter(copy, self.requires_grad) if self._is_parameter() else copy)

    def __repr__(self, **_):
        return f"{self.held!r} on {self.device}"

    def _is_parameter(self):
        return isinstance(self, torch.nn.Parameter)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    def record_stream(self, stream):
        self.gpu.memory_of(self).told.add(stream.number)


class Mode(TorchDispatchMode):
    """Shows the device every operator of a thread: what is made there, what is there, what is pinned."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.gpu.run(func, args, kwargs or {})


class Gpu:
    """The device: its memory, its streams, and what operators do to both.

    Streams are followed with vector clocks. Each stream counts its launches; a clock says up to which launch of every
    stream its owner has waited. A Counter is a clock, and ``|=`` is what waiting does to it.
    """

    def __init__(self, kind: str, total: int, float64: bool):
        self.device, self.total, self.float64 = torch.device(kind, 0), total, float64
        self.alive = self.peak = 0
        self.free: int | None = None  # what the device says is free, if not the truth
        self.initialised = False
        self.copies: list[Copy] = []
        self.calls: Counter = Counter()  # empty_cache; waits of the host for a stream, and for the whole device
        self.races: list[str] = []
        self.memories: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # storage on the device -> Memory
        self.pinned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # storage on the host -> Memory
        self.launched: Counter = Counter()
        self.clocks: dict[int, Counter] = defaultdict(Counter)
        self.host: Counter = Counter()
        self.lock, self.local = threading.RLock(), threading.local()

    @property
    def stream(self) -> int:
        """The current stream of this thread."""
        return (self.streams() or [0])[-1]

    def streams(self) -> list[int]:
        """The streams that this thread has entered and not left."""
        return self.local.__dict__.setdefault("entered", [])

    def copied(self, way: str) -> int:
        """Bytes copied "in" or "out"."""
        return sum(copy.bytes for copy in self.copies if copy.way == way)

    # Memory

    def memory_of(self, tensor: torch.Tensor) -> Memory | None:
        """The memory of a tensor on the device or pinned; None for any other."""
        storage = tensor.untyped_storage()
        return (self.memories if isinstance(tensor, Tensor) else self.pinned).get(storage)

    def wrap(self, held: torch.Tensor) -> Tensor:
        """A tensor on the device, in new memory if its storage is new."""
        if held.dtype == torch.float64 and not self.float64:
            raise TypeError(f"Cannot convert a tensor to float64: {self.device.type} has no float64.")
        storage = held.untyped_storage()
        with self.lock:
            if storage not in self.memories:
                if self.alive + storage.nbytes() > self.total:
                    left = self.total - self.alive
                    raise torch.OutOfMemoryError(f"Tried to allocate {storage.nbytes()} bytes, {left} are free.")
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                self.memories[storage] = memory = Memory(storage.nbytes(), self.stream)
                weakref.finalize(storage, self.freed, memory).atexit = False
        how = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(Tensor, held.size(), **how, device=self.device)
        tensor.held, tensor.gpu = held, self
        return tensor

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Notes that a tensor on the host lies in pinned memory, which copies may use while the host goes on."""
        self.pinned.setdefault(tensor.untyped_storage(), Memory(tensor.untyped_storage().nbytes(), self.stream))
        return tensor

    def freed(self, memory: Memory) -> None:
        """The allocator may hand the memory to its own stream at once, unless it was told of others."""
        with self.lock:
            self.alive -= memory.size
            seen = self.clocks[memory.stream] | self.host
            for stream, time in memory.uses():
                if stream not in (memory.stream, *memory.told) and seen[stream] < time:
                    self.races.append(
                        f"memory of stream {memory.stream} ({memory.where}) is freed while stream {stream} may use it: "
                        "record_stream, or wait"
                    )

    # Streams

    def check(self) -> None:
        """Raises Race for what was found since the last time, when it could not be raised (in a destructor)."""
        with self.lock:
            found, self.races = self.races, []
        if found:
            raise Race("; ".join(dict.fromkeys(found)))

    def launch(self, reads: set, writes: set, waits: bool = False) -> None:
        """One more operation on the current stream. Raises Race unless it comes after all that it depends on."""
        self.check()
        with self.lock:
            stream = self.stream
            seen = self.clocks[stream]
            seen |= self.host
            self.launched[stream] += 1
            seen[stream] = now = self.launched[stream]
            self._expect(seen, f"stream {stream}", reads, writes)
            for memory in writes:
                memory.write, memory.reads = (stream, now), Counter()
            for memory in reads - writes:
                memory.reads[stream] = now
            if waits:
                self.wait(stream)

    def _expect(self, seen: Counter, who: str, reads: set, writes: set) -> None:
        for memory in reads | writes:
            for other, time in memory.uses(reads=memory in writes):
                if seen[other] < time:
                    what = "writes" if memory in writes else "reads"
                    raise Race(f"{who} {what} at {site()} what stream {other} may use ({memory.where}): wait for it")

    def wait(self, stream: int | None = None) -> None:
        """The host waits for a stream, or for all."""
        with self.lock:
            self.calls["wait for the device" if stream is None else "wait for a stream"] += 1
            self.host |= self.launched if stream is None else self.clocks[stream]

    # Operators

    def mine(self, device) -> bool:
        """Whether a device is this one. Raises RuntimeError for another one of its kind."""
        device = torch.device(device) if device is not None else None
        if device is None or device.type != self.device.type:
            return False
        if device.index not in (None, 0):
            raise RuntimeError(f"{device.type} error: invalid device ordinal")
        return True

    def run(self, func, args, kwargs):
        """What an operator does, wherever its tensors are."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        if not there and not self.mine(kwargs.get("device")):
            return self.run_on_host(func, args, kwargs, tensors)
        self.initialised = True
        if func is aten._to_copy.default:
            return self.to(*args, **kwargs)
        if func is aten.copy_.default:
            return self.copy(*args, **kwargs)
        if func is aten.is_pinned.default:
            return False
        if kwargs.get("pin_memory"):
            raise RuntimeError("Only dense CPU tensors can be pinned")
        if "device" not in kwargs:
            refuse_mixed(func, args, kwargs)
        result = self.compute(func, args, kwargs)
        if kwargs.get("device") is not None and not self.mine(kwargs["device"]):
            return result
        known = {id(tensor.held): tensor for tensor in there}
        result = tree_map(lambda x: known[id(x)] if id(x) in known else self.wrap(x) if isinstance(x, torch.Tensor) else x, result)
        reads, writes = self.touched(func, args, kwargs, there, result)
        waits = makes_the_host_wait(func, there)
        if writes or waits:  # else a view, which launches nothing
            self.launch(reads, writes, waits)
        return result

    def compute(self, func, args, kwargs):
        """An operator on what its tensors hold."""
        if self.mine(kwargs.get("device")):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        with _disable_current_modes():
            return func(*args, **kwargs)

    def touched(self, func, args, kwargs, tensors, result) -> tuple[set, set]:
        """The memories that an operator reads and writes, as far as they are known."""
        reads = {self.memory_of(tensor) for tensor in tensors}
        writes = {self.memory_of(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)} - reads
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                changed = tree_leaves(given.get(argument.name))
                writes |= {self.memory_of(leaf) for leaf in changed if isinstance(leaf, torch.Tensor)}
        return reads - {None}, writes - {None}

    def run_on_host(self, func, args, kwargs, tensors):
        """An operator on the host alone, which must not touch pinned memory that a copy is still using."""
        if func is aten.is_pinned.default:
            return self.memory_of(args[0]) is not None
        if func is aten._pin_memory.default:
            return self.pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self.pin(func(*args, **{**kwargs, "pin_memory": False}))
        result = func(*args, **kwargs)
        if self.pinned and tensors:
            reads, writes = self.touched(func, args, kwargs, tensors, result)
            new = any(isinstance(x, torch.Tensor) and self.memory_of(x) is None for x in tree_leaves(result))
            if writes or new or not isinstance(result, torch.Tensor):  # else a view
                self._expect(self.host, "the host", reads, writes)
        return result

    def to(self, x, *, device=None, dtype=None, non_blocking=False, memory_format=None, **_):
        """A copy of x, there or elsewhere. What goes home without blocking arrives in pinned memory, as in torch."""
        there = self.mine(x.device if device is None else device)
        how = {"dtype": dtype} | ({"memory_format": memory_format} if memory_format is not None else {})
        with _disable_current_modes():
            if device is not None and torch.device(device).type == "meta":
                return aten._to_copy.default(x.held, device=device, **how)
            y = aten._to_copy.default(getattr(x, "held", x), **how)
        if there:
            y = self.wrap(y)
        elif non_blocking:
            y = self.pin(y)
        self.moved(x, y, non_blocking)
        return y

    def copy(self, to, x, non_blocking=False):
        """to.copy_(x), where one of them is on the device."""
        with _disable_current_modes():
            getattr(to, "held", to).copy_(getattr(x, "held", x))
        self.moved(x, to, non_blocking)
        return to

    def moved(self, x, to, non_blocking: bool) -> None:
        """Accounts for a copy; the host waits for it unless it need not block and the host's side is pinned."""
        crosses = isinstance(x, Tensor) != isinstance(to, Tensor)
        if crosses:
            way = "in" if isinstance(to, Tensor) else "out"
            with self.lock:
                self.copies.append(Copy(way, x.nbytes, site(), self.launched.total()))
        pageable = crosses and self.memory_of(x if isinstance(to, Tensor) else to) is None
        self.launch({self.memory_of(x)} - {None}, {self.memory_of(to)} - {None}, crosses and (pageable or not non_blocking))


def site() -> str:
    """The line under way, outside libraries."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(FOREIGN):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def refuse_mixed(func, args, kwargs) -> None:
    """Raises as CUDA does where operands lie on two devices; indices and plain numbers may lie on the CPU."""
    operands = args if func not in INDEXING else (args[0], *args[2:])
    tensors = [leaf for leaf in tree_leaves((operands, kwargs)) if isinstance(leaf, torch.Tensor)]
    takes_numbers = func in INDEXING or func in FILLING or torch.Tag.pointwise in func.tags
    written = args[0] if func._schema.arguments[0].alias_info is not None else None
    at_home = [tensor for tensor in tensors if not isinstance(tensor, Tensor)]
    if len(at_home) == len(tensors):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    for tensor in at_home:
        if tensor.ndim or not takes_numbers or tensor is written:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{next(leaf.device for leaf in tensors if isinstance(leaf, Tensor))} and {tensor.device}! ({func})"
            )


def makes_the_host_wait(func, tensors) -> bool:
    """Whether the answer, or its shape, is a number on the host."""
    if func in INDEXING:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


def streams(gpu: Gpu) -> tuple[type, type]:
    """The classes Stream and Event of a device."""

    class Event:
        def __init__(self, *_, **__):
            self.seen = Counter()

        def record(self, stream=None):
            self.seen = gpu.clocks[gpu.stream if stream is None else stream.number] | gpu.host

        def wait(self, stream=None):
            clock = gpu.clocks[gpu.stream if stream is None else stream.number]
            clock |= self.seen

        def synchronize(self):
            gpu.host |= self.seen

    class Stream:
        numbers = itertools.count(1)

        def __init__(self, *_, number=None, **__):
            gpu.initialised = True
            self.number, self.device = next(self.numbers) if number is None else number, gpu.device

        def __enter__(self):
            gpu.streams().append(self.number)
            return self

        def __exit__(self, *_):
            gpu.streams().pop()

        def synchronize(self):
            gpu.wait(self.number)

        def record_event(self, event=None):
            event = event or Event()
            event.record(self)
            return event

        def wait_event(self, event):
            event.wait(self)

        def wait_stream(self, stream):
            self.wait_event(stream.record_event())

    return Stream, Event


def offered(gpu: Gpu, name: str, capability: tuple[int, int]) -> dict:
    """What torch.cuda, torch.xpu, torch.mps and torch.accelerator say and do of the device, each as far as it can."""
    Stream, Event = streams(gpu)

    def initialise(*_):
        gpu.initialised = True
        return 0

    def reset_peak(device=None):
        if device is None or torch.device(device).index is None:
            initialise()  # as torch does, to ask for the current device
        if not gpu.initialised:
            raise RuntimeError("Invalid device argument 0: did you call init?")
        gpu.peak = gpu.alive

    def memory_info(*_):
        initialise()
        return gpu.total - gpu.alive if gpu.free is None else gpu.free, gpu.total

    properties = SimpleNamespace(name=name, total_memory=gpu.total, major=capability[0], minor=capability[1])
    return {
        "is_available": lambda: True, "is_initialized": lambda: gpu.initialised, "init": initialise,
        "_lazy_init": initialise, "device_count": lambda: 1, "current_device": initialise, "set_device": initialise,
        "current_accelerator": lambda *_, **__: gpu.device, "current_device_index": initialise,
        "set_device_index": initialise, "mem_get_info": memory_info, "get_memory_info": memory_info,
        "recommended_max_memory": lambda: gpu.total, "memory_allocated": lambda *_: gpu.alive,
        "memory_reserved": lambda *_: gpu.alive, "current_allocated_memory": lambda: gpu.alive,
        "driver_allocated_memory": lambda: gpu.alive, "max_memory_allocated": lambda *_: gpu.peak,
        "reset_peak_memory_stats": reset_peak, "synchronize": lambda *_: gpu.wait(),
        "empty_cache": lambda: gpu.calls.update(["empty_cache"]), "Stream": Stream, "Event": Event,
        "stream": lambda stream: stream, "current_stream": lambda *_: Stream(number=gpu.stream),
        "default_stream": lambda *_: Stream(number=0), "get_device_name": lambda *_: name,
        "get_device_capability": lambda *_: capability, "get_device_properties": lambda *_: properties,
        "is_bf16_supported": lambda including_emulation=True: capability >= (8, 0) or including_emulation,
    }  # fmt: skip


GUARDS: list = []  # C++ keeps pointers into them


def ensure_guard(kind: str) -> None:
    """C++ asks a registry for the guard of a tensor's device, where a build without the backend has a null pointer.

    The guard put there has a table of virtual functions that all answer with the device: its type in one byte, then
    its index, 0.
    """
    library = next((Path(torch.__file__).parent / "lib").glob("libc10.*"))
    registry = (ctypes.c_void_p * 16).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    number = DEVICE_TYPES[kind]
    if not registry[number]:
        answer = ctypes.CFUNCTYPE(ctypes.c_short)(lambda: number)
        table = (ctypes.c_void_p * 64)(*[ctypes.cast(answer, ctypes.c_void_p).value] * 64)
        guard = ctypes.c_void_p(ctypes.addressof(table))
        GUARDS.append((answer, table, guard))
        registry[number] = ctypes.addressof(guard)


@contextmanager
def device(kind="cuda", *, total=2**33, float64=True, capability=(8, 0), name="Pretended GPU"):
    """A while with one device of a kind ("cuda", "xpu" or "mps") and so many bytes of memory.

    Raises Race at the end for memory that was freed too early, if nothing else was raised.
    """
    ensure_guard(kind)
    gpu = Gpu(kind, total, float64)
    run_thread = threading.Thread.run

    def run(thread):  # modes belong to threads
        with Mode(gpu):
            run_thread(thread)

    lift, swap = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") passes through the mode
    torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to keeps the parameters' identity
    try:
        with ExitStack() as stack:
            does = offered(gpu, name, capability)
            for module in (getattr(torch, kind), torch.accelerator):
                stack.enter_context(patch.multiple(module, **{n: f for n, f in does.items() if hasattr(module, n)}))
            stack.enter_context(patch.object(threading.Thread, "run", run))
            stack.enter_context(Mode(gpu))
            yield gpu
        gpu.check()
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        torch.__future__.set_swap_module_params_on_conversion(swap)
