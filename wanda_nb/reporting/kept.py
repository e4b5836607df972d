"""What is half finished, in a file that says whose it is: JSON and nothing else, on the disk before more is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..files import write_text


class Kept:
    """Lines of JSON in a file, under a first line that says whose they are.

    of: what must be the same for the lines to be of use. value: makes a line's value of the JSON in it, or raises
    ValueError. A line that was cut short, at the end, is dropped. Raises ValueError for a file that was begun with
    something else, or that holds anything else; no such file is changed.
    """

    def __init__(self, path, of: dict, value: Callable):
        self.path, self.of, self.values = Path(path), of, []
        content = self.path.read_bytes() if self.path.exists() else b""
        first, *lines = content.split(b"\n")
        if content and (content == first or not self._is_mine(first)):
            raise ValueError(f"{self.path} holds something else than {of['kept']}: name another file.")
        self.ends = [len(first) + 1]  # of each whole line, in bytes
        for line in lines[:-1]:
            try:
                self.values.append(value(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                number = len(self.values) + 2
                raise ValueError(
                    f"{self.path}, line {number}, is none of {of['kept']}: is the file damaged? Remove it."
                ) from error
            self.ends.append(self.ends[-1] + len(line) + 1)

    def _is_mine(self, line: bytes) -> bool:
        try:
            theirs = json.loads(line)
            if theirs["kept"] != self.of["kept"]:
                return False
            other = [key for key in self.of if theirs.get(key) != self.of[key]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        if other:
            what = " and ".join(f"another {key}" for key in other)
            raise ValueError(f"{self.path} keeps {self.of['kept']} of {what}: name another file, or remove it.")
        return True

    def __enter__(self) -> Kept:
        """Open for more, after as many lines as there are values."""
        if not self.path.exists() or not self.path.stat().st_size:
            write_text(self.path, json.dumps(self.of) + "\n")
            self.ends = [self.path.stat().st_size]
        self.file = open(self.path, "rb+")
        self.file.truncate(self.ends[len(self.values)])
        self.file.seek(0, os.SEEK_END)
        return self

    def add(self, values: list) -> None:
        """Write more values, a line each."""
        self.file.write("".join(json.dumps(value) + "\n" for value in values).encode())

    def sync(self) -> None:
        """Have all that was added on the disk, where a power cut leaves it."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def __exit__(self, *_) -> None:
        with self.file:
            self.sync()


def same_call(path: Path, asked: dict, alone: bool = False) -> dict | None:
    """The record of a command at path, if it was asked for the same; None where there is no such file.

    asked: settings by name, which stand in the record as "asked". Raises FileExistsError for any other file, and if
    it should be alone, for a folder that holds other files and no record.
    """
    others = alone and any(beside.suffix != ".tmp" for beside in path.parent.glob("*"))
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in asked if record["asked"].get(key) != asked[key]]
    except FileNotFoundError:
        if others:
            raise FileExistsError(f"{path.parent} is not empty: choose another destination, or clear it.") from None
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileExistsError(f"{path} is no record of this command: choose another place, or remove it.") from error
    if other:
        raise FileExistsError(
            f"{path} is the record of a call with something else as {', '.join(other)}. Give the same arguments to go "
            "on with it, or choose another place."
        )
    return record
