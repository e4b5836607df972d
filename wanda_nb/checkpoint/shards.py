"""A checkpoint on disk: a folder of safetensors shards, read tensor by tensor and written shard by shard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..blocks import is_finite
from ..files import settle, sync, write_text
from ..reporting.identity import sample

RECORD = "run.json"  # of the run that wrote the folder, see resume.py
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".tmp"}
# safetensors' names of the dtypes that torch multiplies matrices in
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


class Shards:
    """The tensors of a checkpoint folder: file, shape and dtype of each by name, from the files' headers alone.

    Raises FileNotFoundError if there is no safetensors checkpoint or a shard is missing, and ValueError for one that is
    cut short or whose index lists tensors that its files do not hold.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        listed = self._listed()
        for path in sorted(set(listed.values())):
            self._read_header(path)
        if missing := [f"{name} in {path.name}" for name, path in listed.items() if self.files.get(name) != path]:
            raise ValueError(
                f"{INDEX} lists {missing[0]}, which is not there ({len(missing)} such tensors). "
                "The index does not belong to these shards: fetch the checkpoint again."
            )

    def _listed(self) -> dict[str, Path]:
        """The file that each tensor should be in."""
        index, single = self.folder / INDEX, self.folder / SINGLE
        if single.is_file():  # where there are both, from_pretrained reads this one
            self._read_header(single)
            return dict(self.files)
        if index.is_file():
            try:
                names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return {name: self.folder / file for name, file in names.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{INDEX} is damaged ({error}): fetch the checkpoint again.") from error
        raise FileNotFoundError(
            f"No safetensors checkpoint in {self.folder}: expected {INDEX} with its shards, or {SINGLE}. "
            "For an older format, load the model once and save it with model.save_pretrained(folder)."
        )

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118, no mapping
                    part = file.get_slice(name)
                    self.files[name], self.kinds[name] = path, part.get_dtype()
                    self.shapes[name] = tuple(part.get_shape())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path.name}, listed in {INDEX}, is missing: fetch it again.") from error
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} is damaged or cut short ({path.stat().st_size:,} bytes; {error}): fetch it again."
            ) from error

    def size(self, names: Iterable[str] | None = None) -> int:
        """The size in bytes of the named tensors, by default of all."""
        widths = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4}
        widths |= {"F16": 2, "BF16": 2, "I16": 2, "U16": 2}
        names = self.files if names is None else names
        return sum(torch.Size(self.shapes[name]).numel() * widths.get(self.kinds[name], 1) for name in names)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, by name."""
        tensors: dict[str, torch.Tensor] = {}
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.files[name], []).append(name)
        for path, names_in_file in by_file.items():
            tensors |= read_shard(path, names_in_file)
        return tensors

    def sample(self, name: str) -> torch.Tensor:
        """A few rows of a tensor; see ``reporting.identity``."""
        with safe_open(self.files[name], framework="pt") as file:
            return sample(file.get_slice(name), self.shapes[name])

    def other_files(self) -> list[Path]:
        """The files other than weights that make the folder a model: config, tokenizer, generation settings."""
        skipped = {INDEX, RECORD, "README.md", "pruning.json"}  # written anew
        paths = (path for path in self.folder.iterdir() if path.is_file() and path.name not in skipped)
        return sorted(path for path in paths if path.suffix not in WEIGHTS and not path.name.startswith("."))

    def identity(self) -> dict[str, list[int]]:
        """Size and time of every file, by name, which tell whether the checkpoint was changed."""
        paths = {*self.files.values(), *self.other_files()}
        return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)}


def read_shard(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named tensors of one shard, copied out of the mapped file, by name.

    Raises ValueError for a file that is missing, cut short or lacks a tensor, and for a tensor with a value that is not
    finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged, cut short or gone since it was listed ({error}): fetch the checkpoint again, or, if "
            "the file is of a pruned model, prune into another destination."
        ) from error
    for name, tensor in tensors.items():
        hint = "Is the checkpoint damaged? Blocks before it are finished and kept."
        check_finite(tensor, f"{name} in {path.name}", hint)
    return tensors


def check_finite(tensor: torch.Tensor, what: str, hint: str) -> None:
    """Raise ValueError if a tensor of a dtype in ``FLOATS`` holds a value that is not finite."""
    if tensor.dtype in FLOATS.values() and not is_finite(tensor):
        raise ValueError(f"{what} has values that are not finite: expected finite ones. {hint}")


def write_shard(path: Path, tensors: dict[str, torch.Tensor]) -> int:
    """Write a shard that appears complete or not at all; return its size in bytes. Raises OSError if it cannot."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={"format": "pt"})
        os.chmod(temporary, mode)  # of any new file; safetensors makes it readable by its owner alone
        return settle(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path.name} could not be written into {path.parent}: {error}. Shards finished before it are kept: make "
            "room (or mend what is wrong) and start the same command again; it goes on from here."
        ) from error


def write_index(folder: Path, shards: dict[str, list[str]], total: int) -> None:
    """Write the index, which makes shards a checkpoint. shards: {file name: names of its tensors}. total: bytes."""
    files = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def copy_other_files(shards: Shards, folder: Path) -> None:
    """Copy what makes the checkpoint a model besides its weights into a folder."""
    for path in shards.other_files():
        shutil.copyfile(path, folder / path.name)
        sync(folder / path.name)
