"""RIA, the running-sum variant and OWL, each against its definition written the slow way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

import wanda_nb as wn


def test_ria_is_its_definition():
    W, norm = torch.randn(5, 8), torch.rand(8) + 0.1
    score = wn.ria_score(W, norm)
    for i in range(5):
        for j in range(8):
            w = abs(float(W[i, j]))
            column, row = float(W[:, j].abs().sum()), float(W[i].abs().sum())
            assert float(score[i, j]) == pytest.approx((w / column + w / row) * float(norm[j]) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("score", [wn.magnitude_score, wn.wanda_score, wn.ria_score])
def test_scores_are_float32_whatever_the_weights_are(score):
    W, norm = torch.randn(5, 8).to(torch.bfloat16), torch.rand(8)
    expected = score(W.float(), norm)
    for weights, norms in ((W, norm), (W.double(), norm.double()), (W.float(), norm.double())):
        result = score(weights, norms)
        assert result.dtype == torch.float32 and torch.equal(result, expected)


@pytest.mark.parametrize("score", [wn.wanda_score, wn.ria_score])
def test_norms_that_do_not_fit_are_refused(score):
    for shape in ((4,), (1,), (8, 1), ()):
        with pytest.raises(ValueError, match="one norm for each of W's 8 input channels"):
            score(torch.rand(4, 8), torch.rand(shape))


def test_ria_survives_empty_rows_and_columns():
    W = torch.randn(4, 6)
    W[1], W[:, 2] = 0, 0
    score = wn.ria_score(W, torch.ones(6))
    assert score.isfinite().all() and (score[1] == 0).all() and (score[:, 2] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(2, 40), st.floats(0, 0.99), st.integers(0, 10**6), st.booleans())
def test_running_sum_removes_a_share_of_every_rows_sum(rows, columns, sparsity, seed, ties):
    score = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    score = (score * 4).round() if ties else score
    mask = wn.prune_mask(score, sparsity, "running-sum")
    for s, gone in zip(score, mask, strict=True):  # what goes is the start of a stable sort of the row
        order = s.sort(stable=True).indices
        assert gone[order].int().diff().le(0).all()
    if rows * columns >= 400 and not ties:
        assert abs(float(mask.float().mean()) - sparsity) < 0.02


def test_running_sum_meets_the_sparsity_and_shares_one_alpha():
    score = torch.rand(64, 512, generator=torch.Generator().manual_seed(0)).pow(2)
    for sparsity in (0.1, 0.5, 0.7, 0.95):
        mask = wn.prune_mask(score, sparsity, "running-sum")
        assert abs(float(mask.float().mean()) - sparsity) < 0.002
        gone = (score * mask).sum(dim=1) / score.sum(dim=1)
        rest = torch.where(mask, torch.inf, score).amin(dim=1) / score.sum(dim=1)
        assert gone.max() <= (gone + rest).min() + 1e-6  # one alpha fits between them in every row
        assert len(mask.sum(dim=1).unique()) > 1  # rows differ in how many they lose


def test_running_sum_at_its_edges():
    """The published code takes a row's last score as threshold where nothing goes, and so removes the whole row."""
    score = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 1.0, 1.0, 1.0]])
    assert not wn.prune_mask(torch.tensor([[1.0, 1.0], [2.0, 1.0]]), 0.0, "running-sum").any()
    mask = wn.prune_mask(score, 0.5, "running-sum")
    assert mask.tolist() == slow_running_sum(score.tolist(), 0.5) == [[True] * 4, [False] * 4]
    nothing = wn.prune_mask(score, 0.0, "running-sum")
    assert nothing.dtype == torch.bool and not nothing.any()


def slow_running_sum(score, sparsity):
    """The published bisection on alpha, with numbers one by one, and alpha to 1 where 0.8 is not enough."""
    running = {}
    for i, row in enumerate(score):
        total = 0.0
        for j in sorted(range(len(row)), key=row.__getitem__):
            total += row[j]
            running[i, j] = total

    def gone(alpha):
        return [
            [running[i, j] <= alpha * sum_of_row for j in range(len(score[0]))] for i, sum_of_row in enumerate(sums)
        ]

    def share(mask):
        return sum(map(sum, mask)) / len(running)

    sums, low, high = [sum(row) for row in score], 0.0, 0.8
    if share(gone(high)) + 0.001 < sparsity:
        low, high = 0.8, 1.0
    while True:
        alpha = (low + high) / 2
        mask = gone(alpha)
        if abs(share(mask) - sparsity) <= 0.001 or high - low < 1e-7:
            return mask
        low, high = (low, alpha) if share(mask) > sparsity else (alpha, high)


