"""Which scores are the lowest, fast: of each row, or of all.

The work is done a slab at a time, a few rows that stay in a core's cache, in threads of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

SHORT_ROW = 8  # up to this width counting ranks is faster than selecting
SLAB = 2**18  # numbers at a time on a CPU
SLABS_A_THREAD = 4  # for fewer, another thread costs more than it brings
DEVICE_SLAB = 2**22  # on a GPU: enough to fill it, and scratch memory does not grow with the layer


def lowest_of_rows(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the ``count`` lowest scores of each row, ties to the earlier column: (rows, columns) -> bool."""
    mask = torch.empty_like(score, dtype=torch.bool)
    dtype = torch.promote_types(score.dtype, torch.float32)

    def select(rows):
        slab = score[rows].to(dtype).contiguous()
        refuse_nan(slab, score)
        mask[rows] = _lowest_of_slab(slab, count)

    by_rows(select, score)
    return mask


def _lowest_of_slab(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the lowest of each row. Nothing is sorted: thresholds are selected, or ranks counted where rows are short.

    Ties at the threshold are settled afterwards, in the rows that have too many of them.
    """
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    if score.shape[1] <= SHORT_ROW:
        return _lowest_by_rank(score, count)
    mask, threshold = _up_to_kth(score, count)
    crowded = (mask.view(torch.int8).sum(dim=1, dtype=torch.int32) > count).nonzero().squeeze(1)
    if len(crowded):
        rows, limit = score[crowded], threshold[crowded]
        below, tied = rows < limit, rows == limit
        room = count - below.sum(dim=1, keepdim=True)
        mask[crowded] = below | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    return mask


def lowest_of_all(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the ``count`` lowest of all scores, ties to the earlier: (scores,) -> bool."""
    by_rows(lambda part: refuse_nan(score[part], score), score)
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    mask = torch.empty_like(score, dtype=torch.bool)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    threshold, below, ties = _kth_of_all(score, count), [], {}

    def mark(part):
        mask[part] = score[part] < threshold
        below.append(int(mask[part].count_nonzero()))
        ties[part.start] = part.start + (score[part] == threshold).nonzero()

    by_rows(mark, score)
    tied = torch.cat([ties[start] for start in sorted(ties)])
    mask[tied[: count - sum(below)]] = True
    return mask


def _kth_of_all(score: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th smallest, (1,). On a CPU a sample tells between which scores it is, so that few are partitioned."""
    if score.device.type != "cpu":
        return score.kthvalue(k, keepdim=True).values
    numbers = score.detach().numpy()
    sample = np.sort(numbers[:: len(numbers) // SLAB | 1])
    sample[[0, -1]] = -np.inf, np.inf
    expected, margin = len(sample) * k // len(numbers), len(sample) // 32
    low, high = sample[max(expected - margin, 0)], sample[min(expected + margin, len(sample) - 1)]
    below, between = [], []

    def narrow(part):
        below.append(np.count_nonzero(numbers[part] < low))
        between.append(numbers[part][(numbers[part] >= low) & (numbers[part] <= high)])

    by_rows(narrow, score)
    rest, place = np.concatenate(between), k - 1 - sum(below)
    if not 0 <= place < len(rest):  # the sample was not like the whole
        rest, place = numbers, k - 1
    return torch.from_numpy(np.partition(rest, place)[place : place + 1].copy())


def _lowest_by_rank(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mark each score whose rank, the number of scores in its row that come before it, is below ``count``.

    Each pair of columns is compared once; on a CPU by numpy, whose operators begin sooner than torch's.
    """
    on_cpu = score.device.type == "cpu"
    library, columns = (np, np.ascontiguousarray(score.detach().numpy().T)) if on_cpu else (torch, score.T.contiguous())
    ahead = library.zeros_like(columns, dtype=library.int8)  # earlier ones before it, less later ones after it
    for j in range(1, len(columns)):
        for i in range(j):
            earlier_first = (columns[i] <= columns[j]).view(library.int8)
            ahead[j] += earlier_first
            ahead[i] -= earlier_first
    later = reversed(range(len(columns)))
    return torch.as_tensor(library.stack([one < count - rest for one, rest in zip(ahead, later, strict=True)], 1))


def _up_to_kth(score: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which scores are at most the k-th smallest of their row, and those, (rows, 1).

    On a CPU by numpy's partition, many times faster than a sort. The bits of numbers that are not negative, read as
    whole numbers, have the same order, and are partitioned sooner.
    """
    if score.device.type != "cpu":
        threshold = score.kthvalue(k, dim=1, keepdim=True).values
        return score <= threshold, threshold
    numbers = score.detach().numpy()
    bits = numbers.view(f"i{numbers.itemsize}") if numbers.size and numbers.min() >= 0 else numbers
    threshold = np.partition(bits, k - 1, axis=1)[:, k - 1 : k].copy().view(numbers.dtype)
    return torch.from_numpy(numbers <= threshold), torch.from_numpy(threshold)  # numpy compares in half of torch's time


def refuse_nan(some: torch.Tensor, score: torch.Tensor) -> None:
    if not bool(some.sum().isfinite()) and bool(some.isnan().any()):  # the sum tells in a tenth of the time
        raise ValueError(
            f"{int(score.isnan().sum())} scores are NaN: they cannot be ranked. Look for NaN in W or norm."
        )


def by_rows(work: Callable[[slice], object], numbers: torch.Tensor) -> None:
    """Call work(rows) for slices that together are all rows of a tensor; on a CPU in as many threads as torch may use.

    Meanwhile torch's operators run in the thread that calls them. OpenMP's threads would wait for one another after
    every operator, which takes long as soon as another program has one of the cores.
    """
    on_cpu, threads = numbers.device.type == "cpu", torch.get_num_threads()
    step = max(1, (SLAB if on_cpu else DEVICE_SLAB) // max(1, numbers.shape[1:].numel()))
    slabs = [slice(start, start + step) for start in range(0, len(numbers), step)]
    helpers = min(threads, len(slabs) // SLABS_A_THREAD) - 1 if on_cpu else 0
    waiting, inference = iter(slabs), torch.is_inference_mode_enabled()

    def worker():
        with torch.inference_mode(inference), torch.no_grad():  # a new thread knows of neither
            for rows in waiting:  # each goes to whoever is free
                work(rows)

    torch.set_num_threads(1)  # of this thread, and of those that start now
    try:
        if helpers < 1:
            return worker()
        with ThreadPoolExecutor(helpers) as pool:
            others = [pool.submit(worker) for _ in range(helpers)]
            worker()
        for other in others:
            other.result()
    finally:
        torch.set_num_threads(threads)
