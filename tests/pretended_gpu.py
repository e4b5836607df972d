"""A pretended GPU, for tests on a machine without one: its tensors say cuda:0, are computed on the CPU, and are strict.

    with pretended_gpu.device() as gpu:  # gpu.alive, gpu.peak, gpu.copies, gpu.waits, gpu.emptied
        wn.prune(model, tokens, device="cuda")

Strict: what CUDA refuses (tensors of two devices in one operator, numpy, a second device) raises here; so does what
real streams could do in the wrong order (Race), whether or not it went well this time. Counted: bytes alive on the
device and their peak, every copy to and from it, and how often the host waits.

What it cannot tell: no backward pass (autograd asks C++ for the accelerator); the CPU's numbers, not those of a GPU's
kernels; one device; memory without an allocator's rounding and cache, and without the scratch inside kernels; host
threads know of each other's waiting at once; ``numpy``, ``tolist`` and safetensors read pinned memory unseen.
Its hooks reach into all of torch: run it in a process of its own. Numbers are the CPU's bit for bit only where both
take the same kernels, for attention under ``sdpa_kernel(SDPBackend.MATH)``.
"""

import ctypes
import threading
import weakref
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch._dynamo  # torch would import it under way, in the midst of an operator
from pretended_streams import Clocks, Memory, classes, site
from pretended_tensors import Tensor, changed, hold, makes_the_host_wait, refuse_mixed, replace_tensors, tensors_in
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
DEVICE_TYPES = {"cuda": 1, "xpu": 12, "mps": 13}  # c10::DeviceType


class Copy(NamedTuple):
    """Bytes on their way between the host and the device."""

    way: str  #: "in" or "out"
    bytes: int
    where: str  #: the line that asked for it
    moment: int  #: operations launched before it, on all streams


