"""How much the block loop computes: the floating-point operations of its matrix products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from .blocks import decoder_blocks, linear_layers, weight_matrix


class LoopFlops(NamedTuple):
    """Floating-point operations of the block loop, by phase."""

    capture: float
    propagate: float

    @property
    def total(self) -> float:
        """Those of both phases."""
        return self.capture + self.propagate


def windows_by_batch(samples: int, length: int, batch_size: int) -> list[tuple[int, int]]:
    """The (windows, length) of each batch; the last one holds what is left."""
    return [(min(batch_size, samples - start), length) for start in range(0, samples, batch_size)]


def loop_flops(model: nn.Module, batches: Iterable[tuple[int, int]], blocks=None) -> LoopFlops:
    """The operations of all linear layers and of attention while the block loop runs on batches (windows, length).

    Propagate runs every block but the last one. Capture runs all of them, but only the first batch of each shape to
    its end: the others stop before the block's last layer multiplies. A multiplication and an addition count as two.
    Attention counts QKᵀ and AV over all pairs of positions, as torch's plain kernel computes them; a fused kernel that
    skips what a causal mask hides does down to half of that. Not counted: elementwise work, and the products of a
    method that updates weights. Experts count as if every token went to all of them. Capture runs every batch to its
    end, so takes more than counted, where a block reads tensors' values under way, as Falcon's do.
    blocks: as for ``decoder_blocks``.
    Introduced in notebook 03, "Time".
    """
    batches, blocks = list(batches), decoder_blocks(model, blocks)
    first = sum(windows * length for windows, length in dict.fromkeys(batches))
    tokens = sum(windows * length for windows, length in batches)
    pairs = sum(windows * length**2 for windows, length in batches)
    capture = propagate = 0.0
    for block in blocks:
        sizes = [weight_matrix(layer).numel() for layer in linear_layers(block).values()]
        whole = 2.0 * tokens * sum(sizes) + 4.0 * pairs * _attention_width(block, model.config)
        capture += whole - 2.0 * (tokens - first) * sizes[-1]
        propagate += whole if block is not blocks[-1] else 0.0
    return LoopFlops(capture, propagate)


def _attention_width(block: nn.Module, config) -> int:
    """Query heads times the width of a head, which blocks of one model may have in different sizes."""
    config = next((m.config for m in block.modules() if hasattr(m, "config")), config).get_text_config()
    widths = [m.head_dim for m in block.modules() if isinstance(getattr(m, "head_dim", None), int)]
    return config.num_attention_heads * widths[0] if widths else config.hidden_size
