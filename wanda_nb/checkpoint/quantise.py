"""A model in fewer bits: what its weights become, and the bytes that they then take in a file."""

from __future__ import annotations

import copy

import gguf
import torch
from gguf import GGMLQuantizationType

from ..blocks import decoder_blocks, linear_layers, weight_matrix

#: Bits: the format of llama.cpp that rounds to them, each 32 neighbours of a row to multiples of a step of their own.
FORMATS = {8: GGMLQuantizationType.Q8_0, 4: GGMLQuantizationType.Q4_0}
GROUP = 32


@torch.no_grad()
def quantised(model, bits: int = 8):
    """A copy of the model in whose decoder blocks every linear layer has weights that fit into 8 or 4 bits.

    The weights are those of ``save_gguf``'s Q8_0 or Q4_0 file, rounded by llama.cpp's own package and written out as
    floats again, to be judged: each 32 neighbouring weights of a row are multiples of a step of their own, which takes
    16 bits. A zero stays a zero, and small weights may join it. Embeddings, norms and head stay as they are. To the
    rest of the package it is a model like any other; in memory it takes as much as before. Pass it float32 weights:
    fewer bits cannot hold all products of a step. Prune first, then quantise.
    Raises ValueError for other bits, a row that 32 does not divide, and whatever ``prune`` refuses in a layer.
    Introduced in notebook 07, "As small as its zeros".
    """
    if bits not in FORMATS:
        raise ValueError(f"bits={bits!r}: expected 8 or 4.")
    for W in _weights(model):
        if W.shape[1] % GROUP:
            raise ValueError(f"A layer has {tuple(W.shape)} weights: expected rows of a multiple of {GROUP}.")
    copied = copy.deepcopy(model)
    for W in _weights(copied):
        codes = gguf.quantize(W.float().cpu().contiguous().numpy(), FORMATS[bits])
        W.copy_(torch.from_numpy(gguf.dequantize(codes, FORMATS[bits])))
    return copied


def stored_bytes(model, bits: int = 16) -> int:
    """The bytes that a model takes in a file with one bit for each zero, wherever that makes a matrix smaller.

    Linear layers of the decoder blocks take ``bits`` (16, 8 or 4) for each weight that is kept and, below 16, a step of
    16 bits for each 32 weights of a row. Everything else takes 16, tied weights once. At 16 bits, this is the size of
    ``save_compressed``'s file but for its header and shapes.
    Raises ValueError for other bits. Introduced in notebook 07, "As small as its zeros".
    """
    if bits not in (16, *FORMATS):
        raise ValueError(f"bits={bits!r}: expected 16, 8 or 4.")
    layers = {W.data_ptr(): W for W in _weights(model)}
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    total = 0
    for place, tensor in tensors.items():
        width = bits if place in layers else 16
        total += _smaller(tensor, width) + (2 * (tensor.numel() // GROUP) if width < 16 else 0)
    return total


def _weights(model) -> list[torch.Tensor]:
    return [weight_matrix(layer) for block in decoder_blocks(model) for layer in linear_layers(block).values()]


def _smaller(tensor: torch.Tensor, bits: int) -> int:
    dense = -(-tensor.numel() * bits // 8)
    if tensor.ndim != 2:
        return dense
    rows, columns = tensor.shape
    kept = int(tensor.count_nonzero())
    return min(dense, rows * -(-columns // 8) + -(-kept * bits // 8))
