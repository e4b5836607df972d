"""Notebook 03 on a pretended GPU: the cells of its loop themselves, and the record that its figure shows."""

import copy
import sys
from pathlib import Path

import matplotlib
import nbformat
import torch
from accelerate.utils import send_to_device
from package import LITTLE, block_bytes, nothing_left
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import checks, plots

matplotlib.use("agg")
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "03_layer_by_layer.ipynb"


def section(heading: str) -> list[str]:
    """The code cells of a section."""
    cells, found, inside = nbformat.read(NOTEBOOK, as_version=4).cells, [], False
    for cell in cells:
        if cell.cell_type == "markdown" and "\n## " in "\n" + cell.source:
            inside = f"## {heading}\n" in cell.source + "\n"
        elif inside and cell.cell_type == "code":
            found.append(cell.source)
    return found


def test_blocks_visit_by_hand_as_in_the_package(tokens, gpu, capsys):
    """The cells compare with wn.prune; here the device is one on which mixing it with the CPU fails."""
    model = tiny_model(num_hidden_layers=4, **LITTLE)
    names = {"copy": copy, "torch": torch, "wn": wn, "send_to_device": send_to_device}
    names |= {"checks": checks, "model": model, "tokens": tokens, "blocks": wn.decoder_blocks(model), "device": "cuda"}
    cells = section("One block visits the device")
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    assert "✓ the same zeros in all 28 layers: 0.5" in capsys.readouterr().out
    readings = names["readings"]
    assert [r["now"] for r in readings if r["step"] == "out"] == [readings[0]["now"]] * 4  # no block stays there
    block = sum(p.nbytes for p in names["blocks"][0].parameters())
    assert [r["now"] - readings[0]["now"] for r in readings if r["step"] == "in"] == [block] * 4

    timeline = plots.by_kind(readings)
    totals = [sum(row[kind][at] for kind in plots.RESIDENTS) for row in timeline for at in range(3)]
    assert max(totals) == max(r["most"] for r in readings) and min(totals) == readings[0]["now"]
    plots.residency(timeline, 1e6)
    names.clear()
    assert nothing_left(gpu)


def test_what_is_recorded_is_what_was_there(tokens):
    sys.path.insert(0, str(ROOT / "data"))
    import residency

    gpu = residency.record(tiny_model(num_hidden_layers=4), tokens, 2)
    totals = [sum(there.values()) for _, _, there in gpu.changes]
    assert max(totals) == gpu.peak > totals[-1] == gpu.alive == 0
    rows = residency.timeline(gpu)
    steps = ["in", "capture", "select", "propagate", "out"]
    assert [(row["block"], row["phase"]) for row in rows] == [(n, step) for n in residency.BLOCKS for step in steps]
    for row in rows:
        capture, select = (row["phase"] in steps for steps in (("capture", "propagate"), ("select",)))
        assert (max(row["activations"]) > 4000) == capture and (max(row["selection"]) > 4000) == select
        assert row["weights"][-1] == (0 if row["phase"] == "out" else block_bytes(tiny_model()) // 3)
    assert residency.thinned([{"a": n * 100_000} for n in range(600)])[-1] == {"a": 599 * 100_000}
