"""How much each block loses: sparsity by outliers (OWL)."""

from __future__ import annotations

import torch

from .masks import check_sparsity
from .models import decoder_blocks, linear_layers
from .pruning import prune
from .scores import wanda_score


def owl_sparsity(
    model, tokens, sparsity: float = 0.5, threshold: float = 5.0, spread: float = 0.08, **how
) -> list[float]:
    """One sparsity a block, lower where many weights have outlying Wanda scores; the mean is the sparsity asked for.

    An outlier scores more than ``threshold`` times the mean of its block. A block's share of outliers, stretched to a
    range of ``2 * spread``, is what it keeps more or less of than the others.
    how: attention_mask, device, batch_size, as in prune.
    Use: ``prune(model, tokens, sparsity=owl_sparsity(model, tokens, 0.7))``. Nothing is changed.
    Yin et al., *Outlier Weighed Layerwise Sparsity (OWL)*, ICML 2024; their code's settings.
    """
    check_sparsity(sparsity)
    layers = len(linear_layers(decoder_blocks(model)[0]))
    scores, shares = [], []

    def watch(W, norm):
        score = wanda_score(W, norm)
        scores.append(score.flatten())
        if len(scores) == layers:
            block = torch.cat(scores)
            shares.append(float((block > threshold * block.mean()).float().mean()))
            scores.clear()
        return score

    prune(model, tokens, method=watch, sparsity=0, **how)
    share = torch.tensor(shares, dtype=torch.float64)
    width = share.max() - share.min()
    more = 2 * spread * (share - share.min()) / width if width > 0 else torch.zeros_like(share)
    return (sparsity - (more - more.mean())).clamp(0, 0.999).tolist()
