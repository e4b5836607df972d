"""Calibration the slow, obvious way: the whole model runs again for every block, under one plain hook a layer."""

import torch

import wanda_nb as wn


def prune_whole(model, batches, sparsity=0.5, blocks=None):
    """Prune by Wanda in place. batches: what to call the model with, one after the other."""
    for block in wn.decoder_blocks(model, blocks):
        squares = {}
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, name=name, squares=squares: squares.setdefault(name, []).append(args[0].clone())
            )
            for name, layer in wn.linear_layers(block).items()
        ]
        for batch in batches:
            with torch.no_grad():
                model(**batch)
        for hook in hooks:
            hook.remove()
        for name, layer in wn.linear_layers(block).items():
            W = wn.weight_matrix(layer)
            if isinstance(layer, torch.nn.Conv2d):  # channels first
                squares[name] = [x.permute(0, 2, 3, 1) for x in squares[name]]
            norm = sum(x.float().reshape(-1, x.shape[-1]).pow(2).sum(dim=0) for x in squares[name]).sqrt()
            W.masked_fill_(wn.prune_mask(wn.wanda_score(W, norm), sparsity), 0)
    return model


def as_run(tokens, keep, batch_size):
    """The batches of ``prune``: so many windows at a time, but one with padding is run by itself, without it."""
    for start in range(0, len(tokens), batch_size):
        rows = range(start, min(start + batch_size, len(tokens)))
        if keep is None or bool(keep[rows].all()):
            yield {"input_ids": tokens[rows], "use_cache": False}
            continue
        for row in rows:
            real = keep[row].nonzero().flatten()
            if len(real):
                one_text = torch.ones(1, len(real), dtype=torch.long)  # in spite of gaps in the positions
                placed = {"input_ids": tokens[row, real][None], "position_ids": real[None], "attention_mask": one_text}
                yield {**placed, "use_cache": False}


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
