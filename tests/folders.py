"""Checkpoint folders to prune, to look into and to break off."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from wanda_nb.checkpoint import resume

INDEX = "model.safetensors.index.json"


def saved(model, folder: Path, shard_size="20KB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder


def load(folder, **how):
    return AutoModelForCausalLM.from_pretrained(folder, **how)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is the model, without the records of how long it took."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("run.json", "README.md", "pruning.json")}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, as it is stored."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def rewrite(source, name, edit) -> None:
    """Change a stored tensor, or take it out where edit returns None."""
    for path in source.glob("*.safetensors"):
        found = load_file(path)
        if name in found:
            found[name] = edit(found[name])
            save_file({n: t for n, t in found.items() if t is not None}, path, metadata={"format": "pt"})


class Killed(BaseException):
    pass


def stop_after(blocks: int, monkeypatch) -> None:
    """The run dies when it is about to record one block more."""
    add = resume.Run.add

    def dies(run, index, rows, seconds):
        if index == blocks:
            raise Killed
        add(run, index, rows, seconds)

    monkeypatch.setattr(resume.Run, "add", dies)
