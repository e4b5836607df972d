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
    """The result of ``zero_shot``; prints as a table."""

    #: One row per item: task, name (lm-eval's own, which differs in a group), item, choices, acc, acc_norm.
    items: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """One row per task: items, chance, and accuracies with their standard errors, in per cent.

        acc: the choice of the highest log-likelihood is right; acc_norm: of the highest log-likelihood per character.
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
        """How this model differs from another on the same items, in points of accuracy: one row per task.

        Columns: items, difference, low and high (95%, paired bootstrap), better, worse (items), p (McNemar).
        Raises ValueError if the items are not the same.
        """
        keys = ["task", "name", "item"]
        if not self.items[keys].equals(other.items[keys]):
            raise ValueError("The two were scored on different items: use the same tasks and the same limit for both.")
        rows = {}
        for task, items in self.items.groupby("task", sort=False):
            d = paired_difference(other.items.loc[items.index, "acc"], items["acc"])
            rows[task] = (len(items), 100 * d.value, 100 * d.low, 100 * d.high, d.higher, d.lower, d.p)
        columns = ["items", "difference", "low", "high", "better", "worse", "p"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

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
    """Accuracy on multiple-choice tasks without examples, with lm-eval's own prompts and metrics.

    tasks: names, by default the paper's seven; also ``"lambada_openai"`` and ``"mmlu"``. source: ``"pinned"`` needs no
    hub; ``"hub"`` has all of lm-eval's tasks that are scored by accuracy. limit: how many items of each task, from the
    first; by default all of the split that lm-eval scores (validation for BoolQ, RTE, HellaSwag and WinoGrande; test
    for the others). batch_size: prompts at a time. kept: a file that stores the answers as they come; after a kill, the
    same call goes on from it, and a power cut costs one batch. Raises ValueError, before anything is asked, for an
    unknown task, a limit below 2, and a file that holds anything but answers of this model, which is not changed.
    Introduced in notebook 07, "Seven tasks"; section 4 of the paper, on zero-shot performance.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 2):
        raise ValueError(f"limit={limit!r}: expected None, or a whole number of items of each task, at least 2.")
    loaded = load_tasks(tasks, source)
    batch_size = batch_size or (8 if model.device.type == "cpu" else 64)
    with evaluating(model), quiet():
        harness = make_harness(model, tokenizer, batch_size)
        if kept is None:
            return score_tasks(harness, loaded, limit)
        with remembering(harness, kept, {"model": identity(model), "tokenizer": tokenizer_identity(tokenizer)}) as lm:
            return score_tasks(lm, loaded, limit)


def score_tasks(lm, loaded: dict[str, dict], limit: int | None) -> ZeroShot:
    """The result of any of lm-eval's language models on the tasks of ``load_tasks``."""
    from lm_eval.evaluator import evaluate

    flat = {name: task for group in loaded.values() for name, task in group.items()}
    if written := [name for name, task in flat.items() if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood")]:
        raise ValueError(f"{', '.join(written)}: answers are written, not chosen. Expected tasks scored by accuracy.")
    for task in flat.values():
        task.set_config(key="num_fewshot", value=0)
    answers = evaluate(lm, flat, limit=limit, bootstrap_iters=0)["samples"]
    rows = [
        (task, name, answer["doc_id"], len(answer["arguments"]), answer["acc"], answer.get("acc_norm"))
        for task, group in loaded.items()
        for name in group
        for answer in sorted(answers[name], key=lambda answer: answer["doc_id"])
    ]
    items = pd.DataFrame(rows, columns=["task", "name", "item", "choices", "acc", "acc_norm"])
    return ZeroShot(items.astype({"acc": float, "acc_norm": float}))
