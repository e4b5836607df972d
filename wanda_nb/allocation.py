"""How much each block loses: sparsity by outliers (OWL)."""

from __future__ import annotations

import torch

from .blocks import decoder_blocks, linear_layers
from .masks import check_sparsity
from .pruning import prune
from .scores import wanda_score

LIMIT = 0.999  # of what a block may lose


def owl_sparsity(
    model, tokens, sparsity: float = 0.5, threshold: float = 5.0, spread: float = 0.08, **how
) -> list[float]:
    """One sparsity a block, lower where many weights have outlying Wanda scores; the model's is the sparsity asked for.

    An outlier scores more than ``threshold`` times the mean of its block. A block's share of outliers, stretched to a
    range of ``2 * spread``, is what it keeps more or less of than the others. Sparsities stay between 0
    and 0.999 (or the sparsity asked for, if that is higher); what a limit takes from one block is shared out evenly
    among the others, so that the mean over all weights is the sparsity asked for.
    how: attention_mask, device, batch_size, as in prune.
    Use: ``prune(model, tokens, sparsity=owl_sparsity(model, tokens, 0.7))``. Nothing is changed.
    Yin et al., *Outlier Weighed Layerwise Sparsity (OWL)*, ICML 2024; their code's settings.
    """
    check_sparsity(sparsity)
    layers = [len(linear_layers(block)) for block in decoder_blocks(model)]
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

    prune(model, tokens, method=watch, sparsity=0, **how)
    share = torch.tensor(shares, dtype=torch.float64)
    width = share.max() - share.min()
    more = 2 * spread * share / width if width > 0 else torch.zeros_like(share)
    return _clamped(more, torch.tensor(sizes, dtype=torch.float64), sparsity)


def _clamped(more: torch.Tensor, weights: torch.Tensor, sparsity: float) -> list[float]:
    """``level - more`` within the limits, (blocks,), at the level where its mean over the weights is the sparsity."""
    low, high = (sparsity + float(end) for end in more.aminmax())  # at low no block loses more, at high none less
    for _ in range(60):  # halvings, to the last bit
        level = (low + high) / 2
        shares = (level - more).clamp(0, max(LIMIT, sparsity))
        if float(shares @ weights / weights.sum()) < sparsity:
            low = level
        else:
            high = level
    return shares.tolist()
