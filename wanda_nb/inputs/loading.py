"""Load a model by name: the pinned one, one on a hub, or one in a local folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ..device import check_dtypes, native_dtype, usable_device
from . import assets

DEFAULT_MODEL = "smollm2-135m"


def load_model(name: str = DEFAULT_MODEL, *, device="cpu", dtype: torch.dtype | None = None, revision=None):
    """A causal language model in eval mode and its tokenizer.

    name: ``"smollm2-135m"`` (pinned, needs no model hub), a hub id, or a local folder.
    device: where the model goes; ``"auto"``: to the best device there is.
    dtype: of its weights; by default one that the device computes in natively: float32 on a CPU, bfloat16 on a GPU that
    has it, else float16 (a T4, a Mac's).
    revision: a commit or tag on the hub.
    Raises OSError if the model cannot be loaded, ValueError for a device that this machine does not have and for a
    model whose code is not part of transformers: code that comes with a model is never run.
    Introduced in notebook 00, "A real model".
    """
    device = usable_device(device)
    check_dtypes([dtype], device)
    source = _default_model_folder() if name == DEFAULT_MODEL else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, trust_remote_code=False, dtype=dtype or native_dtype(device)
        )
    except OSError as error:
        raise _no_model(name, error) from error
    return model.to(device).eval(), tokenizer


def model_folder(name: str = DEFAULT_MODEL, revision=None) -> Path:
    """The folder of a model's checkpoint, downloaded if need be; name as for ``load_model``.

    Raises OSError if it cannot be found or downloaded. Introduced in notebook 03, "A model larger than memory".
    """
    if name == DEFAULT_MODEL:
        return _default_model_folder()
    if Path(name).is_dir():
        return Path(name)
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # ValueError: not a valid id
        raise _no_model(name, error) from error


def _no_model(name, error) -> OSError:
    return OSError(
        f"No model {name!r}: expected {DEFAULT_MODEL!r}, a folder with config.json and weights, or the id of "
        f"a model on a hub that this machine reaches. ({str(error).splitlines()[0]})"
    )


def _default_model_folder() -> Path:
    """The pinned model as safetensors in the cache, converted from its GGUF file the first time."""
    folder = assets.cache_dir() / "SmolLM2-135M-Instruct"
    with assets.lock("convert"):
        if not _complete(folder):
            (gguf,) = assets.fetch("model").values()
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                convert_gguf(gguf, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(scratch, folder, copy_function=shutil.move)
                sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
                (folder / ".sizes.json").write_text(json.dumps(sizes))  # last: now all files are there
    return folder


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / ".sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Save a GGUF file's model and tokenizer in a folder, as float32 safetensors.

    transformers calls what it reads from GGUF quantised and refuses to save it, so the weights are copied.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    config._name_or_path = "SmolLM2-135M-Instruct"
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
