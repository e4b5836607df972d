"""SparseGPT and the weight update: against least squares, step by step and in closed form."""

import functools
import math

import pytest
import torch
from oracle import stable_sort
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.methods import Factors, Plan, make_plan
from wanda_nb.updates import obs_score


def layer(rows=7, width=24, tokens=400, seed=0):
    """W, X with correlated channels, and XᵀX, in float32."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) + 2 * torch.eye(width)
    X = torch.randn(tokens, width, generator=generator) @ mix
    return torch.randn(rows, width, generator=generator), X, X.T @ X


def factor_of(gram, damping=0.0):
    """U of an undamped inverse in float64, so that the oracles are exact."""
    inverse = torch.linalg.inv(gram.double() + damping * gram.double().diagonal().mean() * torch.eye(len(gram)))
    return torch.linalg.cholesky(inverse, upper=True).float()


def least_squares(w, gram, fixed, values):
    """The row nearest to w in the norm of gram whose ``fixed`` entries have the given values: the closed form."""
    w, H = w.double(), gram.double()
    free = [j for j in range(len(w)) if j not in fixed]
    result = w.clone()
    result[fixed] = values.double()
    shift = (result - w)[fixed]
    result[free] = w[free] - torch.linalg.solve(H[free][:, free], H[free][:, fixed] @ shift)
    return result


def test_the_factor_is_the_cholesky_factor_of_the_inverse():
    _, _, gram = layer()
    U, used = wn.inverse_factor(gram)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(24)
    torch.testing.assert_close(U.T @ U, torch.linalg.inv(damped.double()).float(), rtol=1e-3, atol=1e-7)
    assert used == 0.01 and torch.equal(U, U.triu())


def test_the_update_is_least_squares_in_closed_form():
    """Where the removed columns come first, all kept ones can move: the optimum for that mask."""
    W, _, gram = layer()
    mask = torch.zeros_like(W, dtype=torch.bool)
    mask[:, :10] = True
    updated = wn.obs_prune(W, factor_of(gram), mask=mask)
    for w, new in zip(W, updated, strict=True):
        expected = least_squares(w, gram, list(range(10)), torch.zeros(10))
        torch.testing.assert_close(new.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_update_is_least_squares_step_by_step():
    """For any mask: after each column, the columns to its right are the optimum given all to its left."""
    W, _, gram = layer()
    mask = torch.rand(W.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    updated = wn.obs_prune(W, factor_of(gram), mask=mask)
    for w, gone, new in zip(W, mask, updated, strict=True):
        current = w.double()
        for j in range(len(w)):
            values = current[: j + 1].clone()
            values[j] = 0 if gone[j] else values[j]
            current = least_squares(w, gram, list(range(j + 1)), values)
        torch.testing.assert_close(new.double(), current, rtol=1e-3, atol=1e-4)
    assert (updated[mask] == 0).all()


def test_channels_with_nothing_in_common_give_wandas_score_and_no_update():
    W, X, _ = layer()
    norm = X.norm(dim=0)
    U, _ = wn.inverse_factor(torch.diag(norm.pow(2)), damping=0.0)
    score = wn.wanda_score(W, norm)
    torch.testing.assert_close(obs_score(W, U.diagonal()), score.pow(2), rtol=1e-4, atol=0)
    mask = wn.prune_mask(score)
    assert torch.equal(wn.obs_prune(W, U, mask=mask), W.masked_fill(mask, 0))


@pytest.mark.parametrize("width", [24, 128, 300])
def test_blocks_of_columns_change_nothing(width, monkeypatch):
    """Applying a block's updates at once is exact: one block for all gives the same weights."""
    W, _, gram = layer(width=width, tokens=900)
    mask = torch.rand(W.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    U, _ = wn.inverse_factor(gram)
    expected = wn.obs_prune(W, U, mask=mask)
    for block in (16, 1000):
        monkeypatch.setattr("wanda_nb.updates.BLOCK", block)
        torch.testing.assert_close(wn.obs_prune(W, U, mask=mask), expected, rtol=1e-3, atol=1e-4)


def output_error(W, new, X):
    return float((X @ (new - W).T).norm())


@pytest.mark.parametrize("seed", range(5))
def test_the_update_lowers_the_output_error(seed):
    W, X, gram = layer(rows=40, seed=seed)
    mask = wn.nm_mask(wn.wanda_score(W, X.norm(dim=0)), 2, 4)
    U, _ = wn.inverse_factor(gram)
    left_alone = output_error(W, W.masked_fill(mask, 0), X)
    one_shot = output_error(W, wn.obs_prune(W, U, mask=mask), X)
    chosen = wn.obs_prune(W, U, choose=lambda w, d, _: wn.nm_mask(obs_score(w, d), 2, 4), step=4)
    assert one_shot < 0.95 * left_alone
    assert output_error(W, chosen, X) < one_shot


def test_choices_see_the_updated_weights_and_their_own_columns():
    W, _, gram = layer(width=300, tokens=900)
    U, _ = wn.inverse_factor(gram)
    seen = []

    def choose(w, d, columns):
        seen.append((w.clone(), d, columns))
        return wn.prune_mask(obs_score(w, d), 0.5, "layer")

    updated = wn.obs_prune(W, U, choose=choose)
    assert [(columns.start, columns.stop) for *_, columns in seen] == [(0, 128), (128, 256), (256, 300)]
    assert torch.equal(seen[0][0], W[:, :128]) and not torch.allclose(seen[1][0], W[:, 128:256], rtol=0.01)
    assert all(torch.equal(d, U.diagonal()[columns]) for _, d, columns in seen)
    zeros = [int((updated[:, columns] == 0).sum()) for *_, columns in seen]
    assert zeros == [math.floor(7 * width * 0.5) for width in (128, 128, 44)]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (3, 7), (1, 100), (1, 175)])
