"""Load a model by name: the pinned one, a hub's, or a local folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ..hardware import native_dtype, usable_device
from . import assets

DEFAULT_MODEL = "smollm2-135m"


def load_model(name: str = DEFAULT_MODEL, *, device="cpu", dtype: torch.dtype | None = None, revision=None):
    """A causal language model in eval mode and its tokenizer.

    name: ``"smollm2-135m"`` (pinned, needs no model hub), a hub id, or a local folder.
    device: where the model goes. dtype: of its weights; by default one that the device computes
    natively: float32 on a CPU, bfloat16 on a GPU that has it, else float16 (a T4).
    revision: a commit or tag on the hub. Raises OSError where the model is not to be had, ValueError for a device that
    is not there and for a model whose code is not part of transformers: no code that comes with a model is run.
    Introduced in notebook 00, "A real model".
    """
    device = usable_device(device)
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
    """The folder of a model's checkpoint, name as for ``load_model``; fetched from the hub if it is an id there.

    Raises OSError where the model is not to be had. Introduced in notebook 03, "A model larger than memory".
    """
    if name == DEFAULT_MODEL:
        return _default_model_folder()
    if Path(name).is_dir():
        return Path(name)
    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # ValueError: no possible id
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
                _convert(gguf, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(scratch, folder, copy_function=shutil.move)
                sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
                (folder / ".sizes.json").write_text(json.dumps(sizes))  # last: its presence says all is there
    return folder


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / ".sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """transformers reads GGUF but calls the result quantised and will not save it: copy the weights."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    del config.quantization_config
    config._name_or_path = "SmolLM2-135M-Instruct"
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
