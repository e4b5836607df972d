"""Selection against the plain stable sort, on shapes of a small and a 7B model.

pytest tests/benchmarks.py        (not part of `make test`; compare medians of one run, not runs with one another)
"""

import math

import pytest
import torch

import wanda_nb as wn

SHAPES = [(1536, 576), (4096, 4096)]


def by_stable_sort(score, count):
    """The obvious way: sort each row, remove the first columns."""
    order = score.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


def by_groups(score, n, m):
    """The obvious way: a Python loop over the groups of m columns."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for start in range(0, score.shape[1], m):
        order = score[:, start : start + m].sort(dim=1, stable=True).indices[:, : m - n]
        mask.scatter_(1, start + order, True)
    return mask


@pytest.fixture(params=SHAPES, ids=str)
def score(request):
    """Scores with ties, as of a model that was once quantised."""
    rows, columns = request.param
    generator = torch.Generator().manual_seed(0)
    W = torch.randint(-300, 300, (rows, columns), generator=generator) / 300
    return wn.wanda_score(W, torch.rand(columns, generator=generator))


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stable sort"])
@pytest.mark.benchmark(group="unstructured 50%")
def test_unstructured(benchmark, score, ours):
    count = math.floor(score.shape[1] * 0.5)
    mask = benchmark(wn.prune_mask, score, 0.5) if ours else benchmark(by_stable_sort, score, count)
    assert torch.equal(mask, by_stable_sort(score, count))


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "loop over groups"])
@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)], ids=["2:4", "4:8"])
@pytest.mark.benchmark(group="N:M")
def test_nm(benchmark, score, pattern, ours):
    mask = benchmark(wn.nm_mask, score, *pattern) if ours else benchmark(by_groups, score, *pattern)
    assert torch.equal(mask, by_groups(score, *pattern))
