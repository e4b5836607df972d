"""Wrong answers that must be named, and right ones that must pass."""

import inspect

import numpy as np
import torch
from torch import nn

from wanda_nb import checks


class ByLinear(nn.Module):
    def __init__(self, base, r=8, alpha=16):
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.frozen, self.scale = base, alpha / r
        self.down = nn.Linear(base.in_features, r, bias=False)
        self.up = nn.Linear(r, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, X):
        return self.frozen(X) + self.up(self.down(X)) * self.scale


class Transposed(nn.Module):  # keeps A and B the other way round, and builds the whole update
    def __init__(self, base, r=8, alpha=16):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.B = nn.Parameter(torch.zeros(r, base.out_features))
        self.A = nn.Parameter(torch.rand(base.in_features, r) - 0.5)
        self.r, self.alpha = r, alpha

    def forward(self, X):
        return nn.functional.linear(X, self.base.weight + self.alpha / self.r * (self.A @ self.B).T, self.base.bias)


class LoRA(nn.Module):  # right; the mistakes below change one thing each
    def __init__(self, base, r=8, alpha=16):
        super().__init__()
        out, width = base.weight.shape
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, width))
        self.B = nn.Parameter(torch.zeros(out, r))
        self.r, self.alpha, self.factor = r, alpha, alpha / r

    def forward(self, X):
        return self.base(X) + self.factor * (X @ self.A.T) @ self.B.T


class RandomB(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.B, std=0.02)


class BothZero(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        nn.init.zeros_(self.A)


class Swapped(BothZero):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.B)


