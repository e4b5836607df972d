"""Least squares under a mask: against each row's own dense solution, and against the other updates."""

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.methods import Factors, make_plan


def layer(rows=9, width=24, tokens=200, seed=0):
    """W, X with correlated channels of very different sizes, and XᵀX, in float32."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) + 2 * torch.eye(width)
    X = torch.randn(tokens, width, generator=generator) @ mix * torch.logspace(-1, 1, width)
    return torch.randn(rows, width, generator=generator), X, X.T @ X


def masks_of(W, X):
    norm = X.norm(dim=0)
    drawn = torch.rand(W.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    drawn[0], drawn[1] = True, False  # a row with nothing left to move, and one with nothing to make up for
    return {
        "row": wn.prune_mask(wn.wanda_score(W, norm)),
        "2:4": wn.nm_mask(wn.wanda_score(W, norm), 2, 4),
        "layer": wn.prune_mask(W.abs(), 0.7, "layer"),
        "drawn": drawn,
    }


def row_by_row(W, X, mask, damping):
    """Each row's kept weights by a dense solver: X, and below it √λ I, against what W puts out there."""
    X = X.double()
    square = X.pow(2).sum(dim=0)
    strength = damping * square[square > 0].mean()
    A = torch.cat([X, strength.sqrt() * torch.eye(X.shape[1], dtype=torch.float64)])
    V = torch.zeros_like(W, dtype=torch.float64)
    for row, (w, removed) in enumerate(zip(W.double(), mask, strict=True)):
        if not removed.all():
            V[row, ~removed] = torch.linalg.lstsq(A[:, ~removed], (A @ w)[:, None]).solution[:, 0]
    return V


