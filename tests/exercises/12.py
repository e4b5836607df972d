"""Wrong answers that must be named, and right ones that must pass."""

import copy

import torch
from torch.nn.functional import cosine_similarity, normalize

import wanda_nb as wn
from wanda_nb import checks


def dense_first(model, prune, calibration, held_out):
    dense = model(held_out)[:, 0].clone()
    weights = copy.deepcopy(model.state_dict())
    prune(model, calibration)
    pruned = model(held_out)[:, 0]
    model.load_state_dict(weights)  # as it was
    return (normalize(dense, dim=-1) * normalize(pruned, dim=-1)).sum(dim=-1)


def image_by_image(model, prune, calibration, held_out):
    pruned = copy.deepcopy(model)
    prune(pruned, calibration)
    return [float(cosine_similarity(model(one[None])[0, 0], pruned(one[None])[0, 0], dim=0)) for one in held_out]


def with_itself(model, prune, calibration, held_out):
    prune(model, calibration)
    return cosine_similarity(model(held_out)[:, 0], model(held_out)[:, 0], dim=-1)


def shallow(model, prune, calibration, held_out):
    pruned = copy.copy(model)
    prune(pruned, calibration)
    return cosine_similarity(model(held_out)[:, 0], pruned(held_out)[:, 0], dim=-1)


def as_given(model, prune, calibration, held_out):
    before, after = model(held_out).mean(dim=0), model(held_out).mean(dim=0)
    prune(model, held_out)
    return cosine_similarity(before, after, dim=-1).mean()


def left_pruned(model, prune, calibration, held_out):
    dense = model(held_out)[:, 0]
    prune(model, calibration)
    return cosine_similarity(dense, model(held_out)[:, 0], dim=-1)


def mistaken(value, shown="calibration", judged="held_out"):
    def fidelity(model, prune, calibration, held_out):
        sets = {"calibration": calibration, "held_out": held_out}
        pruned = copy.deepcopy(model)
        prune(pruned, sets[shown])
        return value(model(sets[judged]), pruned(sets[judged]))

    return fidelity


def cosines(a, b):
    return cosine_similarity(a[:, 0], b[:, 0], dim=-1)


def tried_out(score, group, folded):
    """No theory: a random layer, written in both ways."""
    draw = torch.Generator().manual_seed(3)
    W, norm = torch.randn(24, 32, generator=draw), torch.rand(32, generator=draw) + 0.5
    rows, columns = torch.rand(24, 1, generator=draw) + 0.2, torch.rand(32, generator=draw) + 0.2
    new, new_norm = (W * rows, norm) if folded == "layer scale" else (W * columns, norm / columns)

    def mask(W, norm):
        return wn.prune_mask(wn.wanda_score(W, norm) if score == "wanda" else wn.magnitude_score(W), group=group)

    return bool((mask(W, norm) != mask(new, new_norm)).float().mean() > 0.001)


def by_table(score, group, folded):
    same = {("norm", "input"), ("layer scale", "output")}
    return not ((folded, group) in same or (folded == "norm" and score == "wanda"))


EXERCISES = {
    "ex12a": {
        "check": checks.fidelity,
        "right": [dense_first, image_by_image, mistaken(cosines)],
        "wrong": [
            (with_itself, "compared the model with itself"),
            (shallow, "copy.copy shares its weights"),
            (as_given, "one number for all images"),
            (left_pruned, "is now pruned"),
            (mistaken(cosines, shown="held_out"), "calibrated on the held-out images"),
            (mistaken(cosines, judged="calibration"), "judged on the calibration images"),
            (mistaken(lambda a, b: cosines(a, b).mean()), "one number for all images"),
            (mistaken(lambda a, b: cosine_similarity(a.mean(0), b.mean(0), dim=-1)), "gave one number a token"),
            (mistaken(lambda a, b: cosine_similarity(a.mean(1), b.mean(1), dim=-1)), "averaged over all tokens"),
            (mistaken(lambda a, b: cosine_similarity(a, b, dim=-1).mean(1)), "mean of the cosines of all tokens"),
            (mistaken(lambda a, b: cosine_similarity(a, b, dim=-1)), "one cosine a token"),
            (mistaken(lambda a, b: (a[:, 0] * b[:, 0]).sum(-1)), "scalar product"),
            (mistaken(lambda a, b: 1 - cosines(a, b)), "1 minus the cosine"),
            (mistaken(lambda a, b: cosine_similarity(a[:, 1], b[:, 1], dim=-1)), "not the cosines between"),
            (mistaken(lambda a, b: torch.zeros(2, 2)), "expected shape"),
        ],
    },
    "ex12b": {
        "check": checks.mask_changes,
        "right": [tried_out, by_table, lambda *case: int(by_table(*case))],
        "wrong": [
            (lambda *case: False, "no mask ever changes"),
            (lambda *case: True, "every mask changes"),
            (lambda score, group, folded: score == "magnitude", "Wanda's never do"),
            (lambda score, group, folded: folded == "layer scale" or by_table(score, group, folded), "rows compete"),
            (lambda score, group, folded: folded == "norm" and by_table(score, group, folded), "multiplies whole rows"),
            (lambda score, group, folded: score == "magnitude" and by_table(score, group, folded), "knows nothing of"),
            (
                lambda score, group, folded: by_table(
                    score, {"input": "output", "output": "input"}.get(group, group), folded
                ),
                "rows and columns are exchanged",
            ),
            (
                lambda score, group, folded: by_table(score, group, folded) or (score, folded) == ("magnitude", "norm"),
                "share the norm's factor",
            ),
            (lambda *case: by_table(*case) and case != ("magnitude", "layer", "norm"), "compared by layer, too"),
            (
                lambda score, group, folded: by_table("magnitude", group, folded),
                "undoes a norm's weight in any group",
            ),
            (lambda *case: not by_table(*case), "upside down"),
            (lambda *case: "yes", "expected True or False"),
            (lambda *case: by_table(*case) or case[:2] == ("wanda", "output"), "Which weights compete"),
        ],
    },
}
