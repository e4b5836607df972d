"""Wrong answers that must be named, and right ones that must pass."""

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


def by_where(W, A, B, scaling):
    return torch.where(W == 0, torch.zeros_like(W), W + scaling * (B @ A))


def by_mask_in_place(W, A, B, scaling):
    kept = (W != 0).to(W.dtype)
    W += kept * scaling * torch.einsum("or,ri->oi", B, A)
    return W


def with_numpy(W, A, B, scaling):
    merged = W.numpy() + scaling * B.numpy() @ A.numpy()
    merged[W.numpy() == 0] = 0
    return merged


def dense(W, A, B, scaling):
    return W + scaling * (B @ A)


def only_on_zeros(W, A, B, scaling):
    mask = W == 0
    return W + mask * (scaling * (B @ A))


def no_scaling(W, A, B, scaling):
    return (W + B @ A) * (W != 0)


def wrong_order(W, A, B, scaling):
    return (W + scaling * (A @ B)) * (W != 0)


def transposed(W, A, B, scaling):
    return (W + scaling * (A.T @ B.T)) * (W != 0)


def positives(W, A, B, scaling):
    return (W + scaling * (B @ A)).masked_fill(W <= 0, 0)


def update_alone(W, A, B, scaling):
    return scaling * (B @ A) * (W != 0)


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
        "check": checks.merge_under_mask,
        "right": [by_where, by_mask_in_place, with_numpy],
        "wrong": [
            (dense, "merged densely"),
            (only_on_zeros, "upside down"),
            (no_scaling, "scaling is missing"),
            (wrong_order, "wrong order"),
            (transposed, "transposed"),
            (positives, "negative weights"),
            (update_alone, "the update alone"),
        ],
    },
}
