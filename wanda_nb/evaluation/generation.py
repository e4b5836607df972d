"""What a model writes after a prompt."""

from __future__ import annotations

import torch


@torch.no_grad()
def complete(model, tokenizer, prompt: str, new_tokens: int = 40) -> str:
    """The model's greedy continuation of a prompt, without the prompt: at most ``new_tokens`` tokens, as text.

    Introduced in notebook 00, "Read what it writes".
    """
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
