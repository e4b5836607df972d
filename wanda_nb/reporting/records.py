"""Records of what we measured, and tables of what others published."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

PACKAGE = Path(__file__).parents[1]


def measured(name: str) -> dict:
    """A record in data/results, with everything needed to measure it again.

    Raises FileNotFoundError for any other name. Introduced in notebook 03, "What lies on the device, and when".
    """
    return json.loads(recorded(f"results/{name}.json").read_text(encoding="utf-8"))


def published(name: str) -> pd.DataFrame:
    """A table in data/paper of published numbers; each row names its source and how far to trust it.

    grade: A, the authors' own words or repository; B, another research repository; C, secondary notes. Unknown values
    are missing. Raises FileNotFoundError for any other name.
    Introduced in notebook 10, "What was published".
    """
    counts = {"context": "Int64", "samples": "Int64"}
    return pd.read_csv(recorded(f"paper/{name}.csv"), dtype=counts)


def recorded(path: str) -> Path:
    """A file of the repository's data folder, which a built package carries inside."""
    for folder in (PACKAGE.parent / "data", PACKAGE / "data"):
        if (folder / path).is_file():
            return folder / path
    raise FileNotFoundError(f"There is no data/{path}: expected one of the files that data/README.md names.")
