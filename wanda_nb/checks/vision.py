"""Checks of notebook 12: how close a pruned model's features are, and which masks depend on how a layer is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from .core import call, done, same, tensor


class _Toy(nn.Module):
    """Stands for a vision transformer: images (n, 6) -> features (n, tokens 3, width 5), its class token first."""

    def __init__(self, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(6, 15, bias=False)
        self.layer.weight.data = torch.randn(15, 6, generator=draw)

    def forward(self, images):
        return self.layer(images).relu().unflatten(1, (3, 5)) + 0.1


@torch.no_grad()
def _prune(model, images) -> None:
    """In place, as wn.prune does: half of each row goes, by Wanda's score for these images."""
    W = model.layer.weight
    lowest = (W.abs() * images.norm(dim=0)).argsort(dim=1, stable=True)[:, :3]
    W.scatter_(1, lowest, 0)


def _measure(value=lambda before, after: cosine_similarity(before[:, 0], after[:, 0], dim=-1), images="calibration"):
    """The right measure, or a mistake in it."""

    def fidelity(model, prune, calibration, held_out):
        pruned = copy.deepcopy(model)
        prune(pruned, held_out if images == "held out" else calibration)
        judged = calibration if images == "judged" else held_out
        return value(model(judged), pruned(judged))

    return fidelity


FIDELITY = {
    "you compared the model with itself: every cosine is 1. `prune` works in place, so deep-copy the model first (a "
    "plain copy.copy shares its weights).": _measure(lambda before, after: torch.ones(len(after))),
    "you calibrated on the held-out images. Give `prune` the calibration images.": _measure(images="held out"),
    "you judged on the calibration images. Judge on those held out.": _measure(images="judged"),
    "you averaged over the images before the cosine, and what differs from image to image cancels. One cosine an "
    "image.": _measure(lambda before, after: cosine_similarity(before.mean(0), after.mean(0), dim=-1)[0]),
    "you averaged over the images before the cosine, and gave one number a token. One cosine an image.": _measure(
        lambda before, after: cosine_similarity(before.mean(0), after.mean(0), dim=-1)
    ),
    "you averaged over all tokens. Compare the class tokens, those at place 0.": _measure(
        lambda before, after: cosine_similarity(before.mean(1), after.mean(1), dim=-1)
    ),
    "this is the mean of the cosines of all tokens. Compare the class tokens, those at place 0.": _measure(
        lambda before, after: cosine_similarity(before, after, dim=-1).mean(1)
    ),
    "one cosine a token. Compare the class tokens, those at place 0.": _measure(
        lambda before, after: cosine_similarity(before, after, dim=-1)
    ),
    "this is the scalar product. A cosine divides it by both lengths.": _measure(
        lambda before, after: (before[:, 0] * after[:, 0]).sum(-1)
    ),
    "this is 1 minus the cosine, which is 0 where nothing changed.": _measure(
        lambda before, after: 1 - cosine_similarity(before[:, 0], after[:, 0], dim=-1)
    ),
}


def fidelity(function, graded: bool = False) -> None:
    """Exercise 12.1: ``function(model, prune, calibration, held_out)`` -> one cosine for each held-out image (images,).

    graded: on more cases. AssertionError, naming the mistake. Used in notebook 12, "Exercise 12.1".
    """
    draw = torch.Generator().manual_seed(0)
    shift = torch.tensor([3.0, 0.2, 1, 2, 0.1, 0.5])  # what calibration shows is not what is held out
    cases = []
    for seed, (shown, held) in enumerate([(5, 4), (7, 3)] + ([(2, 6), (9, 2)] if graded else [])):
        calibration = torch.randn(shown, 6, generator=draw) * shift
        cases.append((seed, calibration, torch.randn(held, 6, generator=draw) * shift.flip(0)))
    answers, changed = [], False
    for seed, calibration, held_out in cases:
        model, dense = _Toy(seed), _Toy(seed)
        with torch.no_grad():
            answers.append(call(function, model, _prune, calibration, held_out))
        changed |= not torch.equal(model.layer.weight, dense.layer.weight)

    def agrees(measure: Callable) -> bool:
        with torch.no_grad():
            expected = [measure(_Toy(seed), _prune, shown, held) for seed, shown, held in cases]
        return all(same(_given(a, value), value) for a, value in zip(answers, expected, strict=True))

    right = agrees(_measure())
    if all(_given(answer, 0.0).ndim == 0 for answer in answers):
        raise AssertionError("fidelity: one number for all images. Do not average: return one cosine an image.")
    for said, mistaken in FIDELITY.items():
        if not right and agrees(mistaken):
            raise AssertionError(f"fidelity: {said}")
    if changed:
        raise AssertionError("fidelity: the model that you were given is now pruned. Prune a deep copy of it.")
    if not right:
        for (_, _, held_out), answer in zip(cases, answers, strict=True):
            tensor(answer, (len(held_out),), "fidelity")
        raise AssertionError("fidelity: these are not the cosines between the class tokens of dense and pruned model.")
    done("12.1", "a copy is pruned, others are shown to it, and each image has its cosine", graded)


