"""Measure what the README shows and notebooks plot without recomputing.

python data/measure.py quickstart      about 10 minutes on two CPU cores
python data/measure.py sparsity        about 10: perplexity against sparsity, three methods, three draws
python data/measure.py calibration     about 10: how many samples, of which text, drawn with which seed
python data/measure.py groups          about 5: score × comparison group, three draws
python data/measure.py intervals       about 12: perplexity against sparsity, with the loss of every window
python data/measure.py zero_shot       about 30: seven tasks; dense, magnitude and Wanda at 50%
python data/measure.py recovery        about 20: LoRA and masked training after Wanda, and a dense control
python data/measure.py wikitext FILE   about 130: WikiText-2, windows of 2048, three methods and patterns

Writes data/results/NAME.json, which holds all that is needed to run it again; quickstart also draws NAME.png. The last
four write after every row, and go on where they were stopped. FILE: WikiText-2 raw test as .jsonl or .parquet with a
row a line of the text, or hub:wikitext2.
"""

import argparse
import copy
import datetime
import json
import time
from pathlib import Path

import pandas as pd
import torch

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
    plans = [("magnitude", 0, shares)]  # reads no text, so no draw changes it
    plans += [(method, seed, shares[first:]) for method, first in (("wanda", 0), ("sparsegpt", 4)) for seed in range(3)]
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
        for samples in (1, 4, 16, 64):
            for seed in range(3):
                tokens = wn.calibration_tokens(tokenizer, texts, samples=samples, length=128, seed=seed)
                rows.append({"source": name, "samples": samples, "length": 128, "seed": seed})
                rows[-1].update(one_run(model, heldout, tokens, method="wanda", sparsity=0.5))
    return {**about, "rows": rows}


def groups() -> dict:
    """Notebook 08: which scores may compete? 50%."""
    model, tokenizer, heldout, about = prepared()
    calibration = {"source": "c4", "samples": 16, "length": 128}
    draws = [wn.calibration_tokens(tokenizer, **calibration, seed=seed) for seed in range(3)]
    plans = [("magnitude", group, 1) for group in ("output", "input", "layer")]  # reads no text
    plans += [(method, group, 3) for method in ("wanda", "ria") for group in ("output", "input", "layer")]
    plans += [("wanda-variant", None, 3)]
    rows = [
        {"seed": seed, **one_run(model, heldout, draws[seed], method=method, group=group, sparsity=0.5)}
        for method, group, count in plans
        for seed in range(count)
    ]
    return {"calibration": calibration, **about, "rows": rows}


def rows_of(name: str, about: dict, plans: dict):
    """Measure a row for each plan and write the file after each; rows of a run that was stopped are kept.

    plans: {row name: function -> dict}.
    """
    path = RESULTS / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {key: record.get(key) for key in about} != json.loads(json.dumps(about)):
        record = {**about, "rows": []}  # other settings, or none yet
    for row, measure in plans.items():
        if row in [done["row"] for done in record["rows"]]:
            continue
        start = time.perf_counter()
        found = measure()
        record["rows"].append({"row": row, **found, "seconds": round(time.perf_counter() - start)})
        print(row, {key: value for key, value in found.items() if not isinstance(value, (list, dict))}, flush=True)
        yield record


def losses(model, heldout) -> dict:
    """The loss of every window, from which perplexity and intervals follow."""
    found = wn.window_losses(model, heldout)
    return {
        "perplexity": round(float(found.double().mean().exp()), 3),
        "losses": [round(loss, 5) for loss in found.tolist()],
    }


def pruned(model, tokens, **how):
    """A copy of the model, pruned."""
    copied = copy.deepcopy(model)
    wn.prune(copied, tokens, **how)
    return copied


def intervals():
    """Notebook 06: the same curve as `sparsity`, on more windows, each window's loss kept."""
    calibration = {"source": "c4", "samples": 16, "length": 256, "seed": 0}
    evaluation = {"source": "wikipedia", "length": 512, "windows": 32}
    model, tokenizer = wn.load_model()
    tokens = wn.calibration_tokens(tokenizer, **calibration)
    heldout = wn.evaluation_tokens(tokenizer, **evaluation)
    plans = {"dense": lambda: {"method": None, "sparsity": 0.0, **losses(model, heldout)}}
    for share in (0.5, 0.3, 0.6, 0.4, 0.7, 0.2):
        for method in ("magnitude", "wanda", "sparsegpt"):
            how = {"method": method, "sparsity": share}
            plans[f"{method} {share:.0%}"] = lambda how=how: {**how, **losses(pruned(model, tokens, **how), heldout)}
    yield from rows_of("intervals", {"calibration": calibration, "evaluation": evaluation, **versions(model)}, plans)