@pytest.mark.parametrize("which", ["row", "2:4", "layer", "drawn"])
@pytest.mark.parametrize("damping", [0.01, 0.2])
def test_it_is_each_rows_dense_solution(which, damping):
    W, X, gram = layer()
    mask = masks_of(W, X)[which]
    V, steps = wn.least_squares(W, gram, mask, damping, tolerance=1e-6)
    assert V.dtype == torch.float32 and 3 < steps < 100
    torch.testing.assert_close(V.double(), row_by_row(W, X, mask, damping), rtol=1e-3, atol=1e-3)
    assert (V[mask] == 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", ["row", "2:4", "layer", "drawn"])
def test_no_update_of_the_same_mask_leaves_a_smaller_error(which, seed):
    W, X, gram = layer(rows=40, width=64, tokens=500, seed=seed)
    mask = masks_of(W, X)[which]
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(64)
    V, _ = wn.least_squares(W, gram, mask)
    alone, one_shot = W.masked_fill(mask, 0), wn.obs_prune(W, wn.inverse_factor(gram)[0], mask=mask)
    ours, obs, nothing = (wn.output_error(W, new, damped) for new in (V, one_shot, alone))
    assert ours < obs < nothing


def test_every_step_lowers_the_error_and_the_tolerance_ends_it():
    W, X, gram = layer(rows=40, width=64, tokens=500)
    mask = masks_of(W, X)["row"]
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(64)
    errors = [
        wn.output_error(W, wn.least_squares(W, gram, mask, tolerance=0, steps=steps)[0], damped) for steps in range(12)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] == wn.output_error(W, W.masked_fill(mask, 0), damped)
    taken = [wn.least_squares(W, gram, mask, tolerance=tolerance)[1] for tolerance in (1, 0.1, 0.01, 0.001)]
    assert taken[0] == 0 and taken == sorted(set(taken))


def test_a_row_does_not_wait_for_another_nor_is_spoilt_by_it():
    """Rows are solved at once, but each stops by its own residual: its weights do not depend on the others' number."""
    W, X, gram = layer(rows=12)
    W[0] *= 1e6
    mask = masks_of(W, X)["drawn"]
    together, _ = wn.least_squares(W, gram, mask)
    for row in range(12):
        alone, _ = wn.least_squares(W[row : row + 1], gram, mask[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4 * float(W[row].abs().max()))


def test_the_kept_weights_of_a_dead_channel_stay():
    W, X, _ = layer()
    dead = [3, 11, 12]
    X[:, dead] = 0
    mask = masks_of(W, X)["drawn"]
    V, _ = wn.least_squares(W, X.T @ X, mask, tolerance=1e-6)
    assert torch.equal(V[:, dead], W.masked_fill(mask, 0)[:, dead])
    torch.testing.assert_close(V.double(), row_by_row(W, X, mask, 0.01), rtol=1e-3, atol=1e-3)
    nothing = torch.zeros_like(X.T @ X)
    assert torch.equal(wn.least_squares(W, nothing, mask)[0], W.masked_fill(mask, 0))


def test_16_bit_weights_are_solved_in_float32():
    W, X, gram = layer()
    half, mask = W.bfloat16(), masks_of(W, X)["row"]
    given = half.clone(), mask.clone(), gram.clone()
    assert torch.equal(wn.least_squares(half, gram, mask)[0], wn.least_squares(half.float(), gram, mask)[0])
    assert all(map(torch.equal, given, (half, mask, gram)))


def test_the_output_error_is_that_of_the_outputs():
    W, X, gram = layer()
    new = W.masked_fill(masks_of(W, X)["row"], 0)
    expected = float((X @ (new - W).T).norm() / (X @ W.T).norm())
    assert wn.output_error(W, new, gram) == pytest.approx(expected, rel=1e-4)
    assert wn.output_error(W, W, gram) == 0 and wn.output_error(0 * W, new, gram) == 0


HOW = {
    "wanda": ({}, lambda W, gram, _: wn.prune_mask(wn.wanda_score(W, gram.diagonal().sqrt()))),
    "wanda 2:4": ({"pattern": "2:4"}, lambda W, gram, _: wn.nm_mask(wn.wanda_score(W, gram.diagonal().sqrt()), 2, 4)),
    "magnitude": ({"method": "magnitude"}, lambda W, gram, _: wn.prune_mask(W.abs(), 0.5, "layer")),
    "sparsegpt": ({"method": "sparsegpt"}, lambda W, gram, damping: sparsegpts(W, gram, damping=damping)),
    "sparsegpt 4:8": (
        {"method": "sparsegpt", "pattern": "4:8"},
        lambda W, gram, damping: sparsegpts(W, gram, damping=damping, pattern="4:8"),
    ),
}


def sparsegpts(W, gram, **how):
    W = W.clone()
    make_plan(1, "sparsegpt", **how).prune_layer(W, gram, 0, Factors())
    return W == 0


@pytest.mark.parametrize("damping", [0.01, 0.5])
@pytest.mark.parametrize(("how", "mask_of"), HOW.values(), ids=HOW.keys())
def test_prune_solves_each_layer_under_the_methods_own_mask(how, mask_of, damping, tokens):
    expected = tiny_model()
    for block in wn.decoder_blocks(expected):
        with wn.InputGrams(block) as grams, torch.no_grad():
            expected(input_ids=tokens)
        for name, linear in wn.linear_layers(block).items():
            W = linear.weight.detach()
            W.copy_(wn.least_squares(W, grams[name], mask_of(W, grams[name], damping), damping)[0])
    model = tiny_model()
    report = wn.prune(model, tokens, update="least-squares", damping=damping, batch_size=len(tokens), **how)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert torch.equal(ours == 0, theirs == 0)
    layers = report.layers
    assert report.damping == damping
    assert ((layers["error"] < layers["error before"]) & (layers["error"] > 0) & (layers["steps"] > 1)).all()


def test_sparsegpt_still_compares_columns_at_a_time(tokens):
    with pytest.raises(ValueError, match="compares 128 columns at a time"):
        wn.prune(tiny_model(), tokens, "sparsegpt", group="output", update="least-squares")
