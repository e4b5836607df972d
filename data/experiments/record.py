"""A record of measurements: rows that are measured one by one, each with all that is needed to get it again.

A record in data/results has the command, the settings of its experiment, `runs` (provenance by run number) and `rows`,
of which each names its run. A stopped experiment goes on where it was. A row is kept only if it would be measured the
same way today: the same settings, script, weights, text, packages and machine. Otherwise it is measured again, and
stands in the file until then, under the provenance that it had.
"""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from wanda_nb.files import write_text
from wanda_nb.inputs import assets
from wanda_nb.reporting.progress import duration
from wanda_nb.reporting.provenance import provenance

PASSING = {"date", "commit"}  # what may differ between rows that were measured alike


class Experiment(NamedTuple):
    """What is to be measured."""

    #: What it is calibrated, trained and evaluated on, as the record says it.
    settings: dict
    #: The model that every row starts from; copies are changed, never this one.
    model: torch.nn.Module
    #: A name for each row, and a function that measures it.
    rows: dict[str, Callable[[], dict]]
    #: Keys of assets.WHEELS that are read, and other files.
    pinned: tuple[str, ...] = ("model", "text")
    files: tuple[Path, ...] = ()


def measure(experiment: Experiment, path: Path, command: str, scripts: Iterable[Path]) -> None:
    """Measure the rows that are missing or were measured otherwise, and write the record after each.

    scripts: the files whose code decides what a row is.
    """
    settings = json.loads(json.dumps(experiment.settings))
    made = provenance(experiment.model, data=assets.checksums(experiment.pinned, experiment.files))
    made = {"script": code_identity(scripts), **made}
    record = read(path)
    if {key: record.get(key) for key in settings} != settings:
        record = {"runs": [], "rows": []}  # the numbers of other settings belong under no common heading
    rows = [row for row in record["rows"] if row["row"] in experiment.rows]
    record = {"command": command, **settings, "runs": record["runs"], "rows": rows}
    missing = [name for name in experiment.rows if not _kept(record, name, made)]
    print(f"{path.name}: {len(experiment.rows) - len(missing)} rows kept, {len(missing)} to be measured", flush=True)
    seconds: list[float] = []
    for name in missing:
        start = time.perf_counter()
        found = experiment.rows[name]()
        seconds.append(time.perf_counter() - start)
        _put(record, {"row": name, **found, "seconds": round(seconds[-1])}, made, list(experiment.rows))
        write_text(path, json.dumps(record, indent=None) + "\n")
        rest = (len(missing) - len(seconds)) * sum(seconds) / len(seconds)
        shown = {key: value for key, value in found.items() if not isinstance(value, (list, dict))}
        print(name, shown, f"· {duration(seconds[-1])}, about {duration(rest)} to go", flush=True)


def read(path: Path) -> dict:
    """A record, or an empty one where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": [], "rows": []}


def _alike(run: dict, made: dict) -> bool:
    return {**run, **dict.fromkeys(PASSING)} == {**made, **dict.fromkeys(PASSING)}


def _kept(record: dict, name: str, made: dict) -> bool:
    rows = [row for row in record["rows"] if row["row"] == name]
    return bool(rows) and _alike(record["runs"][rows[0]["run"]], made)


def _put(record: dict, row: dict, made: dict, order: list[str]) -> None:
    """Put a row in the place of an old one; runs that no row names any more are dropped."""
    rows = [old for old in record["rows"] if old["row"] != row["row"]]
    runs = record["runs"]
    if made not in runs:
        runs.append(made)
    rows.append({**row, "run": runs.index(made)})
    rows.sort(key=lambda row: order.index(row["row"]))
    used = sorted({row["run"] for row in rows})
    record["runs"] = [runs[number] for number in used]
    record["rows"] = [{**row, "run": used.index(row["run"])} for row in rows]


def code_identity(scripts: Iterable[Path]) -> str:
    """A sha256 of what scripts do: comments, docstrings and layout do not count."""
    found = hashlib.sha256()
    for script in scripts:
        tree = ast.parse(script.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                node.body = [line for line in body if not _is_text(line)]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
