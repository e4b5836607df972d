"""Where a number came from: which model, which text, which code, on which machine."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .identity import identity

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "lm-eval", "numpy", "peft", "scipy", "tokenizers")


def provenance(model, device=None, data: dict[str, str] | None = None) -> dict:
    """All that is needed to get a number again, beside the settings of the run: a dict of plain values.

    model: its name, and the sha256 of its config and weights as they are now (None where they are on disk alone).
    device: where it was computed, by default where the model is.
    data: ``{file name: sha256}`` of what was read beside the model (``assets.checksums``).
    Besides: dtype, machine, the versions of all packages that can change a result, a checkout's commit, and the date.
    """
    parameter = next(model.parameters())
    device = device or parameter.device
    on_gpu = device.type == "cuda"
    source = Path(model.config._name_or_path)  # a hub id, or a folder whose whereabouts are nobody's business
    return {
        "model": source.name if source.is_dir() else str(source),
        "weights": None if parameter.is_meta else identity(model),
        "data": data,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "versions": {name: found for name in (*PACKAGES, "wanda-nb") if (found := package_version(name))},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def package_version(name: str) -> str | None:
    """The version of an installed package; None for one that is not, as when ours is imported from a mere folder."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of the checkout that this package is imported from, and whether its code was changed since."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + (" and changes" if _git(root, "status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or not our folder to ask about
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