def test_groups_of_m_never_straddle_a_block(n, m):
    W, _, gram = layer(width=700, tokens=1500)
    U, _ = wn.inverse_factor(gram)
    if 700 % m:
        W, U = W[:, : 700 // m * m], U[: 700 // m * m, : 700 // m * m]
    updated = wn.obs_prune(W, U, choose=lambda w, d, _: wn.nm_mask(obs_score(w, d), n, m), step=m)
    assert ((updated != 0).view(7, -1, m).sum(-1) == n).all()


DEAD = [3, 11, 12, 14, 15]  # of 24: three of the four columns from 12 on


def dead_layer(rows=7):
    W, X, _ = layer(rows)
    X[:, DEAD] = 0
    return W, X.T @ X


def test_dead_channels_stand_alone():
    _, gram = dead_layer()
    U, used = wn.inverse_factor(gram)
    assert used == 0.01 and U.isfinite().all()
    alive = [j for j in range(24) if j not in DEAD]
    torch.testing.assert_close(U[alive][:, alive], wn.inverse_factor(gram[alive][:, alive])[0])
    mean = gram.diagonal()[alive].mean()
    for j in DEAD:
        expected = torch.zeros(24)
        expected[j] = mean.rsqrt()
        torch.testing.assert_close(U[j], expected)
        assert (U[:j, j] == 0).all()


def test_the_factor_follows_the_scale_of_the_inputs():
    """Inputs twice as large halve every element, dead channels' too: a power of two, so to the last bit."""
    _, gram = dead_layer()
    assert torch.equal(wn.inverse_factor(gram * 4)[0], wn.inverse_factor(gram)[0] / 2)
    assert torch.equal(wn.inverse_factor(torch.zeros(5, 5))[0], torch.eye(5))


def slow_sparsegpt(W, gram, choose, width, group):
    """The published loop, column by column in float64, with no lazy updates.

    Dead channels' weights are zero from the start. choose(score) -> mask, once for every ``group`` columns, which do
    not straddle the blocks of ``width``; with group=None the mask for all is chosen beforehand.
    """
    W, H = W.double(), gram.double()
    dead = H.diagonal() == 0
    mean = H.diagonal()[~dead].mean()
    H = H + 0.01 * mean * torch.eye(len(H))
    H[dead, dead] = mean
    W[:, dead] = 0
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    gone = choose(W, U.diagonal(), slice(None)) if group is None else torch.zeros_like(W, dtype=torch.bool)
    for j in range(len(H)):
        if group and j % width % group == 0:
            here = slice(j, min(j + group, j // width * width + width))
            gone[:, here] = choose(W[:, here], U.diagonal()[here], here)
        error = torch.where(gone[:, j], W[:, j], 0) / U[j, j]
        W[:, j:] -= error.outer(U[j, j:])
        W[:, j] = torch.where(gone[:, j], 0, W[:, j])
    return W, gone


def obs_lowest(count):
    def choose(W, d, columns):
        score = (W / d) ** 2
        return stable_sort(score.reshape(1, -1), count(score)).reshape(score.shape)

    return choose


def obs_of_four(W, d, columns):
    return stable_sort(((W / d) ** 2).reshape(-1, 4), 2).reshape(W.shape)


def magnitudes(W, d, columns):
    return stable_sort(W.abs(), W.shape[1] // 2)


SLOW = {
    "iterative": ({"sparsity": 0.3}, obs_lowest(lambda score: math.floor(score.numel() * 0.3)), 8),
    "iterative, fewer than dead": ({"sparsity": 0.1}, obs_lowest(lambda score: math.floor(score.numel() * 0.1)), 8),
    "iterative 2:4": ({"pattern": "2:4"}, obs_of_four, 4),
    "one-shot": (
        {"sparsity": 0.5, "update": "one-shot"},
        obs_lowest(lambda score: math.floor(score.numel() * 0.5)),
        None,
    ),
    "one-shot 2:4": ({"pattern": "2:4", "update": "one-shot"}, obs_of_four, None),
    "magnitude, one-shot": (
        {"method": "magnitude", "group": "output", "update": "one-shot"},
        magnitudes,
        None,
    ),
}


@pytest.mark.parametrize(("how", "choose", "group"), SLOW.values(), ids=SLOW.keys())
def test_sparsegpt_with_dead_channels_is_the_published_loop(how, choose, group, monkeypatch):
    """Their weights go first, all of them, and the others are pruned and moved as if they had never been there."""
    monkeypatch.setattr("wanda_nb.updates.BLOCK", 8)
    monkeypatch.setattr("wanda_nb.methods.BLOCK", 8)
    W, gram = dead_layer()
    expected, gone = slow_sparsegpt(W, gram, choose, 8, group)
    asked = {"method": "sparsegpt", "sparsity": None, "pattern": None, "group": None, "update": None, **how}
    updated = W.clone()
    assert make_plan(1, **asked).prune_layer(updated, gram, 0, Factors()) == (None, {"damping": 0.01})
    assert torch.equal(updated == 0, expected == 0) and torch.equal(updated == 0, gone | (gram.diagonal() == 0))
    torch.testing.assert_close(updated.double(), expected, rtol=1e-3, atol=1e-4)


def test_damping_is_raised_in_steps_and_reported():
    X = torch.randn(5, 24)  # fewer tokens than channels: singular
    gram = X.T @ X
    for start in (1e-12, 0.0):
        _, used = wn.inverse_factor(gram, damping=start)
        assert used > start
    gram[0, 1] = gram[1, 0] = 1e8  # no damping up to 1 mends this
    with pytest.raises(ValueError, match=r"not positive definite even with damping near 1.*more calibration text"):
        wn.inverse_factor(gram)


@pytest.mark.parametrize(
    ("off_diagonal", "damping", "used"),
    [
        (0.99, 0.01, 0.01),
        (1.05, 0.01, 0.1),
        (1.5, 0.01, 1.0),
        (2.5, 2.0, 2.0),
        (1.0005, 0.0, 1e-3),
        (1.000005, 0.0, 1e-5),
        (1.5, 0.3, None),
        (2.05, 0.01, None),
        (2.2, 0.15, None),
        (2.5, 1.0, None),
    ],
)
def test_damping_is_the_first_in_tenfold_steps_that_is_enough(off_diagonal, damping, used):
    """The smaller eigenvalue of 4·[[1, a], [a, 1]] is 4 · (1 - a): positive once the damping exceeds a - 1."""
    gram = 4 * torch.tensor([[1.0, off_diagonal], [off_diagonal, 1.0]], dtype=torch.float64)
    if used is None:
        with pytest.raises(ValueError, match="even with damping near 1"):
            wn.inverse_factor(gram, damping)
        return
    U, was = wn.inverse_factor(gram, damping)
    assert was == pytest.approx(used)
    torch.testing.assert_close(U.T @ U @ (gram + was * 4 * torch.eye(2)), torch.eye(2, dtype=torch.float64))


def test_inputs_that_overflow_have_no_factor():
    for value in (float("inf"), float("nan"), 1e-39):  # the inverse of the last is not finite
        with pytest.raises(ValueError, match="expected finite inputs"):
            wn.inverse_factor(value * torch.eye(4))


def test_with_much_damping_obs_chooses_by_magnitude():
    W, _, gram = layer()
    for damping, alike in ((0.01, False), (1e6, True)):
        U, _ = wn.inverse_factor(gram, damping)
        chosen = wn.prune_mask(obs_score(W, U.diagonal()), 0.5, "layer")
        assert torch.equal(chosen, wn.prune_mask(W.abs(), 0.5, "layer")) == alike


def test_an_inverse_that_cannot_be_factored_raises_the_damping(monkeypatch):
    """As rounding does to it now and then, where the matrix itself could be."""
    _, _, gram = layer()
    real, calls = torch.linalg.cholesky_ex, []

    def fails_once(matrix, upper=False):
        factor, failed = real(matrix, upper=upper)
        calls.append(upper)
        return factor, failed + (calls == [False, True])

    expected = wn.inverse_factor(gram, 0.1)
    monkeypatch.setattr("torch.linalg.cholesky_ex", fails_once)
    U, used = wn.inverse_factor(gram, 0.01)
    assert used == 0.1 and torch.equal(U, expected[0])


def test_an_update_with_nothing_to_remove_is_none_and_16_bit_weights_are_moved_in_float32():
    W, _, gram = layer()
    U, _ = wn.inverse_factor(gram)
    assert torch.equal(wn.obs_prune(W, U), W)
    mask = wn.prune_mask(W.abs())
    half = W.to(torch.bfloat16)
    updated = wn.obs_prune(half, U, mask=mask)
    assert updated.dtype == torch.float32 and torch.equal(updated, wn.obs_prune(half.float(), U, mask=mask))
    assert torch.equal(W, layer()[0]) and torch.equal(mask, wn.prune_mask(W.abs()))  # neither is written to


def test_grams_are_the_products_of_the_inputs(model, tokens):
    block = wn.decoder_blocks(model)[1]
    kept = {}
    hook = block.mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.setdefault("x", args[0]))
    with wn.InputGrams(block) as grams, wn.InputNorms(block) as norms, torch.no_grad():
        model(input_ids=tokens)
    hook.remove()
    X = kept["x"].flatten(0, 1).double()
    torch.testing.assert_close(grams["mlp.down_proj"].double(), X.T @ X, rtol=1e-4, atol=1e-6)
    for name in norms:
        torch.testing.assert_close(grams[name].diagonal().sqrt(), norms[name], rtol=1e-4, atol=1e-6)


def by_hand(model, tokens, choose_layer):
    """Every block from the statistics of the model so far, by the whole model's own forward."""
    for block in wn.decoder_blocks(model):
        with wn.InputGrams(block) as grams, torch.no_grad():
            model(input_ids=tokens)
        for name, linear in wn.linear_layers(block).items():
            linear.weight.data.copy_(choose_layer(linear.weight.detach(), grams[name]))
    return model


HOW = {
    "sparsegpt": (
        {"method": "sparsegpt", "sparsity": 0.6},
        lambda W, U, norm: wn.obs_prune(W, U, choose=lambda w, d, _: wn.prune_mask(obs_score(w, d), 0.6, "layer")),
    ),
    "sparsegpt 2:4": (
        {"method": "sparsegpt", "pattern": "2:4"},
        lambda W, U, norm: wn.obs_prune(W, U, choose=lambda w, d, _: wn.nm_mask(obs_score(w, d), 2, 4), step=4),
    ),
    "wanda, one-shot": (
        {"method": "wanda", "update": "one-shot"},
        lambda W, U, norm: wn.obs_prune(W, U, mask=wn.prune_mask(wn.wanda_score(W, norm))),
    ),
    "magnitude, one-shot": (
        {"method": "magnitude", "update": "one-shot", "group": "output"},
        lambda W, U, norm: wn.obs_prune(W, U, mask=wn.prune_mask(W.abs())),
    ),
    "wanda 4:8, iterative": (
        {"method": "wanda", "pattern": "4:8", "update": "iterative"},
        lambda W, U, norm: wn.obs_prune(
            W, U, choose=lambda w, d, c: wn.nm_mask(wn.wanda_score(w, norm[c]), 4, 8), step=8
        ),
    ),
}


@pytest.mark.parametrize("damping", [None, 0.3])
@pytest.mark.parametrize(("how", "new"), HOW.values(), ids=HOW.keys())
def test_prune_with_updates_is_the_method_done_the_plain_way(how, new, damping, tokens):
    used = damping or 0.01

    def plain(W, gram):
        return new(W, wn.inverse_factor(gram, used)[0], gram.diagonal().sqrt())

    expected = by_hand(tiny_model(), tokens, plain)
    model = tiny_model()
    report = wn.prune(model, tokens, batch_size=len(tokens), damping=damping, **how)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert torch.equal(ours == 0, theirs == 0)
    assert set(report.layers["damping"]) == {used} and report.damping == used
    assert "update" in str(report) and ("update, damping 0.3" in str(report)) == (damping == 0.3)


def test_one_factor_serves_layers_that_read_the_same(model, tokens, monkeypatch):
    calls = []
    real = wn.inverse_factor
    monkeypatch.setattr("wanda_nb.methods.inverse_factor", lambda *how: calls.append(1) or real(*how))
    wn.prune(model, tokens, method="sparsegpt")
    assert len(calls) == 3 * 4  # q/k/v, o, gate/up, down


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"update": "twice"}, "update='twice': expected None, 'one-shot', 'iterative' or 'least-squares'"),
        ({"method": "sparsegpt", "group": "output"}, "Leave group out, or use update='one-shot'"),
        ({"method": "wanda", "group": "output", "update": "iterative"}, "compares 128 columns at a time"),
        ({"group": "rows", "update": "iterative"}, "group='rows': expected one of"),
        ({"method": "wanda-variant", "pattern": "2:4"}, "a running sum has no fixed count"),
        ({"sparsity": 0.500001, "pattern": "2:4"}, "keeping 2 of every 4 removes 0.5"),
        ({"sparsity": "0.5", "pattern": "2:4"}, "Leave sparsity out"),
        ({"sparsity": "0.5"}, "sparsity='0.5': expected"),
        ({"sparsity": ["0.5"] * 3}, "sparsity='0.5': expected"),
        ({"sparsity": [0.5] * 4}, "4 sparsities for 3 blocks"),
        ({"sparsity": [0.5, 0.5]}, "2 sparsities for 3 blocks"),
        ({"sparsity": [0.5, 0.5, 1.0]}, r"sparsity=1.0: expected"),
        ({"sparsity": [0.5] * 3, "pattern": "2:4"}, "Leave sparsity out"),
        ({"damping": 0.1}, "damping=0.1 with no update"),
        ({"method": "magnitude", "damping": 0.01}, "damping=0.01 with no update"),
        ({"method": "sparsegpt", "damping": -0.1}, r"damping=-0.1: expected a finite number of 0 or more"),
        ({"update": "one-shot", "damping": float("inf")}, "damping=inf: expected a finite number"),
        ({"update": "one-shot", "damping": float("nan")}, "damping=nan: expected a finite number"),
        ({"update": "least-squares", "damping": True}, "damping=True: expected a finite number"),
        ({"update": "least-squares", "damping": "1"}, "damping='1': expected a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tokens, how, message):
    with pytest.raises(ValueError, match=message):
        wn.prune(model, tokens, **how)
    assert wn.sparsity(model) == 0


def plan(method="wanda", **how):
    return make_plan(3, method, **how)


def test_plans_are_what_each_method_was_published_with():
    norms, grams = wn.InputNorms, wn.InputGrams
    expected = {
        "magnitude": (wn.magnitude_score, "layer", None, None),
        "wanda": (wn.wanda_score, "output", None, norms),
        "wanda-variant": (wn.wanda_score, "running-sum", None, norms),
        "ria": (wn.ria_score, "layer", None, norms),
        "sparsegpt": (None, "layer", "iterative", grams),
    }
    for name, (score, group, update, statistic) in expected.items():
        assert plan(name) == Plan(name, score, 0.5, None, group, update, statistic)
    # an iterative update compares blocks of columns over all rows; a one-shot one keeps the method's group
    assert plan(update="iterative") == Plan("wanda", wn.wanda_score, 0.5, None, "layer", "iterative", grams)
    assert plan(update="one-shot") == Plan("wanda", wn.wanda_score, 0.5, None, "output", "one-shot", grams)
    assert plan("sparsegpt", update="one-shot") == Plan("sparsegpt", None, 0.5, None, "layer", "one-shot", grams)
    assert plan("magnitude", group="input", sparsity=0.3).group == "input"


def test_plans_for_patterns_and_for_a_sparsity_each():
    assert plan(pattern="1:4") == Plan("wanda", wn.wanda_score, 0.75, (1, 4), "4 neighbours", None, wn.InputNorms)
    assert plan(pattern="2:4", sparsity=0.5, group="output") == plan(pattern="2:4")
    assert plan(pattern="2:6", sparsity=2 / 3).sparsity == pytest.approx(2 / 3)  # agrees but for rounding
    assert plan("sparsegpt", pattern="2:4")[2:6] == (0.5, (2, 4), "4 neighbours", "iterative")
    for each in ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3)):
        assert plan(sparsity=each).sparsity == (0.1, 0.2, 0.3)