class Mode(TorchDispatchMode):
    """Shows the device every operator of a thread: what is made there, what is there, what is pinned."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.gpu.run(func, args, kwargs or {})


class Gpu(Clocks):
    """The device: its memory, its streams, and what operators do to both."""

    def __init__(self, kind: str, total: int, float64: bool, answers_wait: bool):
        super().__init__()
        self.answers_wait = answers_wait
        self.device, self.total, self.float64 = torch.device(kind, 0), total, float64
        self.alive = self.peak = self.emptied = 0  # bytes, bytes, calls of empty_cache
        self.lacks: tuple[str, ...] = ()  # operators, such as "aten::kthvalue"
        self.free: int | None = None  # what the device says is free, if not the truth
        self.kept = 0  # bytes that the allocator keeps for later
        self.initialised = False
        self.copies: list[Copy] = []
        self.memories: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # storage on the device -> Memory
        self.pinned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # storage on the host -> Memory

    def copied(self, way: str) -> int:
        """Bytes copied "in" or "out"."""
        return sum(copy.bytes for copy in self.copies if copy.way == way)

    # Memory

    def wrap(self, held: torch.Tensor) -> Tensor:
        """A tensor on the device, in new memory if its storage is new."""
        if held.dtype == torch.float64 and not self.float64:
            raise TypeError(f"Cannot convert a tensor to float64: {self.device.type} has no float64.")
        how = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(Tensor, held.size(), **how, device=self.device)
        tensor.held, tensor.gpu, tensor.memory = held, self, self.memory(held.untyped_storage())
        return tensor

    def memory(self, storage: torch.UntypedStorage) -> Memory:
        with self.lock:
            memory = self.memories.get(storage)
            if memory is None:
                size = storage.nbytes()
                if self.alive + size > self.total:
                    raise torch.OutOfMemoryError(f"Tried to allocate {size} bytes, {self.total - self.alive} are free.")
                self.alive += size
                self.peak = max(self.peak, self.alive)
                memory = self.memories[storage] = Memory(size, self.stream)
                weakref.finalize(storage, self.freed, memory).atexit = False
        return memory

    def freed(self, memory: Memory) -> None:
        with self.lock:
            self.alive -= memory.size
        super().freed(memory)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Notes that a tensor on the host lies in pinned memory, which copies may use while the host goes on."""
        storage = tensor.untyped_storage()
        self.pinned.setdefault(storage, Memory(storage.nbytes(), self.stream))
        return tensor

    def memories_of(self, tensors) -> set[Memory]:
        """The memories of those tensors that are on the device, or pinned."""
        there = {x.memory for x in tensors if isinstance(x, Tensor)}
        if self.pinned:
            there |= {self.pinned.get(x.untyped_storage()) for x in tensors if not isinstance(x, Tensor)}
        return there - {None}

    # Operators

    def mine(self, device) -> bool:
        """Whether a device is this one. Raises RuntimeError for another one of its kind."""
        if device is None or torch.device(device).type != self.device.type:
            return False
        if torch.device(device).index not in (None, 0):
            raise RuntimeError(f"{self.device.type} error: invalid device ordinal")
        return True

    def run(self, func, args, kwargs):
        """What an operator does, wherever its tensors are."""
        tensors, made = tensors_in(args, kwargs), kwargs.get("device")
        there = [x for x in tensors if isinstance(x, Tensor)]
        if not there and not self.mine(made):
            return self.run_on_host(func, args, kwargs, tensors)
        self.initialised = True
        if func.name() in self.lacks:
            raise NotImplementedError(f"The operator '{func.name()}' is not currently implemented for {self.device}.")
        if func is aten._to_copy.default:
            return self.to(*args, **kwargs)
        if func is aten.copy_.default:
            return self.copy(*args, **kwargs)
        if func is aten.is_pinned.default:
            return False
        if kwargs.get("pin_memory"):
            raise RuntimeError("Only dense CPU tensors can be pinned")
        if made is None:
            refuse_mixed(func, args, kwargs, tensors)
        else:
            kwargs = {**kwargs, "device": torch.device("cpu") if self.mine(made) else made}
        result = func(*replace_tensors(args, hold), **replace_tensors(kwargs, hold))
        if made is not None and not self.mine(made):
            return result
        known = {id(x.held): x for x in there}  # in place: the same tensor
        result = replace_tensors(result, lambda x: known[id(x)] if id(x) in known else self.wrap(x))
        reads, writes = self.uses(func, args, kwargs, there, result)
        answers = makes_the_host_wait(func, there)
        if writes or answers:  # else a view, which launches nothing
            self.launch(reads, writes, answers and self.answers_wait)
        return result

    def uses(self, func, args, kwargs, tensors, result) -> tuple[set[Memory], set[Memory]]:
        """The memories that an operator reads, and those that it makes or changes."""
        reads = self.memories_of(tensors)
        made = self.memories_of(tensors_in(result)) - reads
        return reads, made | self.memories_of(changed(func, args, kwargs))

    def run_on_host(self, func, args, kwargs, tensors):
        """An operator on the host alone, which must not touch pinned memory that a copy is still using."""
        if func is aten.is_pinned.default:
            return bool(self.memories_of(args))
        if func is aten._pin_memory.default:
            return self.pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self.pin(func(*args, **{**kwargs, "pin_memory": False}))
        result = func(*args, **kwargs)
        if self.pinned and tensors:
            reads, writes = self.uses(func, args, kwargs, tensors, result)
            if writes or not self.memories_of(tensors_in(result)):  # else a view
                self.expect(self.host, "the host", reads, writes)
        return result

    def to(self, x, *, device=None, dtype=None, non_blocking=False, memory_format=None, **_):
        """A copy of x, there or elsewhere. What goes home without blocking arrives in pinned memory, as in torch."""
        there = self.mine(x.device if device is None else device)
        how = {"dtype": dtype} | ({"memory_format": memory_format} if memory_format is not None else {})
        if device is not None and torch.device(device).type == "meta":
            return aten._to_copy.default(hold(x), device=device, **how)
        y = aten._to_copy.default(hold(x), **how)
        y = self.wrap(y) if there else self.pin(y) if non_blocking else y
        self.moved(x, y, non_blocking)
        return y

    def copy(self, to, x, non_blocking=False):
        """to.copy_(x), where one of them is on the device."""
        hold(to).copy_(hold(x))
        self.moved(x, to, non_blocking)
        return to

    def moved(self, x, to, non_blocking: bool) -> None:
        """Accounts for a copy; the host waits for it unless it need not block and the host's side is pinned."""
        inward, waits = isinstance(to, Tensor), False
        if inward != isinstance(x, Tensor):
            self.copies.append(Copy("in" if inward else "out", x.nbytes, site(), self.launched.total()))
            waits = not non_blocking or not self.memories_of([x if inward else to])
        self.launch(self.memories_of([x]), self.memories_of([to]), waits)


