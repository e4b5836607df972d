"""What a weight is worth: (W, norm) -> score. The lowest scores are pruned.

W (out, in) · norm (in,), the L2 norm of each input channel · score (out, in) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


def magnitude_score(W: torch.Tensor) -> torch.Tensor:
    """|W|: (out, in) -> (out, in) float32. Introduced in notebook 02, "What is a weight worth?"."""
    return W.float().abs()


def wanda_score(W: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """|W_ij| · ‖X_j‖₂: W (out, in), norm (in,) -> (out, in) float32.

    What the output changes by, over the calibration tokens, when that one weight is removed. Raises ValueError if
    norm is not one number for each input channel.
    Introduced in notebook 02, "The change in output"; equation 1 of the paper.
    """
    if norm.shape != W.shape[1:]:
        raise ValueError(
            f"norm has shape {tuple(norm.shape)}, W {tuple(W.shape)}: expected one norm for each of W's "
            f"{W.shape[1]} input channels, its columns."
        )
    return W.float().abs() * norm.float()


class Method(NamedTuple):
    """How prune scores a layer, and the comparison group that the method was published with."""

    score: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    reads_inputs: bool
    group: str


METHODS = {
    "magnitude": Method(lambda W, norm: magnitude_score(W), reads_inputs=False, group="layer"),
    "wanda": Method(wanda_score, reads_inputs=True, group="output"),
}
