"""Load a model; its blocks; the prunable linear layers of a block.

Architectures are recognised by their structure, not from a list of names.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

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


def usable_device(device) -> torch.device:
    """A device that this machine has, from its name. Raises ValueError for any other."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        have = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        raise ValueError(
            f"device={str(device)!r} is not usable here: expected {' or '.join(['cpu', *have])}."
        ) from error
    return found


def native_dtype(device: torch.device) -> torch.dtype:
    """The shortest dtype that the device computes with in hardware, as far as models are safe in it."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


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


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The model's decoder blocks in order: its one outermost list of modules that hold linear layers.

    Raises ValueError, naming what is in the way, if there is none, or more than one (an
    encoder-decoder, a vision tower). Introduced in notebook 00, "A real model".
    """
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside_another = any(name.startswith(outer + ".") for outer in stacks)
        if inside_another or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(_linear_modules(block) for block in module):
            stacks[name] = module
    if len(stacks) != 1:
        found = ", ".join(f"{name} ({len(stack)} blocks)" for name, stack in stacks.items()) or "none"
        both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        why = " It is an encoder-decoder: its decoder reads an encoder's output by cross-attention." if both else ""
        raise ValueError(
            f"{type(model).__name__} is not supported: expected one stack of decoder blocks with linear layers, "
            f"found {found}.{why} Pass the decoder-only language model itself, not an encoder-decoder or a wrapper."
        )
    return list(next(iter(stacks.values())))


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    """The prunable layers of a block, ``{name: nn.Linear or Conv1D}`` in the block's own order.

    Raises ValueError, naming the layer, where pruning them would not prune the block: quantised
    weights, unmerged adapters, or matrices outside linear layers (fused experts, state spaces).
    Introduced in notebook 00, "A real model".
    """
    layers = _linear_modules(block)
    kind = type(block).__name__
    for name, module in block.named_modules():
        if hasattr(module, "base_layer"):
            raise ValueError(f"{name} in {kind} carries an unmerged adapter: merge or unload it before pruning.")
    for name, layer in layers.items():
        if layer.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(
                f"{name} in {kind} holds quantised weights ({layer.weight.dtype}): expected floating-point ones. "
                "Prune the unquantised model, then quantise the result."
            )
    owned = {id(layer.weight) for layer in layers.values()}
    embeddings = {id(m.weight) for m in block.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in block.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in owned | embeddings:
            raise ValueError(
                f"{kind} is not supported: {name} {tuple(parameter.shape)} is a weight outside any linear layer "
                "(fused experts or a layer of another kind), which has no input channels to weigh. "
                "Expected a dense block whose matrices are nn.Linear or transformers' Conv1D."
            )
    return layers


def _linear_modules(block: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in block.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def is_expert(block: nn.Module, name: str) -> bool:
    """Whether the layer of that name lies in a list of modules in the block, of which not all need be called."""
    parts = name.split(".")
    above = (block.get_submodule(".".join(parts[:end])) for end in range(1, len(parts)))
    return any(isinstance(module, (nn.ModuleList, nn.ModuleDict)) for module in above)


def weight_matrix(layer: nn.Module) -> torch.Tensor:
    """A layer's weight as W (out, in), sharing its storage; Conv1D keeps its own the other way round."""
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode, and each module's own mode as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_weights(model: PreTrainedModel, blocks: list[nn.Module]) -> None:
    """Raises ValueError, naming the culprit, unless all weights are in memory, unquantised and finite."""
    quantiser = getattr(model.config, "quantization_config", None)
    if quantiser is not None:
        raise ValueError(
            f"{type(model).__name__} is quantised ({quantiser}): load it without quantisation, prune, then quantise."
        )
    for index, block in enumerate(blocks):
        for name, layer in linear_layers(block).items():
            if layer.weight.is_meta:
                raise ValueError(
                    f"{name} in block {index} is on the meta device: load all weights, into CPU memory say."
                )
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite: expected finite ones. Is the checkpoint damaged?")


def sparsity(model: PreTrainedModel) -> float:
    """The fraction of zeros in the prunable layers. Introduced in notebook 00, "Prune"."""
    weights = [weight_matrix(m) for block in decoder_blocks(model) for m in linear_layers(block).values()]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)