def _given(answer, like) -> torch.Tensor:
    """An answer as a tensor, or one that equals nothing."""
    try:
        return torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        return torch.full_like(torch.as_tensor(like), torch.inf)


CASES = list(product(("magnitude", "wanda"), ("output", "input", "layer"), ("norm", "layer scale")))


def _changes(score: str, group: str, folded: str) -> bool:
    return group != "output" if folded == "layer scale" else score == "magnitude" and group != "input"


MASK_CHANGES = {
    "you say that no mask ever changes. Try magnitude, compared by output, once a norm's weight is folded in.": (
        lambda score, group, folded: False
    ),
    "you say that every mask changes. A factor that all competitors share moves none of them.": (
        lambda score, group, folded: True
    ),
    "you say that magnitude's masks always change and Wanda's never do. Ask with whom a weight competes.": (
        lambda score, group, folded: score == "magnitude"
    ),
    "a layer scale is never harmless to you, or always: it multiplies a row, so ask whether rows compete.": (
        lambda score, group, folded: folded == "layer scale" or _changes(score, group, folded)
    ),
    "a layer scale multiplies whole rows. Harmless if each row competes by itself; if not, it decides who goes.": (
        lambda score, group, folded: folded == "norm" and _changes(score, group, folded)
    ),
    "Wanda's norm makes up for a factor on the input, not for one on the output: it knows nothing of a layer "
    "scale.": lambda score, group, folded: score == "magnitude" and _changes(score, group, folded),
    "rows and columns are exchanged: a norm's weight multiplies columns of W (out, in), a layer scale rows.": (
        lambda score, group, folded: (
            group != "input" if folded == "layer scale" else score == "magnitude" and group != "output"
        )
    ),
    "compared by input, all weights of a column share the norm's factor, so magnitude's mask stays as well.": (
        lambda score, group, folded: group != "output" if folded == "layer scale" else score == "magnitude"
    ),
    "a norm's weight moves magnitude's masks compared by layer, too: columns that compete get different factors.": (
        lambda score, group, folded: (
            group != "output" if folded == "layer scale" else score == "magnitude" and group == "output"
        )
    ),
    "you asked who competes, but the layer then reads X_j / g_j: Wanda's norm undoes a norm's weight in any group.": (
        lambda score, group, folded: group != ("output" if folded == "layer scale" else "input")
    ),
    "this is upside down: True means that the mask changes.": lambda *case: not _changes(*case),
}


def mask_changes(function, graded: bool = False) -> None:
    """Exercise 12.2: ``function(score, group, folded)`` -> whether the mask changes, a bool, in twelve cases.

    graded: in another order, twice. AssertionError, naming the mistake. Used in notebook 12, "Exercise 12.2".
    """
    cases = CASES[::-1] * 2 if graded else CASES
    answers = [call(function, *case) for case in cases]
    for case, answer in zip(cases, answers, strict=True):
        if not isinstance(_plain(answer), (bool, int)) or _plain(answer) not in (0, 1):
            raise AssertionError(f"mask_changes{case}: expected True or False, got {type(answer).__name__}.")
    answers = [bool(answer) for answer in answers]
    wrong = [case for case, answer in zip(cases, answers, strict=True) if answer != _changes(*case)]
    if wrong:
        for said, mistaken in MASK_CHANGES.items():
            if answers == [mistaken(*case) for case in cases]:
                raise AssertionError(f"mask_changes: {said}")
        raise AssertionError(
            f"mask_changes{wrong[0]}: not {not _changes(*wrong[0])}. Which weights compete, and do they share a factor?"
        )
    done("12.2", "a factor that all competitors share moves no mask", graded)


def _plain(answer):
    return answer.item() if hasattr(answer, "item") else answer
