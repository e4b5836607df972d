"""Results of an unfinished run, in a file that says what they belong to: JSON alone, on disk before more is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..files import write_text


class Kept:
    """Lines of JSON in a file, under a header line that says what they belong to.

    of: the header; it must equal that of the file. value: makes a line's value from its JSON, or raises ValueError. A
    last line that was cut short is dropped. Raises ValueError for a file with another header or with anything else in
    it, and leaves that file as it is.
    """

    def __init__(self, path, of: dict, value: Callable):
        self.path, self.of, self.values = Path(path), of, []
        content = self.path.read_bytes() if self.path.exists() else b""
        first, *lines = content.split(b"\n")
        if content and (content == first or not self._is_header(first)):
            raise ValueError(f"{self.path} holds something other than {of['kept']}: name another file.")
        self.ends = [len(first) + 1]  # of each whole line, in bytes
        for line in lines[:-1]:
            try:
                self.values.append(value(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                number = len(self.values) + 2
                raise ValueError(
                    f"{self.path}, line {number}, is not one of the {of['kept']}: is the file damaged? Remove it."
                ) from error
            self.ends.append(self.ends[-1] + len(line) + 1)

    def _is_header(self, line: bytes) -> bool:
        try:
            header = json.loads(line)
            if header["kept"] != self.of["kept"]:
                return False
            different = [key for key in self.of if header.get(key) != self.of[key]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        if different:
            origin = " and ".join(f"another {key}" for key in different)
            raise ValueError(f"{self.path} keeps {self.of['kept']} of {origin}: name another file, or remove it.")
        return True

    def __enter__(self) -> Kept:
        """Open the file to add to it, after as many lines as there are values."""
        if not self.path.exists() or not self.path.stat().st_size:
            write_text(self.path, json.dumps(self.of) + "\n")
            self.ends = [self.path.stat().st_size]
        self.file = open(self.path, "rb+")
        self.file.truncate(self.ends[len(self.values)])
        self.file.seek(0, os.SEEK_END)
        return self

    def add(self, values: list) -> None:
        """Write more values, one line each."""
        self.file.write("".join(json.dumps(value) + "\n" for value in values).encode())

    def sync(self) -> None:
        """Flush all that was added to the disk, where it survives a power cut."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def __exit__(self, *_) -> None:
        with self.file:
            self.sync()


def same_call(path: Path, arguments: dict, alone: bool = False) -> dict | None:
    """The record at path of a command with the same arguments; None if there is no such file.

    arguments: by name, as the record has them under "asked". Raises FileExistsError for a record with other arguments
    and for any other file; with ``alone``, also for a folder that holds other files but no record.
    """
    occupied = alone and any(file.suffix != ".tmp" for file in path.parent.glob("*"))
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in arguments if record["asked"].get(key) != arguments[key]]
    except FileNotFoundError:
        if occupied:
            raise FileExistsError(f"{path.parent} is not empty: choose another destination, or clear it.") from None
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileExistsError(f"{path} is no record of this command: choose another place, or remove it.") from error
    if different:
        raise FileExistsError(
            f"{path} is the record of a call with other arguments ({', '.join(different)}). Give the same ones to "
            "continue it, or choose another place."
        )
    return record
