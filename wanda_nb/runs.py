"""What is finished of a run over a checkpoint, so that a killed one goes on: the record in its destination."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch

from .ranks import from_first_rank, world
from .results import Report, gib
from .shards import INDEX, RECORD, copy_others, write_index, write_text
from .sharing import write_card


class Run:
    """What is finished in a destination, and by which call; the first rank's word counts."""

    def __init__(self, folder: Path, asked: dict, blocks: int):
        self.folder, self.asked, self.blocks = folder, asked, blocks
        record = from_first_rank(self._found())
        self.batch_size = record.get("batch_size")
        self.seconds = record.get("seconds", {})
        self.rows = {
            int(index): [{**row, "shape": tuple(row["shape"])} for row in rows]
            for index, rows in record.get("rows", {}).items()
        }

    def _found(self) -> dict:
        path = self.folder / RECORD
        if not path.exists():
            if self.folder.exists() and set(self.folder.iterdir()) - self._halves():
                raise FileExistsError(f"{self.folder} is not empty: choose another destination, or clear it.")
            return {}
        record = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in self.asked if record["asked"].get(key) != self.asked[key]]:
            raise FileExistsError(
                f"{self.folder} holds a run ({len(record['rows'])} of {self.blocks} blocks finished) that was started "
                f"with something else as {', '.join(changed)}. Give the same arguments to go on with it, or choose "
                "another destination."
            )
        return record

    def _halves(self) -> set[Path]:
        """Files that a killed run did not finish."""
        return {*self.folder.glob("*.tmp"), *self.folder.glob(".tmp*")}

    def shard(self, index: int | None) -> str:
        """The file of a block, or of all that lies outside the blocks."""
        number = 1 if index is None else index + 2
        return f"model-{number:05}-of-{self.blocks + 1:05}.safetensors"

    def begin(self, estimate, batch_size: int | None) -> None:
        """Make the folder and its record, or go on with it. Raises OSError where it cannot hold what is to come."""
        self.batch_size = batch_size
        if world()[0] > 0:
            return
        for half in self._halves():
            half.unlink()
        if self.rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < estimate.disk + estimate.hidden:
            raise OSError(
                f"{self.folder} has {gib(free)} free, but the pruned model takes {gib(estimate.disk)} and hidden "
                f"states up to {gib(estimate.hidden)}: make room, or choose another destination."
            )
        self._write_record()

    def add(self, index: int, rows: list[dict], seconds: dict[str, float]) -> None:
        """A block is finished: its shard is in place, now the record says so."""
        self.rows[index] = rows
        self.seconds = dict(seconds)
        self._write_record()

    def _write_record(self) -> None:
        record = {"asked": self.asked, "batch_size": self.batch_size, "seconds": self.seconds, "rows": self.rows}
        write_text(self.folder / RECORD, json.dumps(record, default=str) + "\n")

    def end(self, skeleton, report: Report, origin: dict, calibration: dict | None) -> None:
        """Make a model of the shards: config, tokenizer and card, and last the index; all ranks wait for it."""
        if world()[0] == 0 and not (self.folder / INDEX).exists():
            copy_others(skeleton.shards, self.folder)
            write_card(self.folder, report, report.reached, origin, calibration, {})
            shards = {self.shard(None): skeleton.rest}
            shards |= {self.shard(index): list(names.values()) for index, names in enumerate(skeleton.names)}
            write_index(self.folder, shards, skeleton.shards.size())
        from_first_rank(None)


def identity(plan) -> dict:
    """A plan as the record keeps it; of a score of your own, the code it runs."""
    code = getattr(plan.score, "__code__", None)
    score = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest() if code else None
    sparsity = list(plan.sparsity) if isinstance(plan.sparsity, tuple) else plan.sparsity
    nm = list(plan.nm) if plan.nm else None
    return {
        "method": plan.name,
        "score": score,
        "sparsity": sparsity,
        "N:M": nm,
        "group": plan.group,
        "update": plan.update,
    }


def digest(tokens: torch.Tensor, attention_mask) -> str:
    digest = hashlib.sha256(f"{tuple(tokens.shape)}".encode())
    for tensor in (tokens, attention_mask):
        if tensor is not None:
            digest.update(tensor.cpu().long().contiguous().numpy().tobytes())
    return digest.hexdigest()
