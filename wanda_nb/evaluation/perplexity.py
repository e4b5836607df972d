"""Perplexity, and the loss of every window."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from ..blocks import evaluating
from ..inputs.text import check_tokens
from ..patched import replaced_forward
from ..reporting.identity import identity, tokens_identity
from ..reporting.progress import progress_bar
from ..reporting.unfinished import Kept

LOGITS_AT_ONCE = 2**24  # numbers; 64 MiB in float32, whatever the vocabulary


def perplexity(model, tokens: torch.Tensor, batch_size: int | None = None) -> float:
    """exp of the mean negative log-likelihood per predicted token: tokens LongTensor (windows, length) -> float.

    As in the published protocol, each window is read by itself, and its first token, which has no context, is not
    predicted. batch_size: windows at a time. Raises ValueError for windows of fewer than two tokens.
    Introduced in notebook 00, "Perplexity"; traps and intervals in notebook 06.
    """
    return math.exp(window_losses(model, tokens, batch_size).double().mean())


@torch.no_grad()
def window_losses(model, tokens: torch.Tensor, batch_size: int | None = None, kept=None) -> torch.Tensor:
    """Mean negative log-likelihood of each window, in nats per token: (windows, length) -> (windows,) float32.

    The loss is computed in float32 from logits of a slice of positions at a time, so that memory does not grow with
    batch × length × vocabulary. kept: a file that stores the losses as they come; after a kill, the same call goes on
    from it, and a power cut costs one batch. Raises ValueError for windows of fewer than two tokens, and for a file
    that holds anything but losses of this model on these windows; such a file is not changed.
    Introduced in notebook 03, "Does the order matter?"; what its numbers are good for, in notebook 06.
    """
    check_tokens(model, tokens)
    if tokens.shape[1] < 2:
        raise ValueError(
            f"tokens {tuple(tokens.shape)}: expected windows of two tokens or more, because the first is not predicted."
        )
    batch_size = batch_size or max(1, 1024 // tokens.shape[1])
    device = model.get_input_embeddings().weight.device
    file = None if kept is None else _kept_losses(kept, model, tokens, batch_size)
    losses = [] if file is None else list(file.values)
    bar = progress_bar(total=len(tokens), initial=len(losses), desc="perplexity", unit="window")
    with evaluating(model), bar, file or nullcontext():
        for start in range(len(losses), len(tokens), batch_size):
            batch = tokens[start : start + batch_size]
            new = batch_losses(model, batch.to(device)).tolist()
            losses += new
            bar.update(len(batch))
            if file is not None:
                file.add(new)
                file.sync()
    return torch.tensor(losses, dtype=torch.float32)


def batch_losses(model, batch: torch.Tensor) -> torch.Tensor:
    """The loss of each window of a batch: (windows, length) -> (windows,)."""
    base = model.get_base_model().base_model if hasattr(model, "get_base_model") else model.base_model
    hidden = base(input_ids=batch, use_cache=False)
    windows, length = batch.shape
    step = max(1, LOGITS_AT_ONCE // (windows * model.config.get_text_config().vocab_size))
    total = torch.zeros(windows, device=batch.device)
    # The base runs once; the model's own head, with its scaling and soft-capping, runs on slices of the result.
    with replaced_forward((base, lambda *args, **kwargs: hidden)):
        for positions in torch.arange(length - 1, device=batch.device).split(step):
            logits = model(input_ids=batch, use_cache=False, logits_to_keep=positions).logits
            targets = batch[:, positions + 1]
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            total += loss.view(targets.shape).sum(dim=1)
    return total / (length - 1)


def _kept_losses(path, model, tokens: torch.Tensor, batch_size: int) -> Kept:
    """A file of losses, cut to whole batches unless it is complete."""

    def loss(value) -> float:
        if type(value) is not float or not math.isfinite(value):
            raise ValueError
        return value

    file = Kept(path, {"kept": "losses", "model": identity(model), "text": tokens_identity(tokens, None)}, loss)
    if (count := len(file.values)) > len(tokens):
        raise ValueError(f"{file.path} holds {count} losses, for {len(tokens)} windows: is it damaged? Remove it.")
    if count < len(tokens):
        del file.values[count // batch_size * batch_size :]
    return file
