"""Measure what the README shows and what notebooks plot without computing it again.

python data/measure.py sparsity        perplexity against sparsity, three methods, three draws
python data/measure.py calibration     how many samples, of which text, drawn with which seed
python data/measure.py groups          score × comparison group, three draws
python data/measure.py intervals       perplexity against sparsity, with the loss of every window
python data/measure.py zero_shot       seven tasks; dense, and four methods at 50%
python data/measure.py thousand        the same on up to 1,000 items of each task, not 200
python data/measure.py recovery        LoRA and masked training after Wanda, and dense controls
python data/measure.py wikitext FILE   WikiText-2, windows of 2048, four methods and three patterns
python data/measure.py decisive FILE   four methods after 1 to 128 windows, judged on C4 and on WikiText-2
python data/measure.py second FILE     the same after 64 windows, on Gemma 3 270M, whose terms you accept by running it
python data/measure.py order           norms of the pruned model so far against those of the dense one, three draws
python data/measure.py order_gemma     the same on Gemma 3 270M
python data/measure.py updates         each mask without an update, with OBS and with least squares
python data/measure.py damping         two updates with three dampings, after 1, 16 and 64 windows
python data/measure.py formats         dense and Wanda at 50%, at 16, 8 and 4 bits a weight: loss and bytes
python data/measure.py figures         the README's pictures and tables, from the files there are: at once

Writes data/results/NAME.json row by row and, if it was stopped, goes on where it was; --list says how long the stored
rows took. Runs on the best device there is.
FILE: WikiText-2 raw test as .jsonl or .parquet, one row per line of the text, or hub:wikitext2.
"""

import argparse
import sys
from pathlib import Path

from experiments import (
    ablations,
    damping,
    decisive,
    figures,
    formats,
    intervals,
    order,
    record,
    recovery,
    steps,
    updates,
    wikitext,
    zero_shot,
)

from wanda_nb.reporting.progress import duration

RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = {
    "sparsity": ablations.sparsity,
    "calibration": ablations.calibration,
    "groups": ablations.groups,
    "intervals": intervals.intervals,
    "zero_shot": zero_shot.zero_shot,
    "thousand": zero_shot.thousand,
    "recovery": recovery.recovery,
    "wikitext": wikitext.wikitext,
    "decisive": decisive.decisive,
    "second": decisive.second,
    "order": order.order,
    "order_gemma": order.order_gemma,
    "updates": updates.updates,
    "damping": damping.damping,
    "formats": formats.formats,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*EXPERIMENTS, "figures"], nargs="?")
    parser.add_argument("source", nargs="*", metavar="FILE", help="where the text is, for those that name it")
    parser.add_argument("--list", action="store_true", help="how long the stored rows took, on which device")
    arguments = parser.parse_args()
    if arguments.list or arguments.name is None:
        for name in EXPERIMENTS:
            print(f"{name:12} {stored(name)}")
        return
    if arguments.name == "figures":
        return figures.figures(RESULTS)
    experiment = EXPERIMENTS[arguments.name]
    scripts = [Path(sys.modules[experiment.__module__].__file__), Path(steps.__file__)]
    command = f"python data/measure.py {arguments.name}" + " FILE" * len(arguments.source)
    record.measure(experiment(*arguments.source), RESULTS / f"{arguments.name}.json", command, scripts)


def stored(name: str) -> str:
    """How long the rows of a record took when they were measured."""
    found = record.read(RESULTS / f"{name}.json")
    timed = [row["seconds"] for row in found["rows"] if "seconds" in row]
    devices = {run["device"] for run in found["runs"]}
    time = f"{len(timed)} of them in {duration(sum(timed))}" if timed else "their times were not noted"
    return f"{len(found['rows'])} rows, {time}, on {' and '.join(sorted(devices))}"


if __name__ == "__main__":
    main()