def zero_shot():
    """Notebook 06: right or wrong for every item, so that models can be compared on the same ones."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"source": "pinned", "limit": 200, "dtype": "bfloat16"}
    model, tokenizer = wn.load_model()
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def scored(model) -> dict:
        found = wn.zero_shot(model.to(torch.bfloat16), tokenizer, limit=evaluation["limit"])
        by_task = found.items.groupby("task", sort=False)
        items = {
            task: {
                metric: rows[metric].astype(int).tolist()
                for metric in ("acc", "acc_norm")
                if rows[metric].notna().all()
            }
            | {"choices": rows["choices"].tolist()}
            for task, rows in by_task
        }
        return {"mean": round(found.mean, 2), "items": items}

    plans = {
        "dense": lambda: scored(copy.deepcopy(model)),
        "magnitude 50%": lambda: scored(pruned(model, tokens, method="magnitude", sparsity=0.5)),
        "wanda 50%": lambda: scored(pruned(model, tokens, method="wanda", sparsity=0.5)),
    }
    yield from rows_of("zero_shot", {"calibration": calibration, "evaluation": evaluation, **versions(model)}, plans)


def recovery():
    """Notebook 07: what training wins back, and what of it is only the new text."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    training = {"source": "c4", "windows": 240, "length": 128, "seed": 1}
    evaluation = {"source": "wikipedia", "length": 512, "windows": 8}
    settings = {"steps": 60, "batch_size": 4, "every": 10}
    model, tokenizer = wn.load_model()
    heldout = wn.evaluation_tokens(tokenizer, **evaluation)
    text = wn.training_tokens(tokenizer, **training)
    calibrated = wn.calibration_tokens(tokenizer, **calibration)

    def trained(start, method: str) -> dict:
        run = wn.recover(start, text, method, heldout=heldout, **settings)
        found = {"steps": run.heldout["step"].tolist(), "perplexities": run.heldout["perplexity"].round(3).tolist()}
        found |= {
            "trainable": run.trainable,
            "parameters": run.parameters,
            "loss": run.losses["loss"].round(4).tolist(),
        }
        if method == "lora":
            merged, _ = wn.merge_lora(copy.deepcopy(run.model), keep_zeros=True)
            found |= {
                "merged under the mask": round(wn.perplexity(merged, heldout), 3),
                "sparsity": wn.sparsity(merged),
            }
        return found | {"after": losses(run.model, heldout)["losses"]}

    def wanda():
        return pruned(model, calibrated, method="wanda", sparsity=0.5)

    plans = {
        "wanda 50%, LoRA": lambda: trained(wanda(), "lora"),
        "dense, LoRA": lambda: trained(copy.deepcopy(model), "lora"),
        "wanda 50%, masked": lambda: trained(wanda(), "masked"),
        "dense, masked": lambda: trained(copy.deepcopy(model), "masked"),
    }
    about = {"calibration": calibration, "training": training, "evaluation": evaluation, "settings": settings}
    yield from rows_of("recovery", {**about, **versions(model)}, plans)


def wikitext(source: str):
    """Notebook 06 and the README: the paper's measure, on all of WikiText-2."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"text": "WikiText-2 raw, test", "length": 2048, "dtype": "bfloat16"}
    model, tokenizer = wn.load_model()
    heldout = wn.evaluation_tokens(tokenizer, source, length=evaluation["length"])
    evaluation["windows"] = len(heldout)
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def measured(model) -> dict:
        return losses(model.to(torch.bfloat16), heldout)

    plans = {"dense": lambda: {"method": None, "pattern": None, **measured(copy.deepcopy(model))}}
    for pattern in (None, "2:4", "4:8"):
        for method in ("wanda", "magnitude", "sparsegpt"):
            how = {"method": method, "pattern": pattern}
            plans[f"{method} {pattern or '50%'}"] = lambda how=how: {**how, **measured(pruned(model, tokens, **how))}
    yield from rows_of("wikitext", {"calibration": calibration, "evaluation": evaluation, **versions(model)}, plans)


def versions(model) -> dict:
    """Provenance without the date: a run may go on tomorrow, but not with other versions."""
    return {key: value for key, value in provenance(model).items() if key != "date"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = {"quickstart": quickstart, "sparsity": sparsity, "calibration": calibration, "groups": groups}
    by_row = {"intervals": intervals, "zero_shot": zero_shot, "recovery": recovery, "wikitext": wikitext}
    parser.add_argument("name", choices=[*whole, *by_row])
    parser.add_argument("source", nargs="*", metavar="FILE", help="for wikitext: where the text is")
    asked = parser.parse_args()
    plots.style()
    RESULTS.mkdir(exist_ok=True)
    command, path = f"python data/measure.py {asked.name}", RESULTS / f"{asked.name}.json"
    start = time.perf_counter()
    if asked.name in whole:
        record = {"command": command, **whole[asked.name]()}
        record["seconds"] = round(time.perf_counter() - start)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return
    for record in by_row[asked.name](*asked.source):
        record = {"command": command + " FILE" * len(asked.source), **record, "date": f"{datetime.date.today()}"}
        path.write_text(json.dumps(record, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
