"""Real layers with their inputs, for the score of notebook 09 to be judged on."""

from __future__ import annotations

import functools

import torch

from ..blocks import decoder_blocks, linear_layers, weight_matrix
from ..inputs.loading import load_model
from ..inputs.text import calibration_tokens, evaluation_tokens

BLOCKS, KINDS, ROWS = (2, 14, 27), ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"), 96


@functools.cache
def real_layers() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Layers of SmolLM2: {name: (W (96, in), its inputs X (1024, in) on C4, and on Wikipedia, held out)}.

    W holds the first rows of the layer. Used in notebook 09, "Exercise 09.2".
    """
    model, tokenizer = load_model()
    blocks = decoder_blocks(model)
    layers = {f"{i}.{kind}": linear_layers(blocks[i])[kind] for i in BLOCKS for kind in KINDS}
    texts = (
        calibration_tokens(tokenizer, samples=8, length=128),
        evaluation_tokens(tokenizer, length=128, windows=8, spread=True),
    )
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].flatten(0, 1).clone()))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for tokens in texts:
            model.base_model(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: (weight_matrix(layer).detach()[:ROWS].clone(), *seen[name]) for name, layer in layers.items()}