class Ones(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        nn.init.ones_(self.A)


class Thawed(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        self.base.weight.requires_grad_(True)


class BiasThawed(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        if base.bias is not None:
            self.base.bias.requires_grad_(True)


class Unscaled(LoRA):
    def forward(self, X):
        return self.base(X) + X @ self.A.T @ self.B.T


class AlphaAlone(LoRA):
    def forward(self, X):
        return self.base(X) + self.alpha * X @ self.A.T @ self.B.T


class UpsideDown(LoRA):
    def forward(self, X):
        return self.base(X) + self.r / self.alpha * X @ self.A.T @ self.B.T


class ScaledAll(LoRA):
    def forward(self, X):
        return self.factor * (self.base(X) + X @ self.A.T @ self.B.T)


class NoBias(LoRA):
    def forward(self, X):
        return X @ self.base.weight.T + self.factor * X @ self.A.T @ self.B.T


class Plain(LoRA):  # tensors that nobody will find
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        A, B = self.A.data, self.B.data
        del self.A, self.B
        self.A, self.B = A, B


class WithBiases(ByLinear):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        self.down = nn.Linear(base.in_features, r)


class Once(LoRA):
    def __init__(self, base, r=8, alpha=16):
        super().__init__(base, r, alpha)
        self.update = (self.B @ self.A).detach() * self.factor

    def forward(self, X):
        return self.base(X) + X @ self.update.T


class NoGrad(LoRA):
    def forward(self, X):
        with torch.no_grad():
            plain = self.base(X)
        return plain + self.factor * X @ self.A.T @ self.B.T


class Data(LoRA):
    def forward(self, X):
        return self.base(X) + self.factor * X @ self.A.data.T @ self.B.T


class OneWindow(LoRA):  # (tokens, in) only
    def forward(self, X):
        return self.base(X) + self.factor * (self.B @ self.A @ X.transpose(0, 1)).transpose(0, 1)


def step(W, X, Y, optimiser):
    optimiser.zero_grad()
    (X @ W.T - Y).pow(2).mean().backward()


def in_order(W, mask, batches, optimiser, max_norm):
    for X, Y in batches:
        step(W, X, Y, optimiser)
        W.grad[mask] = 0
        nn.utils.clip_grad_norm_([W], max_norm)
        optimiser.step()
        with torch.no_grad():
            W[mask] = 0


def with_a_hook(W, mask, batches, optimiser, max_norm):
    hook = W.register_hook(lambda gradient: gradient * ~mask)
    for X, Y in batches:
        step(W, X, Y, optimiser)
        nn.utils.clip_grad_norm_(W, max_norm)
        optimiser.step()
        W.data *= ~mask
    hook.remove()


def without_its_memory(W, mask, batches, optimiser, max_norm):
    """Removed weights are forgotten, so that nothing moves them."""
    for memory in optimiser.state.values():
        for kept in memory.values():
            if kept is not None and kept.shape == W.shape:
                kept[mask] = 0
    for X, Y in batches:
        step(W, X, Y, optimiser)
        W.grad.masked_fill_(mask, 0)
        nn.utils.clip_grad_norm_([W], max_norm)
        optimiser.step()


def norm_by_hand(W, mask, batches, optimiser, max_norm):
    for X, Y in batches:
        step(W, X, Y, optimiser)
        norm = W.grad[~mask].norm()
        W.grad *= torch.clamp(max_norm / (norm + 1e-6), max=1)
        optimiser.step()
        W.data = torch.where(mask, 0, W.data)


def kept_alone(W, mask, batches, optimiser, max_norm):
    """A layer that has no removed weights: the kept ones, in a row, with what the optimiser remembers of them."""
    kept = nn.Parameter(W.detach()[~mask])
    known = inspect.signature(type(optimiser)).parameters
    own = type(optimiser)([kept], **{key: value for key, value in optimiser.defaults.items() if key in known})
    memory = optimiser.state.get(W, {})
    own.state[kept] = {key: m[~mask] if m is not None and m.shape == W.shape else m for key, m in memory.items()}
    for X, Y in batches:
        whole = torch.zeros_like(W).masked_scatter(~mask, kept)
        own.zero_grad()
        (X @ whole.T - Y).pow(2).mean().backward()
        nn.utils.clip_grad_norm_([kept], max_norm)
        own.step()
    W.data = torch.zeros_like(W).masked_scatter(~mask, kept.detach()).data


def clipped(W, mask, batches, optimiser, max_norm, *, first=False, mask_it=True, clip=True, back=True):
    for X, Y in batches:
        step(W, X, Y, optimiser)
        if first:
            nn.utils.clip_grad_norm_([W], max_norm)
        if mask_it:
            W.grad *= ~mask
        if clip and not first:
            nn.utils.clip_grad_norm_([W], max_norm)
        optimiser.step()
        if back:
            W.data.masked_fill_(mask, 0)


def gradient_only(*given):
    clipped(*given, back=False)


def set_back_only(*given):
    clipped(*given, mask_it=False)


def clipped_first(*given):
    clipped(*given, first=True)


def in_the_end(W, mask, *others):
    clipped(W, mask, *others, back=False)
    W.data[mask] = 0


def both_in_part(W, mask, *others):
    checks.masked_training(W, mask, *others)
    W.data[mask] = 0


def not_the_last(W, mask, batches, optimiser, max_norm):
    for batch in batches:
        W.data[mask] = 0
        gradient_only(W, mask, [batch], optimiser, max_norm)


def not_clipped(*given):
    clipped(*given, clip=False)


def where_zero(W, mask, *others):
    clipped(W, W.detach() == 0, *others)


def upside_down(W, mask, *others):
    clipped(W, ~mask, *others)


def cleared(W, mask, batches, optimiser, max_norm):
    for batch in batches:
        optimiser.state.clear()
        clipped(W, mask, [batch], optimiser, max_norm)


def adding_up(W, mask, batches, optimiser, max_norm):
    for X, Y in batches:
        (X @ W.T - Y).pow(2).mean().backward()
        W.grad.masked_fill_(mask, 0)
        nn.utils.clip_grad_norm_([W], max_norm)
        optimiser.step()
        W.data.masked_fill_(mask, 0)


def evidence(kind=torch.optim.SGD, before=1, pruned=True, **options):
    W, mask = nn.Parameter(torch.ones(2, 3)), torch.tensor([[True, False, False]] * 2)
    optimiser, batches = kind([W], lr=0.1, **options), [(torch.eye(3), torch.zeros(3, 2))]
    for X, Y in batches * before:
        step(W, X, Y, optimiser)
        optimiser.step()
    W.data.masked_fill_(mask & pruned, 0)
    return W, mask, batches, optimiser, 1.0


def with_momentum():
    return evidence(momentum=0.9)


def with_adam():
    return evidence(torch.optim.AdamW, before=2)


def decaying():  # the decay of 0 is 0
    return evidence(torch.optim.AdamW, before=0, weight_decay=0.5)


def no_memory():
    return evidence()


def not_pruned():
    return evidence(momentum=0.9, pruned=False)


def check_training(answer, graded=False):  # what is not given is right
    mended, shown = answer if isinstance(answer, tuple) else (answer, with_momentum)
    checks.under_the_mask(mended, shown, graded=graded)


def layer_by_layer(blocks, width, kv_width, rank, parameters):
    numbers = 0
    for _ in range(blocks):
        for inputs, outputs in ((width, width), (width, kv_width)):
            numbers += rank * inputs + outputs * rank
    return numbers / parameters


def with_torch(blocks, width, kv_width, rank, parameters):
    q, v = torch.tensor([width, width]), torch.tensor([width, kv_width])
    return torch.tensor(blocks * rank, dtype=torch.float64) * (q + v).sum() / parameters


def full(blocks, width, kv_width, rank, parameters):
    return blocks * (width**2 + width * kv_width) / parameters


def only_a(blocks, width, kv_width, rank, parameters):
    return blocks * (rank * width + rank * width) / parameters


def only_b(blocks, width, kv_width, rank, parameters):
    return blocks * (rank * width + rank * kv_width) / parameters


def square(blocks, width, kv_width, rank, parameters):
    return blocks * 2 * rank * (width + width) / parameters


def one_block(blocks, width, kv_width, rank, parameters):
    return rank * (3 * width + kv_width) / parameters


def per_cent(blocks, width, kv_width, rank, parameters):
    return 100 * blocks * rank * (3 * width + kv_width) / parameters


def count(blocks, width, kv_width, rank, parameters):
    return blocks * rank * (3 * width + kv_width)


EXERCISES = {
    "ex08a": {
        "check": checks.lora_linear,
        "right": [LoRA, ByLinear, Transposed],
        "wrong": [
            (RandomB, "B must start at zero"),
            (BothZero, "would never learn"),
            (Swapped, "your A starts at zero"),
            (Ones, "its rows are alike"),
            (Thawed, "the base is still trainable"),
            (BiasThawed, "the base is still trainable"),
            (Unscaled, "the factor alpha / r is missing"),
            (AlphaAlone, "alpha alone"),
            (UpsideDown, "upside down"),
            (ScaledAll, "belongs to the correction alone"),
            (NoBias, "bias of the base is lost"),
            (Plain, "nothing can be trained"),
            (WithBiases, "no more"),
            (Once, "does not change when A and B do"),
            (NoGrad, "do not wrap base(X) in torch.no_grad"),
            (Data, "no gradient reaches A or B"),
            (OneWindow, "stopped with"),
        ],
    },
    "ex08b": {
        "check": checks.lora_share,
        "right": [layer_by_layer, with_torch, lambda *sizes: np.float64(layer_by_layer(*sizes))],
        "wrong": [
            (full, "the full matrices"),
            (only_a, "A without B"),
            (only_b, "B without A"),
            (square, "v_proj as square"),
            (one_block, "one block only"),
            (per_cent, "per cent"),
            (count, "Divide by parameters"),
        ],
    },
    "ex08c": {
        "check": check_training,
        "right": [in_order, with_a_hook, without_its_memory, norm_by_hand, kept_alone, (in_order, with_adam)],
        "wrong": [
            (checks.masked_training, "neither fault"),
            (gradient_only, "the optimiser remembers"),
            (set_back_only, "count in the norm"),
            (clipped_first, "count in the norm"),
            (in_the_end, "awake between the steps"),
            (both_in_part, "both faults are left in part"),
            (not_the_last, "before each step"),
            (not_clipped, "not clipped any more"),
            (where_zero, "A kept weight may be 0 too"),
            (upside_down, "upside down"),
            (cleared, "cleared the optimiser's memory"),
            (adding_up, "zero_grad is missing"),
            ((in_order, decaying), "stayed 0, and that is no fault"),
            ((in_order, no_memory), "stayed 0, and that is no fault"),
            ((in_order, not_pruned), "nothing is pruned yet"),
            ((in_order, lambda: with_momentum()[:4]), "five things"),
        ],
    },
}
