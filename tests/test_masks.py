"""Masks against the oracle, bit for bit: sizes, ties, zero norms, dtypes, groups, N:M."""

import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wanda_nb as wn
from wanda_nb.masks import parse_pattern
from wanda_nb.selection import SLAB

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@st.composite
def layers(draw, width_of=1):
    """W (out, in) with ties and zeros, as of a quantised model, and norms of which some are zero."""
    rows = draw(st.integers(1, 9))
    columns = width_of * draw(st.integers(1, max(1, 40 // width_of)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    W = torch.randint(-levels, levels + 1, (rows, columns), generator=generator) / levels
    norm = torch.randint(0, draw(st.sampled_from([1, 3, 1000])) + 1, (columns,), generator=generator).float()
    return W.to(draw(DTYPES)), norm


def scores_of(W, norm):
    """Both scores beside the same numbers computed one by one."""
    magnitude, wanda = wn.magnitude_score(W), wn.wanda_score(W, norm)
    slow = [[abs(w) for w in row] for row in W.tolist()]
    assert magnitude.tolist() == slow and magnitude.dtype == torch.float32
    product = [[torch.tensor(w) * torch.tensor(x) for w, x in zip(row, norm.tolist(), strict=True)] for row in slow]
    assert wanda.tolist() == [[float(p) for p in row] for row in product] and wanda.dtype == torch.float32
    return magnitude, wanda


@settings(max_examples=150, deadline=None)
@given(layers(), st.sampled_from(["output", "input", "layer"]), st.floats(0, 1, exclude_max=True))
def test_prune_mask_is_the_oracles(layer, group, sparsity):
    for score in scores_of(*layer):
        mask = wn.prune_mask(score, sparsity, group)
        assert mask.dtype == torch.bool and mask.is_contiguous()
        assert mask.tolist() == oracle.prune_mask(score.tolist(), sparsity, group)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (3, 7), (8, 16), (1, 13)])
def test_nm_mask_is_the_oracles(n, m):
    @settings(max_examples=40, deadline=None)
    @given(layers(width_of=m))
    def check(layer):
        for score in scores_of(*layer):
            mask = wn.nm_mask(score, n, m)
            assert mask.dtype == torch.bool
            assert mask.tolist() == oracle.nm_mask(score.tolist(), n, m)
            assert ((~mask).view(len(mask), -1, m).sum(-1) == n).all()

    check()


def test_the_oracle_itself_on_an_example_done_by_hand():
    assert oracle.prune_mask([[3, 1, 1, 2]], 0.5, "output") == [[False, True, True, False]]
    assert oracle.prune_mask([[1, 1, 1, 1]], 0.75, "output") == [[True, True, True, False]]
    assert oracle.prune_mask([[1, 4], [2, 0]], 0.5, "input") == [[True, False], [False, True]]
    assert oracle.prune_mask([[5, 1], [1, 1]], 0.5, "layer") == [[False, True], [True, False]]
    assert oracle.nm_mask([[0, 0, 0, 0, 4, 3, 2, 1]], 2, 4) == [[True, True, False, False, False, False, True, True]]


def test_real_sizes_with_ties_equal_a_stable_sort():
    score = few_levels(64, 1536)
    for sparsity in (0.1, 0.5, 0.7):
        assert torch.equal(wn.prune_mask(score, sparsity), oracle.stable_sort(score, math.floor(1536 * sparsity)))


def few_levels(rows, columns, levels=300):
    return torch.randint(0, levels, (rows, columns), generator=torch.Generator().manual_seed(rows)).float()


@pytest.mark.parametrize(("rows", "columns"), [(7, 24), (8, 16), (13, 8), (5, 64), (3, 80), (1, 96)])
@pytest.mark.parametrize("levels", [2, 1000])
def test_layers_of_many_slabs_are_the_oracles(rows, columns, levels, monkeypatch):
    """Whole and ragged last slabs, rows longer than a slab, ties on either side of a seam."""
    monkeypatch.setattr("wanda_nb.selection.SLAB", 64)
    score = few_levels(rows, columns, levels)
    for sparsity in (0.1, 0.5, 0.9):
        for group in ("output", "input", "layer"):
            mask = wn.prune_mask(score, sparsity, group)
            assert mask.dtype == torch.bool and mask.is_contiguous()
            assert mask.tolist() == oracle.prune_mask(score.tolist(), sparsity, group)
    for n, m in ((2, 4), (3, 8), (1, 8)):
        assert wn.nm_mask(score, n, m).tolist() == oracle.nm_mask(score.tolist(), n, m)


def test_layers_over_a_million_weights_equal_a_stable_sort():
    """Nothing pretended: more scores than are selected from at a time, in every group and for a pattern."""
    score = few_levels(1030, 1100)
    assert score.numel() > SLAB and len(score) % (SLAB // score.shape[1])
    assert torch.equal(wn.prune_mask(score, 0.5), oracle.stable_sort(score, 550))
    assert torch.equal(wn.prune_mask(score, 0.3, "input"), oracle.stable_sort(score.T, 309).T)
    flat = score.reshape(1, -1)
    assert torch.equal(wn.prune_mask(score, 0.5, "layer").reshape(1, -1), oracle.stable_sort(flat, 566_500))
    assert torch.equal(wn.nm_mask(score, 2, 4).reshape(-1, 4), oracle.stable_sort(score.reshape(-1, 4), 2))


def test_the_stable_sort_is_the_oracle():
    score = few_levels(9, 20, 4)
    assert oracle.stable_sort(score, 7).tolist() == oracle.prune_mask(score.tolist(), 0.35, "output")


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU, where rows are selected from in another way and not slab by slab."""

    device = torch.device("cuda")


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_way_of_other_devices_is_the_oracles(levels, monkeypatch):
    monkeypatch.setattr("wanda_nb.selection.SLAB", 16)
    monkeypatch.setattr("wanda_nb.selection.DEVICE_SLAB", 96)
    score = few_levels(7, 40, levels)
    there = score.as_subclass(Elsewhere)
    for sparsity in (0, 0.1, 0.5, 0.9):
        for group in ("output", "input", "layer"):
            mask = wn.prune_mask(there, sparsity, group)
            assert mask.tolist() == oracle.prune_mask(score.tolist(), sparsity, group)
    for n, m in ((2, 4), (3, 8), (3, 10)):
        assert wn.nm_mask(there, n, m).tolist() == oracle.nm_mask(score.tolist(), n, m)


def test_scores_in_float64_are_told_apart():
    score = 1 + 1e-12 * few_levels(6, 30, 1000).double()
    assert len(score.float().unique()) == 1
    for group in ("output", "input", "layer"):
        assert wn.prune_mask(score, 0.5, group).tolist() == oracle.prune_mask(score.tolist(), 0.5, group)
    assert wn.nm_mask(score[:, :28], 2, 4).tolist() == oracle.nm_mask(score[:, :28].tolist(), 2, 4)


def test_infinite_scores_protect_and_negative_zero_ties_with_zero():
    score = torch.tensor([[float("inf"), 1.0, float("inf"), 2.0]])
    assert wn.prune_mask(score, 0.5).tolist() == [[False, True, False, True]]
    assert wn.prune_mask(torch.tensor([[0.0, -0.0, 1.0, 1.0]]), 0.25).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.0, 1.5, 50, float("nan"), "0.5", None, True])
def test_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"sparsity=.*expected the fraction .* in \[0, 1\)"):
        wn.prune_mask(torch.rand(4, 4), sparsity)


def test_a_percentage_is_recognised():
    with pytest.raises(ValueError, match=r"Did you mean 0\.5\?"):
        wn.prune_mask(torch.rand(4, 4), 50)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4), (-1, 4), (2, 0), (1.0, 4)])
def test_patterns_that_make_no_sense_are_refused(n, m):
    with pytest.raises(ValueError, match="keeps N of every M"):
        wn.nm_mask(torch.rand(4, 8), n, m)


@pytest.mark.parametrize("pattern", ["2/4", "2", "2:", ":4", "a:4", "2:b", "", "2:4:8", None, 2])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match=r"pattern=.*expected N:M, such as '2:4'"):
        parse_pattern(pattern)


def test_patterns_are_read_as_hardware_reads_them():
    assert parse_pattern("2:4") == (2, 4) and parse_pattern("13:16") == (13, 16) and parse_pattern("1:2") == (1, 2)
    with pytest.raises(ValueError, match="4:4 makes no sense"):
        parse_pattern("4:4")


def test_a_width_that_m_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"10 input channels, which 4 does not divide \(remainder 2\)"):
        wn.nm_mask(torch.rand(3, 10), 2, 4)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="group='row': expected one of output, input, layer"):
        wn.prune_mask(torch.rand(4, 4), 0.5, "row")
    with pytest.raises(ValueError, match="1 scores are NaN"):
        wn.prune_mask(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="expected floating-point numbers"):
        wn.prune_mask(torch.ones(4, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="expected floating-point numbers"):
        wn.nm_mask(torch.rand(4), 2, 4)
    with pytest.raises(ValueError, match="one norm for each of W's 8 input channels"):
        wn.wanda_score(torch.rand(4, 8), torch.rand(4))
