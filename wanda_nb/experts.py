"""Experts whose weights are stacked in one tensor, as transformers holds them, taken apart for a while."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn

STACKS = {"gate_up_proj", "down_proj"}


class Separated(nn.ModuleList):
    """Stacked experts as a list of ordinary ones, whose weights are views of the stacks."""

    def __init__(self, stacked: nn.Module):
        super().__init__()
        self.gate = stacked._apply_gate
        for up, down in zip(stacked.gate_up_proj, stacked.down_proj, strict=True):
            self.append(nn.ModuleDict({"gate_up_proj": _linear(up), "down_proj": _linear(down)}))

    def forward(self, hidden_states, top_k_index, top_k_weights):
        output = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self):
            place, rows = (number == top_k_index.T).nonzero(as_tuple=True)
            if len(rows):  # the order of operations is transformers' own, so that no bit differs
                result = expert["down_proj"](self.gate(expert["gate_up_proj"](hidden_states[rows])))
                result = result * top_k_weights[rows, place, None]
                output.index_add_(0, rows, result.to(output.dtype))
        return output


@contextmanager
def separate_experts(model: nn.Module):
    """While open, let stacked experts be a list of experts with linear layers of their own, which ``prune`` prunes.

    transformers stacks the experts of Mixtral, Qwen-MoE, OLMoE, DeepSeek and their like in two tensors, where no layer
    can be watched. ``with wn.separate_experts(model): wn.prune(model, tokens)`` prunes each by what the router gives to
    it; ``calibrate``, ``sparsity`` and whatever else reads layers works in there, too. The weights are the model's own,
    and afterwards it is the model that it was. Experts that compute anything else stay stacked, and refused.
    Routers are not pruned. Save the model outside.
    Introduced in notebook 00, "What this does not show".
    """
    stacked = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    separated = [(parent, name, child, Separated(child)) for parent, name, child in stacked if _is_stacked(child)]
    separated = [item for item in separated if _same(item[2], item[3])]
    try:
        for parent, name, _, experts in separated:
            parent._modules[name] = experts.train(parent.training)
        yield model
    finally:
        for parent, name, child, _ in separated:
            parent._modules[name] = child


def router_weights(block: nn.Module) -> set[int]:
    """The ids of the parameters beside separated experts that have a row for each: of routers, which are not pruned."""
    found = set()
    for parent in block.modules():
        counts = {len(part) for part in parent.children() if isinstance(part, Separated)}
        beside = [p for part in parent.children() for p in part.parameters(recurse=False)]
        found |= {id(p) for p in (*beside, *parent.parameters(recurse=False)) if p.ndim == 2 and len(p) in counts}
    return found


def _linear(weight: torch.Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


def _is_stacked(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return own.keys() == STACKS and hasattr(module, "_apply_gate") and all(p.ndim == 3 for p in own.values())


@torch.no_grad()
def _same(stacked: nn.Module, separated: Separated) -> bool:
    """Whether both compute the same from a few made-up tokens, by transformers' own loop over experts."""
    count, (_, width) = len(separated), separated[0]["gate_up_proj"].weight.shape
    like = {"device": stacked.down_proj.device, "dtype": stacked.down_proj.dtype}
    if like["device"].type == "meta" or stacked.gate_up_proj.shape[1:] != (2 * stacked.down_proj.shape[2], width):
        return False
    tokens = torch.arange(4 * width, device=like["device"]).cos().view(4, width).to(like["dtype"])
    chosen = torch.tensor([[0, count - 1], [count - 1, count // 2], [1 % count, 0], [count // 2, 1 % count]])
    shares = torch.tensor([[0.75, 0.25]], **like).expand(4, 2)
    arguments = tokens, chosen.to(like["device"]), shares
    loop = getattr(type(stacked).forward, "__wrapped__", type(stacked).forward)
    return torch.equal(loop(stacked, *arguments), separated(*arguments))
