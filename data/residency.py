"""What lies on a GPU while blocks visit it, byte by byte: recorded on the pretended GPU of the tests.

python data/residency.py        prunes the small model's first blocks twice, writes data/results/residency.json

Linux only, like the pretended GPU. Its bytes are those of the tensors alive, without an allocator's rounding; attention
takes torch's plain kernel, which holds the scores of all pairs of positions.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import torch
from experiments.record import code_identity
from torch.nn.attention import SDPBackend, sdpa_kernel

import wanda_nb as wn
from wanda_nb import pruning
from wanda_nb.inputs import assets
from wanda_nb.reporting.progress import Clock
from wanda_nb.reporting.provenance import provenance

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import pretended_gpu  # noqa: E402

RESULTS = ROOT / "data" / "results" / "residency.json"
BLOCKS = 1, 2  # counted from 0; the first block has no neighbour before it
KINDS = {"prepare": "hidden states", "move": "weights", "select": "selection"}  # by the phase that allocates
POINTS = 60  # a phase is stored with at most so many
SETTINGS = {
    "float32": {"samples": 8, "length": 128, "batch_size": 4},
    "bfloat16": {"samples": 32, "length": 32, "batch_size": 16},  # short windows: the scores of attention are small
}


class Watched(pretended_gpu.Gpu):
    """The pretended GPU, which also notes after every change what is there, by kind, and in which phase."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.phase, self.number = "move", -1  # of block number: prepare, capture, select, propagate; else move
        self.bytes = dict.fromkeys(("hidden states", "weights", "activations", "selection"), 0)
        self.kinds: dict = {}
        self.changes: list = [(-1, "prepare", {})]

    def note(self, memory, sign: int) -> None:
        kind = self.kinds.setdefault(memory, KINDS.get(self.phase, "activations"))
        self.bytes[kind] += sign * memory.size
        number, phase = self.changes[-1][:2]  # what is let go between two phases belongs to the first
        if self.phase != "move":
            number, phase = self.number, self.phase
        elif kind == "weights":
            number, phase = (self.number + 1, "in") if sign > 0 else (self.number, "out")
        self.changes.append((number, phase, dict(self.bytes)))

    def memory(self, storage):
        with self.lock:
            is_new = storage not in self.memories
            memory = super().memory(storage)
            if is_new:
                self.note(memory, 1)
        return memory

    def freed(self, memory) -> None:
        with self.lock:
            self.note(memory, -1)
        super().freed(memory)


def watched_clock(gpu: Watched):
    """A Clock that tells the device which phase begins, and of which block."""

    class Watching(Clock):
        @contextmanager
        def __call__(self, phase):
            gpu.phase = phase
            gpu.number += phase == "capture"
            with super().__call__(phase):
                yield
            gpu.phase = "move"

    return Watching


def record(model, tokens, batch_size: int) -> Watched:
    """Prune the model, whose blocks visit a pretended GPU in turn."""
    with (
        patch.object(pretended_gpu, "Gpu", Watched),
        sdpa_kernel(SDPBackend.MATH),
        pretended_gpu.device() as gpu,
        patch.object(pruning, "Clock", watched_clock(gpu)),
        patch.object(pruning, "matmul_rate", lambda *_: 1.0),
    ):
        wn.prune(model, tokens, device="cuda", batch_size=batch_size)
        return gpu


def thinned(changes: list[dict]) -> list[dict]:
    """At most POINTS of the changes that show, in order: of each stretch the one with most bytes."""
    kept: list[dict] = []
    shows = max(sum(there.values()) for there in changes) / 500
    for there in changes:
        if not kept or there is changes[-1] or abs(sum(there.values()) - sum(kept[-1].values())) > shows:
            kept.append(there)
    size = -(-len(kept) // POINTS)
    stretches = [kept[start : start + size] for start in range(0, len(kept), size)]
    return [max(stretch, key=lambda there: sum(there.values())) for stretch in stretches]


def timeline(gpu: Watched) -> list[dict]:
    """For each phase of the recorded blocks, in order, the bytes of each kind."""
    rows = []
    for (number, phase), changes in groupby(gpu.changes, key=lambda change: change[:2]):
        points = thinned([there for _, _, there in changes])
        if number in BLOCKS:
            rows.append({"block": number, "phase": phase, **{kind: [p[kind] for p in points] for kind in points[0]}})
    return rows


def predicted(model, tokens, batch_size: int) -> int:
    """Bytes at the worst moment, as notebook 03 predicts them: in the MLP."""
    config, itemsize = model.config, next(model.parameters()).element_size()
    width, inner = config.hidden_size, config.intermediate_size
    block = sum(layer.weight.nbytes for layer in wn.linear_layers(wn.decoder_blocks(model)[0]).values())
    return block + itemsize * (tokens.numel() * width + 3 * (inner + width) * batch_size * tokens.shape[1])


def main() -> None:
    torch.set_num_threads(1)
    rows, runs = [], []
    for dtype, settings in SETTINGS.items():
        model, tokenizer = wn.load_model(dtype=getattr(torch, dtype))
        made = provenance(model, data=assets.checksums(("model", "text"), ()))
        made |= {"script": code_identity([Path(__file__)]), "device": "pretended GPU (tests/pretended_gpu.py)"}
        model.model.layers = model.model.layers[: max(BLOCKS) + 2]  # the others would be no different
        model.config.num_hidden_layers = len(model.model.layers)
        samples, length, batch_size = settings.values()
        tokens = wn.calibration_tokens(tokenizer, samples=samples, length=length)
        gpu = record(model, tokens, batch_size)
        found = [there for number, _, there in gpu.changes if number in BLOCKS]
        peaks = {kind: max(there[kind] for there in found) for kind in found[0]}
        row = {"row": dtype, **settings, "run": len(runs), "peak": max(sum(there.values()) for there in found)}
        if dtype == "float32":  # in 16 bit, the squares of capture are summed in 32, which takes copies
            row["predicted"] = predicted(model, tokens, batch_size)
        rows.append({**row, "peaks": peaks, "timeline": timeline(gpu)})
        runs.append(made)
        print(row, peaks)
    written = {"command": "python data/residency.py", "blocks": list(BLOCKS), "runs": runs, "rows": rows}
    RESULTS.write_text(json.dumps(written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
