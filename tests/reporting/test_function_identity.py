"""Two score functions share an identity if and only if they are the same, as far as that can be told."""

import functools
import sys
import types

import numpy as np
import pytest
import torch

import wanda_nb as wn
from wanda_nb.methods import METHODS
from wanda_nb.reporting.function_identity import Unidentified, function_identity

POWER = 2


def closed_over(p):
    return lambda W, norm: W.abs() * norm**p


def helped(W, norm):
    return helper(W) * norm


def helper(W):
    return W.abs()


def scaled(W, norm, by=2.0, *, plus=0):
    return W.abs() * norm * by + plus


def by_global(W, norm):
    return W.abs() * norm**POWER


def inner(W, norm):
    return sum((lambda w: w * 2)(row) for row in W)


def other_inner(W, norm):
    return sum((lambda w: w * 3)(row) for row in W)


def recursive(W, norm, depth=3):
    return W.abs() * norm if not depth else recursive(W, norm, depth - 1)


DIFFERENT = {
    "names": (lambda W, n: W.abs() * n, lambda W, n: W.exp() * n),
    "operators": (lambda W, n: W.abs() * n, lambda W, n: W.abs() + n),
    "constants": (lambda W, n: W.abs() * n**2, lambda W, n: W.abs() * n**3),
    "kinds of constants": (lambda W, n: W.abs() * 1, lambda W, n: W.abs() * 1.0),
    "variables": (lambda W, n: W.abs() * n, lambda n, W: W.abs() * n),
    "closures": (closed_over(0), closed_over(2)),
    "closures over tensors": (closed_over(torch.zeros(3)), closed_over(torch.ones(3))),
    "closures over dtypes of tensors": (closed_over(torch.zeros(3)), closed_over(torch.zeros(3).double())),
    "closures over arrays": (closed_over(np.zeros(3)), closed_over(np.ones(3))),
    "closures over functions": (closed_over(helper), closed_over(helped)),
    "closures over lists": (closed_over([1, 2]), closed_over([1, 3])),
    "closures over signs of zero": (closed_over(0.0), closed_over(-0.0)),
    "partials' keywords": (functools.partial(scaled, by=1.0), functools.partial(scaled, by=3.0)),
    "partials' functions": (functools.partial(scaled), functools.partial(helped)),
    "partials of published scores": (
        functools.partial(wn.ria_score, power=0.5),
        functools.partial(wn.ria_score, power=1.0),
    ),
    "functions inside": (inner, other_inner),
    "builtins": (lambda W, n: max(W, n), lambda W, n: min(W, n)),
    "published": (wn.wanda_score, wn.magnitude_score),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_has_another_identity(what):
    a, b = DIFFERENT[what]
    assert function_identity(a) == function_identity(a) != function_identity(b)


@pytest.mark.parametrize("change", ["default", "keyword", "global", "helper"])
def test_what_a_function_refers_to_is_part_of_it(change, monkeypatch):
    before = [function_identity(one) for one in (scaled, by_global, helped)]
    if change == "default":
        monkeypatch.setattr(scaled, "__defaults__", (3.0,))
    elif change == "keyword":
        monkeypatch.setattr(scaled, "__kwdefaults__", {"plus": 1})
    elif change == "global":
        monkeypatch.setattr(sys.modules[__name__], "POWER", 3)
    else:
        monkeypatch.setattr(helper, "__code__", (lambda W: W.exp()).__code__)
    changed = [a != function_identity(one) for a, one in zip(before, (scaled, by_global, helped), strict=True)]
    assert changed == [change in ("default", "keyword"), change == "global", change == "helper"]


def test_a_copy_is_the_same():
    assert function_identity(closed_over(np.float32(0.5))) == function_identity(closed_over(np.float32(0.5)))
    assert function_identity(closed_over({"a": (1, None)})) == function_identity(closed_over({"a": (1, None)}))
    assert function_identity(closed_over({1, 2, 3})) == function_identity(closed_over({3, 2, 1}))
    assert len(function_identity(recursive)) == 64


def test_every_published_score_has_one():
    assert len({function_identity(method.score) for method in METHODS.values()}) == len(METHODS) - 1  # variant: wanda's


class Own:
    def __call__(self, W, norm):
        return W.abs() * norm


def evaluates(W, norm):
    return eval("W.abs() * norm")


def imports(W, norm):
    from somewhere_else import score

    return score(W, norm)


def opens(W, norm):
    return W.abs() * float(open("power.txt").read())


own_module = types.ModuleType("own_module")


def uses_own_module(W, norm):
    return own_module.score(W, norm)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (Own(), "an object of the class Own"),
        (closed_over(Own()), "an object of the class Own"),
        (Own().__call__, "an object of the class Own"),
        (closed_over(Own), "uses Own"),
        (evaluates, "uses eval"),
        (closed_over(eval), "uses eval"),
        (opens, "uses open"),
        (imports, "imports somewhere_else"),
        (uses_own_module, "the module own_module"),
        (lambda W, norm: nowhere(W), "uses nowhere"),  # noqa: F821
        (closed_over(np.array([Own()])), "ndarray"),
        (functools.lru_cache(helper), "uses helper"),
    ],
)
def test_what_cannot_be_told_is_said(score, reason):
    with pytest.raises(Unidentified, match=reason):
        function_identity(score)