def test_a_score_of_your_own_is_a_plan():
    def mine(W, norm):
        return W.abs()

    assert plan(mine, sparsity=0.25) == Plan("mine", mine, 0.25, None, "output", None, wn.InputNorms)
    nameless = functools.partial(mine, norm=None)
    assert plan(nameless)[:2] == ("your score", nameless)
    for answer, given in ((torch.ones(3), r"\(3,\)"), (0.5, "float")):
        with pytest.raises(ValueError, match=f"<lambda> gave {given} for a layer of \\(4, 8\\): expected one score"):
            plan(lambda W, norm, answer=answer: answer).prune_layer(torch.ones(4, 8), torch.ones(8), 0, Factors())


def test_each_block_is_pruned_to_its_own_sparsity():
    W = torch.arange(1.0, 9).repeat(2, 1)
    pruned = plan("magnitude", sparsity=(0.25, 0.5, 0.75))
    for block, (sparsity, zeros) in enumerate(((0.25, 4), (0.5, 8), (0.75, 12))):
        weights = W.clone()
        mask, extra = pruned.prune_layer(weights, None, block, Factors())
        assert pruned.sparsity_of(block) == sparsity and extra == {}
        assert torch.equal(mask, wn.prune_mask(W, sparsity, "layer"))
        assert torch.equal(weights, W.masked_fill(mask, 0))
        assert int((weights == 0).sum()) == zeros


