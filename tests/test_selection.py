"""Slabs and threads: every row once, the same masks whatever their number, and nothing of torch's settings changed."""

import sys
import threading
import time
from collections import Counter

import oracle
import psutil
import pytest
import torch

import wanda_nb as wn
from wanda_nb import selection
from wanda_nb.masks import remove
from wanda_nb.methods import Plan, make_plan
from wanda_nb.selection import by_rows, lowest_of_all


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(selection, "SLAB", 64)
    monkeypatch.setattr(selection, "SLABS_A_THREAD", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def ties(rows, columns, levels, dtype=torch.float32):
    """Whole numbers of both signs, of so many sizes."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(-levels, levels, (rows, columns), generator=generator).to(dtype)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 200), (7, 24), (64, 8), (100,), (3, 4, 10), (0, 8), (5, 0)])
def test_every_row_is_worked_on_once_and_in_slabs(shape, threads):
    torch.set_num_threads(threads)
    done = []
    by_rows(lambda rows: done.append(range(shape[0])[rows]), torch.empty(shape))
    assert Counter(row for rows in done for row in rows) == Counter(range(shape[0]))
    per_row = torch.Size(shape[1:]).numel()
    assert all(len(rows) == 1 or len(rows) * per_row <= 64 for rows in done)
    assert torch.get_num_threads() == threads


def meeting(work):
    """Called by two threads, work begins once both are there; called by one, it fails."""
    both = threading.Barrier(2, timeout=10)

    def meet(rows):
        both.wait()
        work(rows)

    return meet


def test_slabs_are_spread_over_threads_in_which_torch_uses_one():
    seen = []
    by_rows(meeting(lambda rows: seen.append((threading.get_ident(), torch.get_num_threads()))), torch.empty(4, 64))
    assert len(seen) == 4 and {count for _, count in seen} == {1}
    assert len({thread for thread, _ in seen}) == 2 and torch.get_num_threads() == 2


@pytest.mark.parametrize("slabs, started", [(0, 0), (1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (30, 2)])
def test_a_thread_is_started_for_every_so_many_slabs(slabs, started, monkeypatch):
    monkeypatch.setattr(selection, "SLABS_A_THREAD", 3)
    torch.set_num_threads(3)
    pools = [0]
    start = selection.ThreadPoolExecutor
    monkeypatch.setattr(selection, "ThreadPoolExecutor", lambda helpers: pools.append(helpers) or start(helpers))
    by_rows(lambda rows: None, torch.empty(slabs, 64))
    assert pools[-1] == started


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda")


def test_on_a_gpu_slabs_are_larger_and_come_one_after_another(monkeypatch):
    monkeypatch.setattr(selection, "DEVICE_SLAB", 256)
    done, here = [], threading.get_ident()
    by_rows(lambda rows: done.append((rows, threading.get_ident())), torch.empty(10, 64).as_subclass(Elsewhere))
    assert done == [(slice(start, start + 4), here) for start in (0, 4, 8)]


@pytest.mark.parametrize("here", [True, False])
def test_an_exception_in_any_thread_reaches_the_caller(here):
    def fail(rows):
        if (threading.current_thread() is threading.main_thread()) == here:
            raise RuntimeError("of one slab")

    with pytest.raises(RuntimeError, match="of one slab"):
        by_rows(meeting(fail), torch.empty(2, 64))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_threads_may_write_what_their_caller_may_write(mode):
    with mode():
        ours = torch.ones(2, 64)
        leaf = torch.nn.Parameter(torch.ones(2, 64))
        by_rows(meeting(lambda rows: (ours[rows].zero_(), leaf[rows].zero_())), leaf)
    assert not ours.any() and not leaf.any()


def test_scores_that_require_a_gradient_are_selected_from():
    score = ties(9, 32, 5).requires_grad_()
    for group in ("output", "input", "layer"):
        assert wn.prune_mask(score, 0.5, group).tolist() == oracle.prune_mask(score.tolist(), 0.5, group)
    assert wn.nm_mask(score, 2, 4).tolist() == oracle.nm_mask(score.tolist(), 2, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lowest", [0.0, -0.0, -1.0])
def test_zeros_of_both_signs_are_equal_and_infinity_is_the_highest(lowest, dtype):
    """Where no score is below 0, the bits are compared as whole numbers: those of -0.0 are the lowest of all."""
    values = torch.tensor([0.0, -0.0, lowest, 1.0, torch.inf])
    choice = torch.randint(len(values), (9, 24), generator=torch.Generator().manual_seed(0))
    score = values[choice].to(dtype)
    for sparsity in (0.25, 0.5, 0.75):
        assert wn.prune_mask(score, sparsity).tolist() == oracle.prune_mask(score.tolist(), sparsity, "output")
    for n, m in ((1, 4), (2, 4), (3, 8)):
        assert wn.nm_mask(score, n, m).tolist() == oracle.nm_mask(score.tolist(), n, m)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads of OpenMP as Linux shows them")
@pytest.mark.parametrize("group", ["output", "input", "layer", "2:4", "remove"])
def test_no_thread_of_openmp_is_started(group, monkeypatch):
    """A new thread of Python has no team of OpenMP yet: the first region that opens in it starts one."""
    monkeypatch.setattr(selection, "SLAB", 2**17)
    W = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    score, mask, started = W.abs(), W < 0, []
    named = {"2:4": lambda: wn.nm_mask(score, 2, 4), "remove": lambda: remove(W, mask)}
    work = named.get(group, lambda: wn.prune_mask(score, 0.5, group))

    def threads():
        return {thread.id for thread in psutil.Process().threads()}

    def watch():
        before, deadline = threads(), time.monotonic() + 1
        work()
        while threads() - before and time.monotonic() < deadline:  # ours take a moment to end
            time.sleep(0.001)
        started.append(len(threads() - before))
        score.exp()
        started.append(len(threads() - before))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert started == [0, 1]


@pytest.mark.parametrize("levels", [2, 30, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_masks_do_not_depend_on_the_number_of_threads(levels, dtype):
    score = ties(37, 24, levels, dtype)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for group in ("output", "input", "layer"):
            for sparsity in (0, 0.3, 0.5, 0.999):
                expected = oracle.prune_mask(score.tolist(), sparsity, group)
                assert wn.prune_mask(score, sparsity, group).tolist() == expected
        for n, m in ((1, 2), (2, 4), (5, 8), (3, 12)):
            assert wn.nm_mask(score, n, m).tolist() == oracle.nm_mask(score.tolist(), n, m)


def lowest(values, count):
    gone = oracle.lowest(values.tolist(), count)
    return [position in gone for position in range(len(values))]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1999, 2000, 3998, 3999])
@pytest.mark.parametrize("kind", ["rising", "falling", "alike", "sampled high", "sampled low", "infinite", "zeros"])
def test_the_lowest_of_all_whatever_their_order(kind, count):
    """Also where the scores that the sample takes are nothing like the others."""
    score = torch.arange(4000.0)
    sampled = slice(None, None, len(score) // 64 | 1)
    if kind == "falling":
        score = score.flip(0)
    elif kind == "alike":
        score = torch.full_like(score, 7)
    elif kind.startswith("sampled"):
        score[sampled] = 1e6 if kind == "sampled high" else -1e6
    elif kind == "infinite":
        score[::3], score[1::3] = float("inf"), float("-inf")
    elif kind == "zeros":
        score = torch.where(torch.arange(4000) % 3 == 0, 0.0, -0.0)
    assert lowest_of_all(score, count).tolist() == lowest(score, count)


def test_slabs_may_come_in_any_order(monkeypatch):
    def backwards(work, numbers):
        for start in reversed(range(0, len(numbers), 30)):
            work(slice(start, start + 30))

    monkeypatch.setattr(selection, "by_rows", backwards)
    score = ties(1, 400, 3)[0]
    for count in (1, 50, 100, 200, 399):
        assert lowest_of_all(score, count).tolist() == lowest(score, count)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 65, 129])
def test_the_lowest_of_few(size):
    for score in (torch.arange(float(size)).flip(0), torch.zeros(size)):
        for count in sorted({0, 1, size // 2, size - 1} & set(range(size))):
            assert lowest_of_all(score, count).tolist() == lowest(score, count)


def test_few_scores_are_partitioned(monkeypatch):
    sizes = []
    partition = selection.np.partition
    monkeypatch.setattr(selection.np, "partition", lambda a, k: sizes.append(len(a)) or partition(a, k))
    monkeypatch.setattr(selection, "SLAB", 2**12)
    score = torch.randn(2**17, generator=torch.Generator().manual_seed(0))
    for count in (100, 2**16, 2**17 - 1):
        lowest_of_all(score, count)
    assert len(sizes) == 3 and max(sizes) < 2**17 / 10


@pytest.mark.parametrize("pick", ["output", "input", "layer", "running-sum", "2:4"])
def test_nan_in_any_slab_is_refused_with_its_count(pick):
    score = ties(40, 16, 100).abs()
    score[3, 1] = score[38, 7] = float("nan")
    for sparsity in (0, 0.5):
        with pytest.raises(ValueError, match=r"^2 scores are NaN: they cannot be ranked"):
            wn.nm_mask(score, 2, 4) if pick == "2:4" else wn.prune_mask(score, sparsity, pick)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_removed_weights_are_zeros_and_no_other_bit_changes(dtype, transposed):
    W = ties(9, 40, 50, dtype)
    W[:4, :4] = torch.tensor([float("inf"), float("nan"), -0.0, 1e-7], dtype=torch.float64).to(dtype)
    W = W.T if transposed else W
    mask = torch.arange(W.numel()).reshape(W.shape) % 3 == 0
    expected = W.masked_fill(mask, 0).contiguous()
    remove(W, mask)
    assert torch.equal(W.contiguous().view(torch.uint8), expected.view(torch.uint8))


METHODS = [
    ("wanda", {}),
    ("wanda", {"pattern": "2:4"}),
    ("wanda", {"pattern": "4:8"}),
    ("magnitude", {"group": "output"}),
]
METHODS += [
    ("wanda", {"group": "layer"}),
    ("wanda", {"group": "input"}),
    ("magnitude", {}),
    ("ria", {"group": "output"}),
]


@pytest.mark.parametrize(("method", "arguments"), METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_pruned_by_slabs_is_the_layer_pruned_at_once(method, arguments, dtype, transposed):
    W = ties(41, 16, 9, dtype)
    W = W.T.contiguous().T if transposed else W
    norm, plan = torch.rand(16), make_plan(1, method, **arguments)
    score = plan.score(W, norm)
    mask = wn.nm_mask(score, *plan.nm) if plan.nm else wn.prune_mask(score, 0.5, plan.group)
    pruned = W.clone()
    found, _ = plan.prune_layer(pruned, norm, 0, None)
    assert torch.equal(found, mask) and torch.equal(pruned, W.masked_fill(mask, 0))


def test_only_scores_known_to_go_by_rows_are_computed_by_rows(monkeypatch):
    sizes, select = [], Plan.select
    monkeypatch.setattr(
        Plan, "select", lambda plan, score, block: sizes.append(len(score)) or select(plan, score, block)
    )
    W, norm = ties(32, 16, 9), torch.rand(16)
    whole = [("ria", {"group": "output"}), ("wanda", {"group": "layer"}), ("wanda", {"group": "input"})]
    whole += [("wanda-variant", {}), ("magnitude", {}), (lambda W, norm: W.abs() / W.abs().sum(), {"pattern": "2:4"})]
    for method, arguments in [*whole, *METHODS[:4]]:
        make_plan(1, method, **arguments).prune_layer(W.clone(), norm, 0, None)
    assert sizes == [32] * len(whole) + [4] * 8 * 4


def test_a_layer_that_cannot_be_ranked_is_left_as_it_was():
    W = ties(32, 16, 9)
    W[30, 2] = float("nan")
    before = W.clone()
    with pytest.raises(ValueError, match="1 scores are NaN"):
        make_plan(1).prune_layer(W, torch.ones(16), 0, None)
    assert torch.equal(W.nan_to_num(99), before.nan_to_num(99))
