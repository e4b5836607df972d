"""Records of measurements, row by row, each row with all that is needed to measure it again.

A record in data/results has the command, the settings of its experiment, `runs` (a list of provenances) and `rows`,
each with the number of its run. A stopped experiment goes on where it was. A row is kept only if it would be measured
the same way today: with the same settings, script, weights, text, packages and machine. Otherwise it is measured again,
and until then stays in the file with its old provenance. The commit is recorded, not compared: a change inside wanda_nb
drops no row.
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

PASSING = {"date", "commit"}  # may differ between rows that count as measured the same way


class Experiment(NamedTuple):
    """What is to be measured."""

    #: What it is calibrated, trained and evaluated on, as the record states it.
    settings: dict
    #: The model that every row starts from. Rows change copies, never this one.
    model: torch.nn.Module
    #: A name for each row, and a function that measures it.
    rows: dict[str, Callable[[], dict]]
    #: The keys of assets.WHEELS and the other files that are read.
    pinned: tuple[str, ...] = ("model", "text")
    files: tuple[Path, ...] = ()


def measure(experiment: Experiment, path: Path, command: str, scripts: Iterable[Path]) -> None:
    """Measure the rows that are missing or were measured in another way, and write the record after each.

    scripts: the files whose code decides what a row holds.
    """
    settings = json.loads(json.dumps(experiment.settings))
    made = provenance(experiment.model, data=assets.checksums(experiment.pinned, experiment.files))
    made = {"script": code_identity(scripts), **made}
    record = read(path)
    if {key: record.get(key) for key in settings} != settings:
        record = {"runs": [], "rows": []}  # numbers of different settings do not belong in one record
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
    """Add a row, or replace the old one of its name, and drop runs that no row names any more."""
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
    """A sha256 of the code of scripts, without comments, docstrings and layout."""
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
