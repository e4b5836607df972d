"""What these tests need to know of the package beyond its public names, by name alone, wherever it lives."""

import gc
import sys
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from tiny import tiny_model

import wanda_nb as wn
import wanda_nb.__main__
import wanda_nb.recovery.training

LITTLE = {"hidden_size": 16, "intermediate_size": 24}  # updates take a launch and more for each column
PADDING = torch.ones(6, 12, dtype=torch.long)
PADDING[0, :4] = PADDING[3, :7] = 0

#: Every method, update, pattern and comparison group, by a name for the test.
HOW = {
    "wanda": {},
    "magnitude": {"method": "magnitude"},
    "sparsegpt": {"method": "sparsegpt"},
    "ria": {"method": "ria"},
    "variant": {"method": "wanda-variant"},
    "2:4": {"pattern": "2:4"},
    "4:8": {"pattern": "4:8"},
    "sparsegpt 2:4": {"method": "sparsegpt", "pattern": "2:4"},
    "one-shot": {"update": "one-shot"},
    "least-squares": {"update": "least-squares", "pattern": "2:4"},
    "iterative": {"update": "iterative"},
    "iterative 2:4": {"update": "iterative", "pattern": "2:4"},
    "by input": {"group": "input"},
    "by layer": {"group": "layer"},
    "padding": {"attention_mask": PADDING},
    "by block": {"sparsity": [0.3, 0.5, 0.7]},
    "own score": {"method": lambda W, norm: W.abs() * norm.sqrt()},
}


def text(how, tokens):
    return None if how.get("method") == "magnitude" else tokens


def inner(name: str) -> list:
    """The package's modules that know a name."""
    modules = [module for path, module in list(sys.modules.items()) if path.split(".")[0] == "wanda_nb"]
    found = [module for module in modules if name in vars(module)]
    assert found, f"nothing in the package is called {name}"
    return found


@contextmanager
def replaced(name: str, by):
    """For a while, something else under a name of the package."""
    with ExitStack() as stack:
        for module in inner(name):
            stack.enter_context(patch.object(module, name, by))
        yield


def states_lie(there: bool):
    """For a while, hidden states find room on the device, or do not."""
    return patch.object(inner("Need")[0].Need, "leaves_room", lambda *_: there)


def block_bytes(model) -> int:
    return sum(p.nbytes for block in wn.decoder_blocks(model) for p in block.parameters())


def weights(model) -> dict:
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def at_home(model) -> bool:
    return {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def nothing_left(gpu) -> bool:
    gc.collect()
    gpu.check()
    return gpu.alive == 0


def saved(folder, **settings):
    """A tiny model's checkpoint."""
    tiny_model(**settings).save_pretrained(folder)
    return folder


def files(folder) -> dict:
    """The shards of a checkpoint, byte by byte."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert found
    return found