def offered(gpu: Gpu, name: str, capability: tuple[int, int]) -> dict:
    """What torch.cuda, torch.xpu, torch.mps and torch.accelerator say and do of the device, each as far as it can."""
    Stream, Event = classes(gpu, gpu.device)

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
        return gpu.total - gpu.alive - gpu.kept if gpu.free is None else gpu.free, gpu.total

    def no_account(*_):
        raise RuntimeError("The allocator of mps is no DeviceAllocator.")

    def empty_cache():
        gpu.emptied += 1

    def has_bf16(including_emulation=True):
        return including_emulation or capability >= (8, 0)

    def alive(*_):
        return gpu.alive

    def reserved(*_):
        return gpu.alive + gpu.kept

    properties = SimpleNamespace(name=name, total_memory=gpu.total, major=capability[0], minor=capability[1])
    accounts = ("max_memory_allocated", "memory_allocated", "reset_peak_memory_stats", "get_memory_info")
    return {
        **dict.fromkeys(("init", "_lazy_init", "current_device", "current_device_index"), initialise),
        **dict.fromkeys(("set_device", "set_device_index"), initialise),
        **dict.fromkeys(("mem_get_info", "get_memory_info"), memory_info),
        **dict.fromkeys(("memory_allocated", "current_allocated_memory", "driver_allocated_memory"), alive),
        **dict.fromkeys(("memory_reserved", "max_memory_reserved"), reserved),
        **dict.fromkeys(("is_built", "is_available"), lambda: True),
        "is_initialized": lambda: gpu.initialised, "device_count": lambda: 1,
        "current_accelerator": lambda *_, **__: gpu.device, "recommended_max_memory": lambda: gpu.total,
        "max_memory_allocated": lambda *_: gpu.peak, "reset_peak_memory_stats": reset_peak,
        "synchronize": lambda *_: gpu.wait(), "empty_cache": empty_cache, "Stream": Stream, "Event": Event,
        "stream": lambda stream: stream, "current_stream": lambda *_: Stream(number=gpu.stream),
        "get_device_name": lambda *_: name, "get_name": lambda: name, "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties, "is_bf16_supported": has_bf16,
        **(dict.fromkeys(accounts, no_account) if gpu.device.type == "mps" else {}),
    }  # fmt: skip


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """scaled_dot_product_attention; C++ chooses its kernel by the device, of which it knows nothing."""
    if not isinstance(query, Tensor):
        return ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    how = {"scale": scale, "enable_gqa": enable_gqa}
    return aten._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, is_causal, **how)[0]


ATTENTION = torch.nn.functional.scaled_dot_product_attention
GUARDS: dict = {}  # C++ keeps pointers into them


def set_guard(kind: str) -> None:
    """C++ asks a registry for the guard of a tensor's device: none in a build without the backend, else one that fails.

    The guard put there has a table of virtual functions that all answer with the device: its type in one byte, then
    its index, 0.
    """
    library = next((Path(torch.__file__).parent / "lib").glob("libc10.*"))
    registry = (ctypes.c_void_p * 16).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    number = DEVICE_TYPES[kind]
    answer = ctypes.CFUNCTYPE(ctypes.c_short)(lambda: number)
    table = (ctypes.c_void_p * 64)(*[ctypes.cast(answer, ctypes.c_void_p).value] * 64)
    guard = ctypes.c_void_p(ctypes.addressof(table))
    GUARDS[kind] = answer, table, guard
    registry[number] = ctypes.addressof(guard)


@contextmanager
def device(kind="cuda", *, total=2**33, float64=True, capability=(8, 0), name="Pretended GPU", answers_wait=True):
    """A while with one device of a kind ("cuda", "xpu" or "mps") and so many bytes of memory.

    answers_wait: whether streams may rely on the host's waiting for an answer (``item``, ``nonzero``). If not, an order
    that nothing else asks for is a Race.
    Raises Race at the end for memory that was freed too early, if nothing else was raised.
    """
    if kind not in GUARDS:
        set_guard(kind)
    gpu = Gpu(kind, total, float64, answers_wait)
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
            for module in (getattr(torch, kind), torch.accelerator, *[torch.backends.mps] * (kind == "mps")):
                stack.enter_context(patch.multiple(module, **{n: f for n, f in does.items() if hasattr(module, n)}))
            stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", attention))
            stack.enter_context(patch.object(threading.Thread, "run", run))
            stack.enter_context(Mode(gpu))
            yield gpu
        gpu.check()
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        torch.__future__.set_swap_module_params_on_conversion(swap)
