"""How much to remove from each block: sparsity by outliers (OWL)."""

from __future__ import annotations

import torch

from .blocks import decoder_blocks, linear_layers
from .masks import check_sparsity
from .pruning import prune
from .scores import wanda_score

LIMIT = 0.999  # the highest sparsity of a block


def owl_sparsity(
    model, tokens=None, sparsity: float = 0.5, threshold: float = 5.0, spread: float = 0.08, **settings
) -> list[float]:
    """One sparsity per block, lower where more weights have outlying Wanda scores; their mean is ``sparsity``.

    An outlier scores more than ``threshold`` times the mean of its block. The blocks' shares of outliers, stretched to
    a range of ``2 * spread``, lower their sparsities from a common level, such that the mean over all weights is
    ``sparsity``. Each stays between 0 and 0.999 (or ``sparsity``, if that is higher).
    tokens, and settings: attention_mask, blocks, calibration (in place of tokens), device, batch_size, as in ``prune``.
    Use: ``prune(model, tokens, sparsity=owl_sparsity(model, tokens, 0.7))``. The model is not changed.
    Yin et al., *Outlier Weighed Layerwise Sparsity (OWL)*, ICML 2024; their code's settings.
    """
    check_sparsity(sparsity)
    layers = [len(linear_layers(block)) for block in decoder_blocks(model, settings.get("blocks"))]
    scores: list[torch.Tensor] = []
    shares: list[float] = []
    sizes: list[int] = []

    def watch(W, norm):
        score = wanda_score(W, norm)
        scores.append(score.flatten())
        if len(scores) == layers[len(shares)]:
            block = torch.cat(scores)
            shares.append(float((block > threshold * block.mean()).float().mean()))
            sizes.append(len(block))
            scores.clear()
        return score

    prune(model, tokens, method=watch, sparsity=0, **settings)
    share = torch.tensor(shares, dtype=torch.float64)
    width = share.max() - share.min()
    reduction = 2 * spread * share / width if width > 0 else torch.zeros_like(share)
    return _clamped(reduction, torch.tensor(sizes, dtype=torch.float64), sparsity)


def _clamped(reduction: torch.Tensor, weights: torch.Tensor, sparsity: float) -> list[float]:
    """``level - reduction`` (blocks,) within the limits, at the level where the mean over weights is the sparsity."""
    # at the low level no block exceeds the sparsity, at the high one none falls below it
    low, high = (sparsity + float(end) for end in reduction.aminmax())
    for _ in range(60):  # halvings, to the last bit
        level = (low + high) / 2
        shares = (level - reduction).clamp(0, max(LIMIT, sparsity))
        if float(shares @ weights / weights.sum()) < sparsity:
            low = level
        else:
            high = level
    return shares.tolist()
