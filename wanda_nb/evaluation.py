"""How good the model is: perplexity, and text to read side by side."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .capture import replaced_forward
from .models import evaluating
from .progress import progress_bar
from .text import check_tokens

LOGITS_AT_ONCE = 2**24  # numbers; 64 MiB in float32, whatever the vocabulary


def perplexity(model, tokens: torch.Tensor, batch_size: int | None = None) -> float:
    """exp of the mean negative log-likelihood per predicted token: tokens LongTensor (windows, length) -> float.

    Each window is read by itself and its first token, which has no context, is not predicted, as in the published
    protocol. batch_size: windows at a time. Raises ValueError for windows of fewer than two tokens.
    Introduced in notebook 00, "Perplexity"; traps and intervals in notebook 06.
    """
    return math.exp(window_losses(model, tokens, batch_size).double().mean())


@torch.no_grad()
def window_losses(model, tokens: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
    """Mean negative log-likelihood of each window, in nats a token: (windows, length) -> (windows,) float32.

    The loss is taken in float32 from logits computed a slice of positions at a time, so that memory does not grow
    with batch × length × vocabulary.
    """
    check_tokens(model, tokens)
    if tokens.shape[1] < 2:
        raise ValueError(f"tokens {tuple(tokens.shape)}: a window needs two tokens, for the second to be predicted.")
    batch_size = batch_size or max(1, 1024 // tokens.shape[1])
    device = model.get_input_embeddings().weight.device
    losses = []
    bar = progress_bar(total=len(tokens), desc="perplexity", unit="window")
    with evaluating(model), bar:
        for batch in tokens.split(batch_size):
            losses.append(_losses(model, batch.to(device)).cpu())
            bar.update(len(batch))
    return torch.cat(losses)


def _losses(model, batch: torch.Tensor) -> torch.Tensor:
    base = model.get_base_model().base_model if hasattr(model, "get_base_model") else model.base_model
    read = base(input_ids=batch, use_cache=False)
    windows, length = batch.shape
    step = max(1, LOGITS_AT_ONCE // (windows * model.config.get_text_config().vocab_size))
    total = torch.zeros(windows, device=batch.device)
    # The model's own tail (head, scaling, soft-capping) runs on slices of what its base has read once.
    with replaced_forward((base, lambda *args, **kwargs: read)):
        for positions in torch.arange(length - 1, device=batch.device).split(step):
            logits = model(input_ids=batch, use_cache=False, logits_to_keep=positions).logits
            targets = batch[:, positions + 1]
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            total += loss.view(targets.shape).sum(dim=1)
    return total / (length - 1)


@torch.no_grad()
def complete(model, tokenizer, prompt: str, new_tokens: int = 40) -> str:
    """The model's greedy continuation of a prompt, without the prompt.

    Introduced in notebook 00, "Read what it writes".
    """
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
