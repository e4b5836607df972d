"""Files that are written whole or not at all, and that survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def other_place(destination: Path, source: Path) -> Path:
    """The destination. Raises ValueError if, links resolved, it is the source, is inside it, or contains it."""
    place, origin = destination.resolve(), source.resolve()
    if place == origin or place in origin.parents or origin in place.parents:
        raise ValueError(f"{destination} and the source {source} overlap: choose another destination.")
    return destination


def sync_folder(folder: Path) -> None:
    """Flush all files of a folder, and their names, to the disk."""
    for path in (*folder.iterdir(), folder, folder.parent):
        sync(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    settle(temporary, path)


def settle(temporary: Path, path: Path) -> int:
    """Flush a finished temporary file to the disk, then rename it to path, durably; returns its size in bytes."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
    return path.stat().st_size


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, where they survive a power cut."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