@pytest.mark.parametrize("sparsity", [0.02, 0.25, 0.5, 0.62, 0.9, 0.96, 0.97, 0.98, 0.99])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_running_sum_is_its_definition_done_slowly(sparsity, dtype):
    """Whole numbers, so that a sum is one number in whatever order it is taken; in 16 bits it must not overflow."""
    score = torch.randint(0, 400, (6, 300), generator=torch.Generator().manual_seed(1)).to(dtype)
    assert wn.prune_mask(score, sparsity, "running-sum").tolist() == slow_running_sum(score.tolist(), sparsity)


def test_running_sum_where_the_search_for_alpha_divides():
    """About what alpha = 0.8 gives: below it the search goes on below 0.8, above it between 0.8 and 1."""
    score = torch.randint(0, 400, (4, 1024), generator=torch.Generator().manual_seed(1)).float()
    sums = score.sum(dim=1, keepdim=True)
    at_limit = float((score.sort().values.cumsum(dim=1) <= 0.8 * sums).float().mean())
    for more in (-0.002, -0.001, -0.0005, 0.0, 0.0005, 0.001, 0.0011, 0.002):
        sparsity = at_limit + more
        assert wn.prune_mask(score, sparsity, "running-sum").tolist() == slow_running_sum(score.tolist(), sparsity)
    ones = torch.ones(4, 10)  # eight of ten are 0.8 of the sum, to the last bit
    for sparsity in (0.001, 0.4, 0.7, 0.8, 0.9):
        assert wn.prune_mask(ones, sparsity, "running-sum").tolist() == slow_running_sum(ones.tolist(), sparsity)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("inf"), r"1 of 3 rows .* infinite"),
        (3e38, r"1 of 3 rows .* infinite"),
        (-1.0, r"the lowest score is -1\."),
        (float("-inf"), r"the lowest score is -inf"),
    ],
)
def test_running_sum_refuses_what_has_no_share_of_a_sum(value, message):
    score = torch.rand(3, 8)
    score[1, 2:4] = value
    for sparsity in (0.0, 0.5):
        with pytest.raises(ValueError, match=f"{message}.*finite scores of 0 or more.*group='output'"):
            wn.prune_mask(score, sparsity, "running-sum")
    assert wn.prune_mask(score, 0.5).sum() == 12  # the other groups only rank


def test_the_variant_through_prune(tokens):
    model = tiny_model()
    report = wn.prune(model, tokens, method="wanda-variant", sparsity=0.5)
    assert report.group == "running-sum" and abs(report.reached - 0.5) < 0.01
    other = tiny_model()
    wn.prune(other, tokens, method="wanda", group="running-sum")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("method", ["ria", "wanda-variant", "sparsegpt"])
def test_every_method_on_an_architecture_with_transposed_weights(method, tokens):
    model = tiny_model("gpt2")
    wn.prune(model, tokens, method=method, sparsity=0.5)
    assert abs(wn.sparsity(model) - 0.5) < 0.01
    assert model(input_ids=tokens).logits.isfinite().all()


def with_outliers(model):
    """Each block with more outlying weights than the one before."""
    torch.manual_seed(3)
    for index, block in enumerate(wn.decoder_blocks(model)):
        for linear in wn.linear_layers(block).values():
            linear.weight.data *= torch.rand_like(linear.weight).pow(-0.3 * index)
    return model


def uneven_model():
    """Blocks of unlike build: 6, 7 and 7 layers, and one of them twice as wide inside."""
    model = tiny_model()
    wide = tiny_model(intermediate_size=160)
    model.model.layers[0].self_attn.o_proj = torch.nn.Identity()
    model.model.layers[1].mlp = wide.model.layers[1].mlp
    return with_outliers(model)


