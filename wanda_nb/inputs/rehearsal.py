"""The first sample's way through the dense model: whether it stays finite, and what the loop will take."""

from __future__ import annotations

import time

from torch.utils._pytree import tree_map

from ..cost import loop_flops
from .hidden_states import first_hidden_states


def rehearse(model, blocks, tokens, attention_mask) -> float:
    """Seconds for the first window to pass through the dense blocks. Raises ValueError if it does not stay finite."""
    first = 0
    if attention_mask is not None:
        first = int(attention_mask.bool().any(dim=1).int().argmax())  # a window that is all padding shows nothing
        attention_mask = attention_mask[first : first + 1]
    tokens = tree_map(lambda tensor: tensor[first : first + 1], tokens)
    states = first_hidden_states(model, tokens, attention_mask, 1, blocks=blocks)
    start = time.perf_counter()
    for index, block in enumerate(blocks):
        states.advance(index, block, next(block.parameters()).device)
        if not bool(states.hidden[0].isfinite().all()):
            raise ValueError(
                f"Block {index} puts out activations that are not finite, in {states.hidden[0].dtype}. "
                "Nothing was changed. Expected finite ones: try float32 or bfloat16, or check the checkpoint."
            )
    return time.perf_counter() - start


def flops_of(model, blocks, states, length: int) -> tuple[float, float]:
    """Operations of the loop, and of one dense window on its way; 0 where they are not known.

    They are counted if every layer reads the positions (batch, length) that enter: not in a decoder that reads an
    encoder's output, nor where channels come first.
    """
    if getattr(model.config, "is_encoder_decoder", False) or any(hidden.ndim != 3 for hidden in states.hidden):
        return 0.0, 0.0
    loop = loop_flops(model, [hidden.shape[:2] for hidden in states.hidden], blocks).total
    return loop, loop_flops(model, [(1, length)], blocks).capture
