"""Checks of notebook 08: LoRA as a module, and how many numbers it trains."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .core import call, done, judge, same, tensor

FACTORS = {
    "the factor alpha / r is missing.": lambda r, alpha: 1,
    "you multiplied by alpha alone. The factor is alpha / r.": lambda r, alpha: alpha,
    "the factor is upside down: alpha / r, not r / alpha.": lambda r, alpha: r / alpha,
    "the factor is alpha / r, not alpha / sqrt(r).": lambda r, alpha: alpha / r**0.5,
    "the output does not change when A and B do. Use both in forward, not once in __init__.": lambda r, alpha: 0,
}


def lora_linear(function, graded: bool = False) -> None:
    """Exercise 08.1: a class ``LoRALinear(base, r=8, alpha=16)``: base(X) + alpha / r * X Aᵀ Bᵀ.

    X (..., in) -> (..., out). base: nn.Linear, frozen. A (r, in) starts random and B (out, r) at zero, whatever they
    are called. graded: on more layers. AssertionError, naming the mistake. Used in notebook 08, "Exercise 08.1".
    """
    layers = [(5, 7, 3, 6, True), (9, 4, 2, 8, False)]  # in, out, r, alpha, bias
    layers += [(11, 6, 5, 1, True), (4, 13, 1, 16, True), (40, 30, 8, 16, False)] if graded else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1 if graded else 0)
        for number, layer in enumerate(layers):
            _lora(function, *layer, shape=(2, 3) if number % 2 == 0 else (4,))
    done("08.1", "it starts as its base, learns r * (in + out) numbers, and follows alpha / r", graded)


def _lora(function, width, out, r, alpha, bias, shape) -> None:
    base, X = nn.Linear(width, out, bias), torch.randn(*shape, width)  # (samples, length, in) or (tokens, in)
    module = call(function, copy.deepcopy(base), r=r, alpha=alpha)
    where = f"r={r}, alpha={alpha}, base {width} → {out}: "
    if not isinstance(module, nn.Module):
        raise AssertionError(f"{where}expected an nn.Module, got {type(module).__name__}.")
    plain = base(X).detach()
    _starts_as_base(where, base, plain, tensor(call(module, X), plain.shape, f"{where}output"), alpha / r)
    A, B = _trained(where, module, base, r)
    if not A.any():
        raise AssertionError(
            f"{where}your A starts at zero and your B does not. It must be the other way round."
            if B.any()
            else f"{where}A and B both start at zero, so neither gets a gradient: it would never learn."
        )
    if torch.linalg.matrix_rank(A.detach()) < min(A.shape):
        raise AssertionError(f"{where}A must be random: its rows are alike.")

    known = torch.randn(r, width), torch.randn(out, r)
    for matrix, value in zip((A, B), known, strict=True):
        matrix.data.copy_(value if value.shape == matrix.shape else value.T)
    X.requires_grad_()
    correction = X @ known[0].T @ known[1].T
    got, expected = tensor(call(module, X), plain.shape, f"{where}output"), (base(X) + alpha / r * correction).detach()
    if not same(got, expected):
        for said, factor in FACTORS.items():
            if same(got, plain + factor(r, alpha) * correction.detach()):
                raise AssertionError(where + said)
        raise AssertionError(f"{where}with known A and B the output is not base(X) + alpha / r * X Aᵀ Bᵀ.")
    _gradients(where, module, X, A, B, (base(X) + alpha / r * correction).sum())


def _starts_as_base(where, base, plain, got, scaling) -> None:
    if same(got, plain):
        return
    if base.bias is not None and same(got, plain - base.bias.detach()):
        raise AssertionError(f"{where}the bias of the base is lost. Call the base itself, base(X).")
    if same(got, scaling * plain):
        raise AssertionError(f"{where}alpha / r belongs to the correction alone, not to base(X).")
    raise AssertionError(f"{where}before any training the output differs from base(X). B must start at zero.")


def _trained(where, module, base, r) -> tuple[nn.Parameter, nn.Parameter]:
    out, width = base.weight.shape
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise AssertionError(
            f"{where}nothing can be trained. A and B must be an nn.Parameter each; freeze only the base."
        )
    if any(same(one, other) for one in trained for other in base.parameters()):
        raise AssertionError(f"{where}the base is still trainable. Freeze it: requires_grad_(False).")
    count, expected = sum(parameter.numel() for parameter in trained), r * (width + out)
    found = [[p for p in trained if sorted(p.shape) == sorted(sides)] for sides in ((r, width), (out, r))]
    if count != expected or any(len(matrices) != 1 for matrices in found):
        raise AssertionError(
            f"{where}{count} numbers can be trained. Expected r * (in + out) = {expected}: A (r, in), B (out, r), "
            "no more."
        )
    return found[0][0], found[1][0]


def _gradients(where, module, X, A, B, expected) -> None:
    (wanted,) = torch.autograd.grad(expected, X)
    total = module(X).sum()
    if not total.requires_grad:
        raise AssertionError(f"{where}the output has no gradient: no torch.no_grad, .detach() or .data in forward.")
    total.backward()
    if A.grad is None or B.grad is None:
        raise AssertionError(f"{where}no gradient reaches A or B: no .detach() or .data.")
    if X.grad is None or not same(X.grad, wanted, 1e-3):
        raise AssertionError(
            f"{where}the gradient of X is wrong, so the layers below would not learn. Freeze the base's parameters, "
            "but do not wrap base(X) in torch.no_grad."
        )


SHARE = {
    "you counted the full matrices. LoRA trains only A (r, in) and B (out, r) of each layer.": (
        lambda blocks, width, kv, rank, parameters: blocks * (width * width + width * kv) / parameters
    ),
    "you counted 2 * rank * width a block: A without B, or q_proj without v_proj. Both have numbers more.": (
        lambda blocks, width, kv, rank, parameters: blocks * rank * 2 * width / parameters
    ),
    "you counted rank * (width + kv_width) a block: B without A, or v_proj without q_proj. Both have numbers more.": (
        lambda blocks, width, kv, rank, parameters: blocks * rank * (width + kv) / parameters
    ),
    "you took v_proj as square. It reads width channels, but writes only kv_width.": (
        lambda blocks, width, kv, rank, parameters: blocks * rank * 4 * width / parameters
    ),
    "v_proj reads width channels, not kv_width: only its output is narrow.": (
        lambda blocks, width, kv, rank, parameters: blocks * rank * 2 * (width + kv) / parameters
    ),
    "you counted one block only.": lambda blocks, width, kv, rank, parameters: rank * (3 * width + kv) / parameters,
    "you gave per cent. A fraction was asked: do not multiply by 100.": (
        lambda blocks, width, kv, rank, parameters: 100 * _share(blocks, width, kv, rank, parameters)
    ),
    "you gave the number that is trained. Divide by parameters.": (
        lambda blocks, width, kv, rank, parameters: blocks * rank * (3 * width + kv)
    ),
    "you divided by the parameters that stay frozen plus the new ones. The share is of the model's own parameters.": (
        lambda blocks, width, kv, rank, parameters: 1 / (1 + 1 / _share(blocks, width, kv, rank, parameters))
    ),
}


def _share(blocks, width, kv_width, rank, parameters) -> float:
    return blocks * rank * (width + width + width + kv_width) / parameters


def lora_share(function, graded: bool = False) -> None:
    """Exercise 08.2: ``function(blocks, width, kv_width, rank, parameters)``: LoRA's share of the model.

    Adapters on q_proj (width → width) and v_proj (width → kv_width) of each block. graded: on more models.
    AssertionError, naming the mistake. Used in notebook 08, "Exercise 08.2".
    """
    cases = [(3, 10, 4, 2, 5000), (24, 2048, 256, 8, 1_500_000_000)]
    if graded:
        cases += [(1, 7, 7, 1, 1000), (80, 8192, 1024, 16, 70_000_000_000), (2, 6, 1, 6, 999)]
    judge(function, cases, _share, SHARE)
    done("08.2", "A and B of both layers, in every block", graded)
