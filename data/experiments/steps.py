"""What experiments share: a pruned copy of the model, and the loss of every window."""

from __future__ import annotations

import copy

import torch

import wanda_nb as wn


def pruned(model, tokens, **how):
    """A copy of the model, pruned."""
    copied = copy.deepcopy(model)
    wn.prune(copied, tokens, **how)
    return copied


def losses(model, heldout: torch.Tensor) -> dict:
    """The loss of every window, from which perplexity and intervals follow."""
    found = wn.window_losses(model, heldout)
    return {
        "perplexity": round(float(found.double().mean().exp()), 3),
        "losses": [round(loss, 5) for loss in found.tolist()],
    }
