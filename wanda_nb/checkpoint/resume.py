"""How a killed run goes on: the record, in its destination, of the blocks that are finished."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..distributed import from_first_rank, world
from ..files import write_text
from ..reporting.card import write_card
from ..reporting.function_identity import Unidentified, function_identity
from ..reporting.report import Report, gib
from .shards import INDEX, RECORD, copy_other_files, write_index

LOCK = "run.lock.tmp"  # .tmp, as an unfinished file: a folder that holds nothing else counts as empty
ROW = {"block", "name", "shape", "asked", "reached", "select s"}


@contextmanager
def in_use(folder: Path):
    """Make a folder if need be, and lock it against other runs. Raises OSError, on every rank, if one holds it."""
    new, lock, refusal = not folder.exists(), FileLock(folder / LOCK, timeout=0), None
    if world()[0] == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            with suppress(OSError):  # some systems refuse to write to a locked file
                (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()} since {time.ctime()}")
        except Timeout:
            refusal = (
                f"{folder} is in use by another run ({_holder(folder)}): wait for it, or choose another destination."
            )
        except OSError as error:
            refusal = f"{folder} cannot be created or locked: {error}. Choose another destination."
    if refusal := from_first_rank(refusal):
        raise OSError(refusal)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                (folder / LOCK).unlink()  # while it is held, so that it is no other run's
            lock.release()
            with suppress(OSError):
                if new:
                    folder.rmdir()  # refused if the run left anything in it


def _holder(folder: Path) -> str:
    try:
        return (folder / LOCK).read_text(encoding="utf-8")[:200] or "unknown"
    except (OSError, ValueError):
        return "unknown"


class Run:
    """The blocks that are finished in a destination, and by which arguments, as the first rank reads them.

    request: what must be the same for a run to go on, as ``streaming`` makes it. blocks: how many there are.
    Raises FileExistsError for a folder of something else.
    """

    def __init__(self, folder: Path, request: dict, blocks: int):
        self.folder, self.request, self.blocks = folder, request, blocks
        record = from_first_rank(self._read_record())
        self.batch_size = record.get("batch_size")
        self.seconds = record.get("seconds", {})
        self.rows = {
            int(index): [{**row, "shape": tuple(row["shape"])} for row in rows]
            for index, rows in record.get("rows", {}).items()
        }

    def _read_record(self) -> dict:
        path = self.folder / RECORD
        if not path.exists():
            if self.folder.exists() and set(self.folder.iterdir()) - self._unfinished_files():
                raise FileExistsError(f"{self.folder} is not empty: choose another destination, or clear it.")
            return {}
        record = _checked(path)
        if changed := [key for key in self.request if record["asked"].get(key) != self.request[key]]:
            raise FileExistsError(
                f"{self.folder} holds a run ({len(record['rows'])} of {self.blocks} blocks finished) that was started "
                f"with other arguments ({', '.join(changed)}). Give the same ones to go on with it, or choose "
                "another destination."
            )
        if unknown := self.request["plan"]["unknown"]:
            raise FileExistsError(
                f"{self.folder} holds a run, and whether it was started with the same score function cannot be told: "
                f"{unknown}. Choose another destination, or clear it and start anew. A killed run goes on only if its "
                "score is a function of plain numbers, tensors, other such functions and installed packages."
            )
        return record

    def _unfinished_files(self) -> set[Path]:
        """Files that a killed run did not finish."""
        return {*self.folder.glob("*.tmp"), *self.folder.glob(".tmp*")}

    def shard(self, index: int | None) -> str:
        """The file name of a block, or, for None, of what lies outside the blocks."""
        number = 1 if index is None else index + 2
        return f"model-{number:05}-of-{self.blocks + 1:05}.safetensors"

    def begin(self, estimate, batch_size: int | None) -> None:
        """Start the record, or go on with it. Raises OSError if the disk has too little space for the estimate."""
        self.batch_size = batch_size
        if world()[0] > 0:
            return
        for path in self._unfinished_files() - {self.folder / LOCK}:
            path.unlink()
        if self.rows:
            return
        if unknown := self.request["plan"]["unknown"]:
            warnings.warn(
                f"If this run were killed, it could not go on, because its score has no identity: {unknown}.",
                stacklevel=4,
            )
        free = shutil.disk_usage(self.folder).free
        if free < estimate.disk + estimate.hidden:
            raise OSError(
                f"{self.folder} has {gib(free)} free, but the pruned model takes {gib(estimate.disk)} and hidden "
                f"states up to {gib(estimate.hidden)}: make room, or choose another destination."
            )
        self._write_record()

    def add(self, index: int, rows: list[dict], seconds: dict[str, float]) -> None:
        """Record that a block is finished; its shard is in place already."""
        self.rows[index] = rows
        self.seconds = dict(seconds)
        self._write_record()

    def _write_record(self) -> None:
        record = {"asked": self.request, "batch_size": self.batch_size, "seconds": self.seconds, "rows": self.rows}
        write_text(self.folder / RECORD, json.dumps(record) + "\n")

    def end(self, skeleton, report: Report, origin: dict, calibration: dict | None) -> None:
        """Add config, tokenizer, card and, last, the index, which make the shards a model. All ranks wait for it."""
        if world()[0] == 0 and not (self.folder / INDEX).exists():
            copy_other_files(skeleton.shards, self.folder)
            write_card(self.folder, report, report.reached, origin, calibration, {})
            shards = {self.shard(None): skeleton.outside_blocks}
            shards |= {self.shard(index): list(names.values()) for index, names in enumerate(skeleton.names)}
            write_index(self.folder, shards, skeleton.shards.size())
        from_first_rank(None)


def _checked(path: Path) -> dict:
    """The record in a file. Raises ValueError for any other file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        complete = {int(index): [{*row} >= ROW for row in rows] for index, rows in record["rows"].items()}
        if {*record} >= {"asked", "batch_size", "seconds"} and all(map(all, complete.values())):
            return {**record, "asked": dict(record["asked"]), "seconds": dict(record["seconds"])}
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(
        f"{path} is no record of a run of prune_checkpoint, or a damaged one. Choose another destination, or clear "
        f"{path.parent} and start anew."
    )


def identity(plan) -> dict:
    """A plan as the record keeps it. For a score function that has no identity, "unknown" says why."""
    score = unknown = None
    try:
        score = function_identity(plan.score)
    except Unidentified as error:
        unknown = str(error)
    return {
        "method": plan.name,
        "score": score,
        "unknown": unknown,
        "sparsity": list(plan.sparsity) if isinstance(plan.sparsity, tuple) else plan.sparsity,
        "N:M": list(plan.nm) if plan.nm else None,
        "group": plan.group,
        "update": plan.update,
        "damping": plan.damping,
    }
