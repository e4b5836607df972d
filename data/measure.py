"""Measure what the README shows and notebooks plot without recomputing.

python data/measure.py quickstart      about 12 minutes on two CPU cores

Writes data/results/NAME.json, which holds all that is needed to run it again, and NAME.png beside it.
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
        pruned, start = copy.deepcopy(model), time.perf_counter()
        if settings:
            wn.prune(pruned, tokens, **settings)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "model": name,
                "settings": settings,
                "perplexity": round(wn.perplexity(pruned, heldout), 2),
                "sparsity": round(wn.sparsity(pruned), 4),
                "seconds to prune": round(seconds, 1),
            }
        )
        print(rows[-1])
    table = pd.DataFrame(rows)
    plots.perplexity_bars(table).savefig(RESULTS / "quickstart.png", dpi=150)
    return {"calibration": calibration, "evaluation": evaluation, "rows": rows, **provenance(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["quickstart"])
    name = parser.parse_args().name
    plots.style()
    start = time.perf_counter()
    record = {"command": f"python data/measure.py {name}", **globals()[name]()}
    record["seconds"] = round(time.perf_counter() - start)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
