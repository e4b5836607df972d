"""Streams and events of a pretended GPU, as vector clocks: what real streams could do in the wrong order is a Race.

Each stream counts its launches. A clock says up to which launch of every stream its owner, another stream or the host,
has waited; a Counter is such a clock, and ``|=`` is what waiting does to it.
"""

import itertools
import os
import sys
import sysconfig
import threading
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

import torch

FOREIGN = (
    str(Path(torch.__file__).parents[1]),
    sysconfig.get_path("stdlib"),
    str(Path(__file__).with_name("pretended")),
    "<",
)


class Race(RuntimeError):
    """Real streams could have done this in the wrong order."""


class Memory:
    """One storage, on the device or pinned on the host: which streams have used it, and when."""

    def __init__(self, size: int, stream: int):
        self.size, self.stream, self.where = size, stream, site()
        self.write: tuple[int, int] | None = None  # stream and time of the last write
        self.reads: Counter = Counter()  # stream -> time of its last read since
        self.told: set[int] = set()  # streams of record_stream

    def uses(self, reads: bool = True) -> list[tuple[int, int]]:
        """(stream, time) of what has to be over before the memory is written, or (reads=False) read."""
        return ([self.write] if self.write else []) + (list(self.reads.items()) if reads else [])


class Clocks:
    """Who has waited for whom."""

    def __init__(self):
        self.launched: Counter = Counter()  # stream -> operations so far
        self.clocks: dict[int, Counter] = defaultdict(Counter)
        self.host: Counter = Counter()
        self.waits: Counter = Counter()  # how often the host waited for "a stream", and for the whole "device"
        self.races: list[str] = []  # found in destructors, which cannot raise
        self.lock, self.local = threading.RLock(), threading.local()

    @property
    def entered(self) -> list[int]:
        """The streams that this thread has entered and not left; number 0 is everyone's."""
        return self.local.__dict__.setdefault("entered", [0])

    @property
    def stream(self) -> int:
        return self.entered[-1]

    def check(self) -> None:
        """Raises Race for what was found since the last time."""
        with self.lock:
            found, self.races = self.races, []
        if found:
            raise Race("; ".join(dict.fromkeys(found)))

    def launch(self, reads: set[Memory], writes: set[Memory], waits: bool = False) -> None:
        """One more operation on the current stream. Raises Race unless it comes after all that it depends on."""
        self.check()
        with self.lock:
            stream = self.stream
            seen = self.clocks[stream]
            seen |= self.host
            self.launched[stream] = seen[stream] = now = self.launched[stream] + 1
            self.expect(seen, f"stream {stream}", reads, writes)
            for memory in writes:
                memory.write, memory.reads = (stream, now), Counter()
            for memory in reads - writes:
                memory.reads[stream] = now
            if waits:
                self.wait(stream)

    def expect(self, seen: Counter, who: str, reads: set[Memory], writes: set[Memory]) -> None:
        """Raises Race unless who has seen everything that reading and writing here must come after."""
        for memory in reads | writes:
            for other, time in memory.uses(reads=memory in writes):
                if seen[other] < time:
                    what = "writes" if memory in writes else "reads"
                    raise Race(f"{who} {what} at {site()} what stream {other} may use ({memory.where}): wait for it")

    def freed(self, memory: Memory) -> None:
        """The allocator may hand the memory to its own stream at once, unless it was told of others."""
        with self.lock:
            seen = self.clocks[memory.stream] | self.host
            for stream, time in memory.uses():
                if stream not in (memory.stream, *memory.told) and seen[stream] < time:
                    self.races.append(
                        f"memory of stream {memory.stream} ({memory.where}) is freed while stream {stream} may use it: "
                        "record_stream, or wait"
                    )

    def wait(self, stream: int | None = None) -> None:
        """The host waits for a stream, or for all."""
        with self.lock:
            self.waits["device" if stream is None else "a stream"] += 1
            self.host |= self.launched if stream is None else self.clocks[stream]


def classes(clocks: Clocks, device: torch.device) -> tuple[type, type]:
    """The classes Stream and Event of a device."""

    def number(stream=None) -> int:
        return clocks.stream if stream is None else stream.number

    class Event:
        def __init__(self, *_, **__):
            self.seen = Counter()

        def record(self, stream=None):
            self.seen = Counter(clocks.clocks[number(stream)])

        def wait(self, stream=None):
            clocks.clocks[number(stream)] |= self.seen

        def synchronize(self):
            clocks.host |= self.seen

    class Stream:
        numbers = itertools.count(1)

        def __init__(self, *_, number=None, **__):
            self.number, self.device = next(self.numbers) if number is None else number, device

        def __enter__(self):
            clocks.entered.append(self.number)
            return self

        def __exit__(self, *_):
            clocks.entered.pop()

        def synchronize(self):
            clocks.wait(self.number)

        def record_event(self, event=None):
            event = event or Event()
            event.record(self)
            return event

        def wait_event(self, event):
            event.wait(self)

        def wait_stream(self, stream):
            self.wait_event(stream.record_event())

    return Stream, Event


def site() -> str:
    """The line under way, outside libraries."""
    frame = sys._getframe(1)
    while frame.f_back and _foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


@lru_cache(None)
def _foreign(file: str) -> bool:
    return file.startswith(FOREIGN)
