"""Files that are there whole or not at all, and stay through a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def other_place(destination: Path, source: Path) -> Path:
    """The destination. Raises ValueError where it is the source, lies in it, or holds it, by whatever path."""
    place, origin = destination.resolve(), source.resolve()
    if place == origin or place in origin.parents or origin in place.parents:
        raise ValueError(f"{destination} and the source {source} overlap: choose another destination.")
    return destination


def sync_folder(folder: Path) -> None:
    """Have all files of a folder, and their names, on the disk."""
    for path in [*folder.iterdir(), folder, folder.parent] if os.name == "posix" else folder.iterdir():
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    beside = path.with_suffix(path.suffix + ".tmp")
    beside.write_text(text, encoding="utf-8")
    settle(beside, path)


def settle(beside: Path, path: Path) -> int:
    """Have a finished file's bytes on the disk, then give it its name, and have that on the disk; returns its size."""
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)
    return path.stat().st_size


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk, where a power cut does no harm."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
