"""What a weight is worth: (W, norm) -> score. The lowest scores are pruned.

W (out, in) · norm (in,), the L2 norm of each input channel · score (out, in) float32.
"""

from __future__ import annotations

import torch


def magnitude_score(W: torch.Tensor, norm: torch.Tensor | None = None) -> torch.Tensor:
    """|W|: (out, in) -> (out, in) float32; norm is not used. Introduced in notebook 02, "What is a weight worth?"."""
    return W.abs().float()


def wanda_score(W: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """|W_ij| · ‖X_j‖₂: W (out, in), norm (in,) -> (out, in) float32.

    How much the output over the calibration tokens changes when that weight alone is removed. Raises ValueError unless
    norm holds one number for each input channel.
    Introduced in notebook 02, "The change in output"; equation 1 of the paper.
    """
    _check_norm(W, norm)
    return (W.float() if W.dtype == torch.float64 else W).abs() * norm.float()  # 16-bit W: the product is float32


def ria_score(W: torch.Tensor, norm: torch.Tensor, power: float = 0.5) -> torch.Tensor:
    """Relative importance and activations (RIA): W (out, in), norm (in,) -> (out, in) float32.

    (|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_j‖₂^power: a weight counts by its share of its column and of its
    row, so that no input or output loses all its weights. Weights in a row or column of zeros have a share of 0.
    Zhang et al., *Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models*, ICLR 2024.
    Introduced in notebook 09, "Your own score".
    """
    _check_norm(W, norm)
    size = W.float().abs()
    tiny = torch.finfo(torch.float32).tiny
    share = size / size.sum(dim=0).clamp_min(tiny) + size / size.sum(dim=1, keepdim=True).clamp_min(tiny)
    return share * norm.float().pow(power)


def _check_norm(W: torch.Tensor, norm: torch.Tensor) -> None:
    if norm.shape != W.shape[1:]:
        raise ValueError(
            f"norm has shape {tuple(norm.shape)}, W {tuple(W.shape)}: expected one norm for each of W's "
            f"{W.shape[1]} input channels, its columns."
        )
