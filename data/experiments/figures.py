"""The README's pictures and tables, from what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import wanda_nb as wn
from wanda_nb import plots
from wanda_nb.evaluation.claims import ORDER, by_draw, way

NORMS = ("sequential", "dense norms")


def figures(folder: Path) -> None:
    """Draw the pictures into a folder and print the tables."""
    plots.style()
    drawn = {"intervals": plots.perplexity_intervals, "wikitext": plots.pattern_perplexities}
    for name, draw in drawn.items():
        rows = {row["row"]: row for row in wn.measured(name)["rows"]}
        dense = wn.perplexity_interval(rows.pop("dense")["losses"])
        table = [
            {
                **row,
                "method": way(row),
                "pattern": row.get("pattern") or "50%",
                **wn.perplexity_interval(row["losses"])._asdict(),
            }
            for row in rows.values()
        ]
        table.sort(key=lambda row: ("50%", "4:8", "2:4").index(row["pattern"]))  # from free choice to tight
        draw(pd.DataFrame(table), dense).savefig(folder / f"{name}.png", dpi=150)
    row = wn.measured("residency")["rows"][0]
    plots.residency(row["timeline"], row["predicted"]).savefig(folder / "residency.png", dpi=150)
    print(for_readme(wn.measured("wikitext")), scorecard_for_readme(wn.scorecard()), order_for_readme(), sep="\n\n")


def for_readme(record: dict) -> str:
    """WikiText-2 as the README's table: perplexity and its interval, by method and pattern."""
    cells = {}
    for row in record["rows"]:
        found = wn.perplexity_interval(row["losses"])
        cells[way(row), row["pattern"]] = f"{found.value:,.1f} ({found.low:,.1f}–{found.high:,.1f})"
    lines = [f"| dense: {cells['dense', None]} | 50% | 4:8 | 2:4 |", "|---|---|---|---|"]
    for method in ("magnitude", "wanda", "sparsegpt", "wanda + least squares"):
        lines.append(f"| {method} | " + " | ".join(cells.get((method, p), "") for p in (None, "4:8", "2:4")) + " |")
    return "\n".join(lines)


def scorecard_for_readme(card: pd.DataFrame) -> str:
    """The scorecard as the README's table: a row a claim, its verdict and number for each model."""
    lines = ["| | the paper's claim | here |", "|---|---|---|"]
    for number, rows in card.groupby("claim"):
        by_verdict = rows.groupby("verdict", sort=False)["model"].agg(", ".join)
        verdicts = "; ".join(f"**{v}**" + f" ({models})" * (len(by_verdict) > 1) for v, models in by_verdict.items())
        named = [row.model + f" ({row.draws} draws)" * (row.draws > 1) for row in rows.itertuples()]
        labels, _, values = zip(*(told.partition(": ") for told in rows["number"]), strict=True)
        told = list(filter(None, rows["number"]))
        if len(rows) > 1 and len(set(labels)) == 1:  # said once
            told = [f"{labels[0]}: " + " · ".join(f"{name} {v}" for name, v in zip(named, values, strict=True))]
        elif len(rows) > 1:
            told = [f"{name}: {number}" for name, number in zip(named, rows["number"], strict=True)]
        lines.append(f"| {number} | {rows['says'].iloc[0]} | {'; '.join([verdicts, *told])} |")
    return "\n".join(lines)


def order_for_readme() -> str:
    """Norms of the pruned blocks so far against those of the dense model, as the README's table.

    Perplexities are means over draws; after them, the difference of each draw in nats per token.
    """
    cells: dict[str, list[str]] = {}
    for record in ORDER.values():
        losses = by_draw(wn.measured(record)["rows"])
        for setting in dict.fromkeys(setting for norms, setting in losses if norms in NORMS):
            of_loop, of_dense = (losses[norms, setting] for norms in NORMS)
            both = np.array([(of_loop[draw], of_dense[draw]) for draw in of_loop if draw in of_dense])
            in_order, dense = np.exp(both.mean(axis=2)).mean(axis=0)
            by_seed = " ".join(f"{d:+.3f}".replace("-", "−") for d in (both[:, 1] - both[:, 0]).mean(axis=1))
            cells.setdefault(setting, []).append(f"{in_order:,.1f} → {dense:,.1f} ({by_seed})")
    lines = ["| in order → dense norms | SmolLM2-135M | Gemma 3 270M |", "|---|---|---|"]
    return "\n".join(lines + [f"| {setting} | {' | '.join(two)} |" for setting, two in cells.items()])
