"""Measure what the README shows and notebooks plot without recomputing.

python data/measure.py sparsity        perplexity against sparsity, three methods, three draws: 10 minutes on two cores
python data/measure.py calibration     how many samples, of which text, drawn with which seed: 10 minutes
python data/measure.py groups          score × comparison group, three draws: 5 minutes
python data/measure.py intervals       perplexity against sparsity, with the loss of every window: 12 minutes
python data/measure.py zero_shot       seven tasks; dense, magnitude and Wanda at 50%: 30 minutes
python data/measure.py thousand        the same on up to 1,000 items of each task, not 200: an hour
python data/measure.py recovery        LoRA and masked training after Wanda, and dense controls: 35 minutes
python data/measure.py wikitext FILE   WikiText-2, windows of 2048, three methods and patterns: 100 minutes
python data/measure.py figures         the README's pictures and table, from the files there are: at once

Writes data/results/NAME.json, which holds all that is needed to run it again. Those by row (intervals, zero_shot,
thousand, recovery, wikitext) write after each, and go on where they were stopped. FILE: WikiText-2 raw test as .jsonl
or .parquet with a row a line of the text, or hub:wikitext2.
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


def zero_shot(name: str = "zero_shot", limit: int = 200):
    """Notebook 06: seven tasks, right or wrong for every item, so that models can be compared on the same ones."""
    calibration = {"source": "c4", "samples": 128, "length": 256, "seed": 0}
    evaluation = {"source": "pinned", "limit": limit, "dtype": "bfloat16"}
    model, tokenizer = wn.load_model()
    tokens = wn.calibration_tokens(tokenizer, **calibration)

    def scored(model) -> dict:
        found, items = wn.zero_shot(model.to(torch.bfloat16), tokenizer, limit=limit), {}
        for task, rows in found.items.groupby("task", sort=False):
            metrics = [metric for metric in ("acc", "acc_norm") if rows[metric].notna().all()]
            items[task] = {metric: rows[metric].astype(int).tolist() for metric in metrics}
            items[task]["choices"] = rows["choices"].tolist()
        return {"mean": round(found.mean, 2), "items": items}

    plans = {
        "dense": lambda: scored(copy.deepcopy(model)),
        "magnitude 50%": lambda: scored(pruned(model, tokens, method="magnitude", sparsity=0.5)),
        "wanda 50%": lambda: scored(pruned(model, tokens, method="wanda", sparsity=0.5)),
    }
    yield from rows_of(name, {"calibration": calibration, "evaluation": evaluation, **versions(model)}, plans)


def thousand():
    """Notebook 06: the same on the first thousand items of each task, of which 800 are fresh."""
    yield from zero_shot("thousand", 1000)


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

    def trained(start, method: str, rate: float | None = None) -> dict:
        before = losses(start, heldout)["losses"]
        run = wn.recover(start, text, method, heldout=heldout, learning_rate=rate, **settings)
        found = {
            "learning_rate": rate,
            "before": before,
            "steps": run.heldout["step"].tolist(),
            "perplexities": run.heldout["perplexity"].round(3).tolist(),
        }
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

    fast = 1e-3  # ten times the published rate: there is a thousandth of the published text

    def wanda():
        return pruned(model, calibrated, method="wanda", sparsity=0.5)

    plans = {
        "wanda 50%, LoRA": lambda: trained(wanda(), "lora"),
        "dense, LoRA": lambda: trained(copy.deepcopy(model), "lora"),
        "wanda 50%, fast LoRA": lambda: trained(wanda(), "lora", fast),
        "dense, fast LoRA": lambda: trained(copy.deepcopy(model), "lora", fast),
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


def for_readme(record: dict) -> str:
    """WikiText-2 as the README's table: perplexity and its interval, by method and pattern."""
    cells = {}
    for row in record["rows"]:
        found = wn.perplexity_interval(row["losses"])
        cells[row["method"], row["pattern"]] = f"{found.value:,.1f} ({found.low:,.1f}–{found.high:,.1f})"
    lines = [f"| dense: {cells[None, None]} | 50% | 4:8 | 2:4 |", "|---|---|---|---|"]
    for method in ("magnitude", "wanda", "sparsegpt"):
        lines.append(f"| {method} | " + " | ".join(cells.get((method, p), "") for p in (None, "4:8", "2:4")) + " |")
    return "\n".join(lines)


def figures() -> None:
    """The README's pictures, from what is measured."""
    drawn = {"intervals": plots.perplexity_intervals, "wikitext": plots.pattern_perplexities}
    for name, draw in drawn.items():
        rows = {row["row"]: row for row in wn.measured(name)["rows"]}
        dense = wn.perplexity_interval(rows.pop("dense")["losses"])
        table = [
            {**row, "pattern": row.get("pattern") or "50%", **wn.perplexity_interval(row["losses"])._asdict()}
            for row in rows.values()
        ]
        draw(pd.DataFrame(table), dense).savefig(RESULTS / f"{name}.png", dpi=150)
    print(for_readme(wn.measured("wikitext")))


def versions(model) -> dict:
    """Provenance without the date: a run may go on tomorrow, but not with other versions."""
    return {key: value for key, value in provenance(model).items() if key != "date"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = {"sparsity": sparsity, "calibration": calibration, "groups": groups}
    by_row = {
        "intervals": intervals,
        "zero_shot": zero_shot,
        "thousand": thousand,
        "recovery": recovery,
        "wikitext": wikitext,
    }
    parser.add_argument("name", choices=[*whole, *by_row, "figures"])
    parser.add_argument("source", nargs="*", metavar="FILE", help="for wikitext: where the text is")
    asked = parser.parse_args()
    plots.style()
    RESULTS.mkdir(exist_ok=True)
    if asked.name == "figures":
        return figures()
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