def slow_owl(model, tokens, sparsity, spread=0.08, threshold=5):
    """Shares of outliers per block of the dense model, stretched, centred on the sparsity asked for, by hand.

    What a clamp takes is shared out among the blocks that are not at their limit, for as long as anything is missing.
    """
    shares, sizes = [], []
    for block in wn.decoder_blocks(model):
        with wn.InputNorms(block) as norms, torch.no_grad():
            model(input_ids=tokens)
        layers = wn.linear_layers(block)
        scores = torch.cat([wn.wanda_score(layers[name].weight.detach(), norms[name]).flatten() for name in layers])
        shares.append(float((scores > threshold * scores.mean()).float().mean()))
        sizes.append(len(scores))
    assert len(set(shares)) == 3
    stretched = [2 * spread * (share - min(shares)) / (max(shares) - min(shares)) for share in shares]
    centre = sparsity + sum(size * x for size, x in zip(sizes, stretched, strict=True)) / sum(sizes)
    result = [centre - x for x in stretched]
    while True:
        result = [min(max(x, 0.0), 0.999) for x in result]
        missing = sum(size * (sparsity - x) for size, x in zip(sizes, result, strict=True))
        free = [i for i, x in enumerate(result) if (x < 0.999 if missing > 0 else x > 0)]
        if abs(missing) < 1e-9 * sum(sizes):
            return result, sizes
        for i in free:
            result[i] += missing / sum(sizes[i] for i in free)


@pytest.mark.parametrize("make", [lambda: with_outliers(tiny_model()), uneven_model], ids=["even", "uneven"])
@pytest.mark.parametrize(
    ("sparsity", "spread"), [(0.7, 0.08), (0.02, 0.08), (0.98, 0.08), (0.5, 0.4), (0.05, 0.3), (0.3, 0.0)]
)
def test_owl_is_its_definition(make, sparsity, spread, tokens):
    model = make()
    expected, sizes = slow_owl(model, tokens, sparsity, spread)
    before = [p.clone() for p in model.parameters()]
    allocation = wn.owl_sparsity(model, tokens, sparsity, spread=spread, batch_size=len(tokens))
    assert allocation == pytest.approx(expected, abs=1e-7)
    mean = sum(size * x for size, x in zip(sizes, allocation, strict=True)) / sum(sizes)
    assert mean == pytest.approx(sparsity, abs=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_pruned_by_owl_the_model_has_the_sparsity_asked_for(tokens):
    model = uneven_model()
    allocation = wn.owl_sparsity(model, tokens, 0.6, batch_size=len(tokens))
    report = wn.prune(model, tokens, sparsity=allocation, group="layer")
    by_block = report.layers.groupby("block")["reached"].mean()
    assert list(by_block) == pytest.approx(allocation, abs=0.001)
    assert wn.sparsity(model) == pytest.approx(0.6, abs=0.001)


def test_owl_as_published_and_as_asked(tokens):
    """What it takes without being told, an outlier at the very threshold, and what it hands on to prune."""
    model = with_outliers(tiny_model())
    with torch.no_grad():
        for index, block in enumerate(wn.decoder_blocks(model)):
            block.mlp.up_proj.weight[: 5 + 7 * index] = 0
    whole = {"batch_size": len(tokens)}
    assert wn.owl_sparsity(model, tokens, **whole) == pytest.approx(slow_owl(model, tokens, 0.5)[0], abs=1e-7)
    expected, _ = slow_owl(model, tokens, 0.5, threshold=0)  # all but zeros are outliers
    assert wn.owl_sparsity(model, tokens, threshold=0, **whole) == pytest.approx(expected, abs=1e-7)
    with pytest.raises(ValueError, match="batch_size=0"):
        wn.owl_sparsity(model, tokens, batch_size=0)


def test_owl_of_blocks_that_are_alike_and_beyond_the_limit_is_one_number(tokens):
    model = with_outliers(tiny_model())
    assert wn.owl_sparsity(model, tokens, 0.3, threshold=1e9) == [0.3] * 3
    assert wn.owl_sparsity(model, tokens, 0.9995) == pytest.approx([0.9995] * 3, abs=1e-12)
    assert wn.owl_sparsity(model, tokens, 0.0) == pytest.approx([0.0] * 3, abs=1e-12)
    with pytest.raises(ValueError, match=r"sparsity=1\.5: expected"):
        wn.owl_sparsity(model, tokens, 1.5)
