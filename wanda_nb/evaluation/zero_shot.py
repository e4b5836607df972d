"""Accuracy on zero-shot tasks, item by item."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..blocks import evaluating
from ..inputs.tasks import PAPER_TASKS, load_tasks, quiet
from ..reporting.identity import identity
from .harness import make_harness, remembering, tokenizer_identity
from .uncertainty import paired_difference


@dataclass
class ZeroShot:
    """What ``zero_shot`` found; prints as a table."""

    #: A row an item: task, name (lm-eval's own, which differs in a group), item, choices, acc, acc_norm.
    items: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """A row a task: items, chance, and accuracies with their standard errors, all in per cent.

        acc: the choice with the highest log-likelihood is right; acc_norm: the one with the highest for each character.
        """
        by_task = self.items.groupby("task", sort=False)
        table = pd.DataFrame(
            {"items": by_task.size(), "chance": 100 * by_task["choices"].agg(lambda n: (1 / n).mean())}
        )
        for metric in ("acc", "acc_norm"):
            table[metric] = 100 * by_task[metric].mean()
            table[f"{metric} ±"] = 100 * by_task[metric].sem()
        return table.rename_axis(None)

    @property
    def mean(self) -> float:
        """The unweighted mean over tasks of acc, in per cent, as the paper takes it."""
        return float(self.table["acc"].mean())

    def against(self, other: ZeroShot) -> pd.DataFrame:
        """How this model differs from another on the same items, in points of accuracy: a row a task.

        Columns: items, difference, low and high (95%, paired bootstrap), better, worse (items), p (McNemar).
        Raises ValueError where the items are not the same.
        """
        keys = ["task", "name", "item"]
        if not self.items[keys].equals(other.items[keys]):
            raise ValueError("The two were scored on different items: use the same tasks and the same limit for both.")
        rows = {}
        for task, mine in self.items.groupby("task", sort=False):
            d = paired_difference(other.items.loc[mine.index, "acc"], mine["acc"])
            rows[task] = (len(mine), 100 * d.value, 100 * d.low, 100 * d.high, d.higher, d.lower, d.p)
        names = ["items", "difference", "low", "high", "better", "worse", "p"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=names)

    def __repr__(self) -> str:
        table = self.table.drop(columns=[c for c in self.table if self.table[c].isna().all()])
        return f"{table.to_string(float_format='{:.1f}'.format, na_rep='–')}\nmean acc {self.mean:.2f}"


def zero_shot(
    model,
    tokenizer,
    tasks=PAPER_TASKS,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    source: str = "pinned",
    kept=None,
) -> ZeroShot:
    """Accuracy on multiple-choice tasks without examples, by lm-eval's own prompts and metrics.

    tasks: names, by default the paper's seven; also ``"lambada_openai"`` and ``"mmlu"``. source: ``"pinned"`` needs no
    hub, ``"hub"`` knows all of lm-eval's that are scored by accuracy. limit: the first so many items of each task; by
    default all of the split that lm-eval scores (validation for BoolQ, RTE, HellaSwag and WinoGrande; test for the
    others). batch_size: prompts at a time. kept: a file for the answers as they come; killed, the same call goes on
    from it, and a power cut costs one batch. Raises ValueError, before anything is asked, for an unknown task or limit,
    and for a file that holds anything but answers of this model, which is left as it is.
    Introduced in notebook 06, "Seven tasks"; section 4 of the paper, on zero-shot performance.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 2):
        raise ValueError(f"limit={limit!r}: expected None, or a whole number of items for each task, at least 2.")
    loaded = load_tasks(tasks, source)
    batch_size = batch_size or (8 if model.device.type == "cpu" else 64)
    with evaluating(model), quiet():
        harness = make_harness(model, tokenizer, batch_size)
        if kept is None:
            return _scored(harness, loaded, limit)
        with remembering(harness, kept, {"model": identity(model), "tokenizer": tokenizer_identity(tokenizer)}) as lm:
            return _scored(lm, loaded, limit)


def _scored(lm, loaded: dict[str, dict], limit: int | None) -> ZeroShot:
    """Put to any language model of lm-eval's kind the tasks of ``load_tasks``."""
    from lm_eval.evaluator import evaluate

    flat = {name: task for group in loaded.values() for name, task in group.items()}
    if written := [name for name, task in flat.items() if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood")]:
        raise ValueError(f"{', '.join(written)}: answers are written, not chosen. Expected tasks scored by accuracy.")
    for task in flat.values():
        task.set_config(key="num_fewshot", value=0)
    answers = evaluate(lm, flat, limit=limit, bootstrap_iters=0)["samples"]
    rows = [
        (asked, name, answer["doc_id"], len(answer["arguments"]), answer["acc"], answer.get("acc_norm"))
        for asked, group in loaded.items()
        for name in group
        for answer in sorted(answers[name], key=lambda answer: answer["doc_id"])
    ]
    items = pd.DataFrame(rows, columns=["task", "name", "item", "choices", "acc", "acc_norm"])
    return ZeroShot(items.astype({"acc": float, "acc_norm": float}))
