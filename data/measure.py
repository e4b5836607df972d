"""Measure what the README shows and notebooks plot without recomputing.

python data/measure.py quickstart      about 10 minutes on two CPU cores
python data/measure.py sparsity        about 6: perplexity against sparsity, three methods, seeds
python data/measure.py calibration     about 7: how many samples, of which text, drawn with which seed
python data/measure.py groups          about 2: score × comparison group

Writes data/results/NAME.json, which holds all that is needed to run it again; quickstart also draws NAME.png.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import pandas as pd

import wanda_nb as wn
from wanda_nb import plots
from wanda_nb.results import provenance

RESULTS = Path(__file__).parent / "results"


def quickstart() -> dict:
    """The comparison of notebook 00 on more text, for the README's figure."""
    calibration = {"source": "c4", "samples": 64, "length": 256, "seed": 0}
    evaluation = {"source": "wikipedia", "length": 512, "windows": 64}
    model, tokenizer = wn.load_model()
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    heldout = wn.evaluation_tokens(tokenizer, **evaluation)
    runs = {
        "dense": None,
        "magnitude 50%": {"method": "magnitude", "sparsity": 0.5},
        "wanda 50%": {"method": "wanda", "sparsity": 0.5},
        "wanda 2:4": {"method": "wanda", "pattern": "2:4"},
    }
    rows = []
    for name, settings in runs.items():
        pruned = copy.deepcopy(model)
        if settings:
            wn.prune(pruned, tokens, **settings)
        rows.append(
            {
                "model": name,
                "settings": settings,
                "perplexity": round(wn.perplexity(pruned, heldout), 2),
                "sparsity": round(wn.sparsity(pruned), 4),
            }
        )
        print(rows[-1])
    table = pd.DataFrame(rows)
    plots.perplexity_bars(table).savefig(RESULTS / "quickstart.png", dpi=150)
    return {"calibration": calibration, "evaluation": evaluation, "rows": rows, **provenance(model)}


def one_run(model, heldout, tokens, **how) -> dict:
    """Prune a copy and evaluate it."""
    pruned = copy.deepcopy(model)
    wn.prune(pruned, tokens, **how)
    row = {**how, "perplexity": round(wn.perplexity(pruned, heldout), 2)}
    print(row, flush=True)
    return row


def prepared() -> tuple:
    """The model, and the text that all ablations are evaluated on."""
    evaluation = {"source": "wikipedia", "length": 512, "windows": 4}
    model, tokenizer = wn.load_model()
    heldout = wn.evaluation_tokens(tokenizer, **evaluation)
    dense = round(wn.perplexity(model, heldout), 2)
    return model, tokenizer, heldout, {"evaluation": evaluation, "dense": dense, **provenance(model)}


def sparsity() -> dict:
    """Notebook 08: where does each method break?"""
    model, tokenizer, heldout, about = prepared()
    calibration = {"source": "c4", "samples": 16, "length": 128}
    rows = []
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    plans = [("magnitude", 0, shares), ("wanda", 0, shares), ("sparsegpt", 0, shares[4:])]
    plans += [("wanda", seed, shares[4:7]) for seed in (1, 2)]  # draws matter where the model breaks
    for method, seed, wanted in plans:
        tokens = wn.calibration_tokens(tokenizer, **calibration, seed=seed)
        for share in wanted:
            rows.append({"seed": seed, **one_run(model, heldout, tokens, method=method, sparsity=share)})
    return {"calibration": calibration, **about, "rows": rows}


def calibration() -> dict:
    """Notebook 08: how much text, from where, and does the draw matter? Wanda at 50%."""
    model, tokenizer, heldout, about = prepared()
    # Wikipedia text from behind the evaluated windows, so that nothing is calibrated on what it is scored on
    sources = {"c4": wn.documents("c4"), "wikipedia": wn.documents("wikipedia")[100:]}
    rows = []
    for name, texts in sources.items():
        for samples in (1, 4, 16, 32):
            for seed in range(3):
                tokens = wn.calibration_tokens(tokenizer, texts, samples=samples, length=128, seed=seed)
                rows.append({"source": name, "samples": samples, "length": 128, "seed": seed})
                rows[-1].update(one_run(model, heldout, tokens, method="wanda", sparsity=0.5))
    return {**about, "rows": rows}


def groups() -> dict:
    """Notebook 08: which scores may compete? 50%."""
    model, tokenizer, heldout, about = prepared()
    calibration = {"source": "c4", "samples": 16, "length": 128, "seed": 0}
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    rows = [
        one_run(model, heldout, tokens, method=method, group=group, sparsity=0.5)
        for method in ("magnitude", "wanda", "ria")
        for group in ("output", "input", "layer")
    ]
    rows.append(one_run(model, heldout, tokens, method="wanda-variant", sparsity=0.5))
    return {"calibration": calibration, **about, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["quickstart", "sparsity", "calibration", "groups"])
    name = parser.parse_args().name
    plots.style()
    RESULTS.mkdir(exist_ok=True)
    start = time.perf_counter()
    record = {"command": f"python data/measure.py {name}", **globals()[name]()}
    record["seconds"] = round(time.perf_counter() - start)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