def test_a_layer_is_updated_with_the_factor_of_its_own_inputs():
    """One factor serves neighbours that read the same; a layer that reads something else has its own."""
    W, _, gram = layer()
    other = layer(seed=1)[2]
    sparsegpt, factors = plan("sparsegpt"), Factors()
    for statistic in (gram, gram.clone(), other, gram):
        ours, alone = W.clone(), W.clone()
        for W_, kept in ((ours, factors), (alone, Factors())):
            assert sparsegpt.prune_layer(W_, statistic, 0, kept) == (None, {"damping": 0.01})
        assert torch.equal(ours, alone)
    changed = W.clone()
    sparsegpt.prune_layer(changed, other, 0, Factors())
    assert not torch.equal(changed, alone)


def test_wanda_with_an_update_weighs_each_column_by_its_own_norm(monkeypatch):
    """Blocks of columns, and the norms that belong to them."""
    monkeypatch.setattr("wanda_nb.updates.BLOCK", 8)
    monkeypatch.setattr("wanda_nb.methods.BLOCK", 8)
    W, gram = dead_layer()
    norm = gram.diagonal().sqrt()

    def choose(w, d, columns):
        score = (w.abs() * norm[columns].double()).reshape(1, -1)
        return stable_sort(score, score.shape[1] // 2).reshape(w.shape)

    expected, _ = slow_sparsegpt(W, gram, choose, 8, 8)
    plan(update="iterative").prune_layer(W, gram, 0, Factors())
    assert torch.equal(W == 0, expected == 0)
    torch.testing.assert_close(W.double(), expected, rtol=1e-3, atol=1e-4)
