"""Where a number came from: which model, which text, which code, on which machine."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..device import device_name
from .identity import identity

HUB_CACHE = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]([^/\\]+)$")
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "lm-eval", "numpy", "peft", "scipy", "tokenizers")


def provenance(model, device=None, data: dict[str, str] | None = None) -> dict:
    """All that is needed to reproduce a number, apart from the settings of the run: a dict of plain values.

    model: recorded by name, and by the sha256 of its config and weights as they are now (None on the meta device).
    device: where it was computed, by default where the model is.
    data: ``{file name: sha256}`` of the files read apart from the model (``assets.checksums``).
    Also recorded: dtype, machine, versions of all packages that can change a result, the checkout's commit, the date.
    """
    parameter = next(model.parameters())
    device = device or parameter.device
    own_version = package_version("wanda-nb") or "unknown"  # imported from a folder that was never installed
    return {
        "model": model_name(model.config._name_or_path),
        "revision": revision(model.config._name_or_path),
        "weights": None if parameter.is_meta else identity(model),
        "data": data,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": device_name(device),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES if (v := package_version(name))} | {"wanda-nb": own_version},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def model_name(path_or_id) -> str:
    """A model's name: its hub id, even if the path is in a hub's cache; else its folder's name, without the path."""
    if not path_or_id or not (Path(path_or_id).is_dir() or Path(path_or_id).is_absolute()):
        return str(path_or_id)
    path = os.path.abspath(path_or_id)
    cached = HUB_CACHE.search(path)
    return cached[1].replace("--", "/") if cached else os.path.basename(path)


def revision(path_or_id) -> str | None:
    """The commit of a model in a hub's cache; None for other folders and ids."""
    cached = HUB_CACHE.search(os.path.abspath(path_or_id))
    return cached[2] if cached else None


def package_version(name: str) -> str | None:
    """The version of an installed package; None for one that is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of the checkout that this package is imported from, and whether its code has changes; or None."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + (" and changes" if _git(root, "status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or a folder of another owner
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
