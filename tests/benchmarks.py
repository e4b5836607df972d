"""Selection against the plain ways of doing it, and a run against two passes: quiet, and beside busy processes.

python tests/benchmarks.py             selection: one table, about two minutes
python tests/benchmarks.py --prune     also SmolLM2-135M as a whole, which takes twenty minutes more

Each line is measured in pairs within this process, and its median is shown; "busy" is beside one process a core that
computes without end, which this script starts and stops. "Quiet" it is only if you have closed everything else: see the
load average. Exits with 1 if a target is missed. Not part of `make test`.

On AMD's Zen 4, numpy's partition is several times slower with AVX-512 than with AVX2, because that processor is slow to
store a compressed register (numpy/x86-simd-sort, issue 6). NPY_DISABLE_CPU_FEATURES=X86_V4, set before Python starts,
makes numpy use AVX2. Measure both.
"""

import argparse
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

import wanda_nb as wn
from wanda_nb.hardware import median_ratio, paired_seconds
from wanda_nb.methods import make_plan

SHAPES = [(1536, 576), (2048, 4096)]
LAYER = (11008, 4096)  # the largest of LLaMA-7B


def by_stable_sort(score):
    """The obvious way: sort each row, remove the first half."""
    order = score.sort(dim=1, stable=True).indices[:, : math.floor(score.shape[1] * 0.5)]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


def by_topk(score, n, m):
    """As published: a loop over the groups of m columns, topk for all rows."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for start in range(0, score.shape[1], m):
        lowest = score[:, start : start + m].topk(m - n, dim=1, largest=False).indices
        mask.scatter_(1, start + lowest, True)
    return mask


def partition(score):
    bits = score.numpy().view("int32")  # in the order of the scores, which are not negative
    np.partition(bits, bits.shape[1] // 2 - 1, axis=1)


def scores(rows, columns):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(rows, columns, generator=generator)
    return wn.wanda_score(W, torch.rand(columns, generator=generator))


@contextmanager
def busy_processes():
    """One for each core, until closed."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def selection():
    """(what, function giving the measured number, target quiet, target busy) for each line of the table."""
    for shape in SHAPES:
        score = scores(*shape)
        assert torch.equal(wn.prune_mask(score), by_stable_sort(score))
        yield f"rows {shape}: time / stable sort", pair(wn.prune_mask, by_stable_sort, score), 0.12, 0.25
        if shape == SHAPES[0]:  # what a small layer needs at least: half of this, if two threads shared it perfectly
            yield f"numpy's partition alone, one thread {shape}", pair(partition, by_stable_sort, score), None, None
        for n, m in ((2, 4), (4, 8)):
            assert torch.equal(wn.nm_mask(score, n, m), by_topk(score, n, m))
            targets = (0.2, 0.4) if m == 4 else (None, None)
            yield f"{n}:{m} {shape}: time / topk loop", pair(wn.nm_mask, by_topk, score, n, m), *targets
    dense, norm = torch.randn(LAYER).bfloat16(), torch.rand(LAYER[1])
    for name, arguments, target in (
        ("rows", {}, 8),
        ("2:4", {"pattern": "2:4"}, 8),
        ("layer", {"group": "layer"}, None),
    ):
        yield f"score, {name}, zeros, bfloat16 {LAYER}: ns a weight", layer(dense, norm, arguments), target, None


def pair(ours, theirs, *arguments):
    return lambda: median_ratio(*paired_seconds(lambda: ours(*arguments), lambda: theirs(*arguments), 7))


def layer(dense, norm, arguments):
    plan, W = make_plan(1, "wanda", **arguments), dense.clone()

    def measure():
        seconds, _ = paired_seconds(lambda: plan.prune_layer(W, norm, 0, None), lambda: W.copy_(dense), 5)
        return sorted(seconds)[2] / W.numel() * 1e9

    return measure


def whole_run():
    """The run against two passes through all blocks, as many windows at a time; quiet.

    With few windows, those that run whole, to learn which layer is a block's last, and the selection count for more.
    """
    model, tokenizer = wn.load_model("smollm2-135m")
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for samples, target in ((16, None), (128, 1.0)):  # 128: as published
        tokens = wn.calibration_tokens(tokenizer, source="c4", samples=samples, length=256, seed=0)
        yield f"prune, {samples} windows: time / two passes", partial(whole, model, dense, tokens), target, None


def whole(model, dense, tokens):
    @torch.no_grad()
    def two_passes():
        for window in (*tokens.split(4), *tokens.split(4)):
            model.base_model(input_ids=window, use_cache=False)

    def prune():
        model.load_state_dict(dense)
        wn.prune(model, tokens, batch_size=4)

    return median_ratio(*paired_seconds(prune, two_passes, 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prune", action="store_true", help="also measure the whole run on a real model")
    arguments = parser.parse_args()
    missed = 0
    found = ", ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"])
    print(
        f"{torch.get_num_threads()} threads, numpy {np.__version__} with {found}, load average {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':52} {'quiet':>6} {'target':>7} {'busy':>6} {'target':>7}  met?")
    for make, beside_others in ((selection, True), (whole_run, False))[: 1 + arguments.prune]:
        for what, measure, *targets in make():
            found = [measure()]
            if beside_others:
                with busy_processes():
                    found.append(measure())
            pairs = list(zip(found, targets, strict=False))
            bad = any(target and value > target for value, target in pairs)
            missed += bad
            cells = "".join(f" {value:6.3g} {target or '':>7}" for value, target in pairs)
            print(f"{what:52}{cells:32} {'no' if bad else 'yes' if any(targets) else ''}", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
