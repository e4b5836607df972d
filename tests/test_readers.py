"""Nothing that the package reads may run code: every call that reads a file, in a list, and what it refuses."""

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
    ("__main__", "from_pretrained"): "tokenizers: transformers' own, no remote code",
    ("assets", "open"): "pinned wheels, whose sha256 is checked before anything is unpacked",
    ("evaluation", "Kept"): "losses: JSON lines under a first line with the identity of model and text",
    ("harness", "Kept"): "answers: JSON lines under a first line with the identity of model and tokenizer",
    ("harness", "json.loads"): "the tokenizer's own description, from memory",
    ("kept", "json.loads"): "half-finished work and records: anything that is not ours, line by line",
    ("kept", "open"): "for writing, after __init__ has read it",
    ("kept", "os.open"): "no content: for fsync",
    ("kept", "read_bytes"): "half-finished work, refused unless the first line is ours",
    ("kept", "read_text"): "records, refused unless they are JSON with what was asked",
    ("memory", "open"): "hidden states of this very process",
    ("models", "from_pretrained"): "models and tokenizers: no remote code; weights by safetensors or weights_only",
    ("models", "json.loads"): "sizes of files in the cache",
    ("models", "read_text"): "sizes of files in the cache",
    ("recovery", "json.loads"): "run.json: refused unless every setting is this run's",
    ("recovery", "read_text"): "run.json",
    ("results", "json.loads"): "the repository's own records",
    ("results", "read_csv"): "the repository's own tables",
    ("results", "read_text"): "the repository's own records",
    ("runs", "json.loads"): "pruning.json: refused unless it was asked for the same",
    ("runs", "read_text"): "pruning.json",
    ("sharing", "safe_open"): "safetensors",
    ("shards", "json.loads"): "the index of a checkpoint",
    ("shards", "open"): "for fsync",
    ("shards", "os.open"): "no content: for fsync",
    ("shards", "read_text"): "the index of a checkpoint",
    ("shards", "safe_open"): "safetensors",
    ("skeleton", "from_pretrained"): "config.json: no remote code",
    ("tasks", "ipc.open_stream"): "Arrow tables of a pinned wheel",
    ("tasks", "json.loads"): "items of a pinned wheel",
    ("tasks", "open"): "items of a pinned wheel",
    ("text", "read_text"): "text",
    ("training", "load_from_json"): "trainer_state.json: JSON",
    ("training", "safe_open"): "safetensors, before the Trainer reads them",
    ("training", "torch.load"): "weights_only, before the Trainer reads them, which does so too",
}

READS = (
    r"(?<![\w.])(open|Kept|safe_open|load_dataset|memmap)\(|\b(os\.open|ipc\.open_stream|json\.loads?|torch\.load)\("
    r"|\.(open|read_text|read_bytes|read_csv|read_parquet|read_json|load_from_json|from_pretrained|load_file|fromfile)\("
    r"|\bnp\.(load|memmap|fromfile)\("
)


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
    found = set()
    for path in PACKAGE.rglob("*.py"):
        code = re.sub(r'""".*?"""|``.*?``|#.*', "", path.read_text(encoding="utf-8"))
        for match in re.finditer(READS, code):
            found.add((path.stem, match[0].strip(".(")))
    assert found == set(READERS)


def test_torch_load_is_told_to_read_weights_only():
    calls = [call for path in PACKAGE.rglob("*.py") for call in re.findall(r"torch\.load\(.*\)", path.read_text())]
    assert calls and all("weights_only=True" in call for call in calls)
    loads = [
        call
        for path in PACKAGE.rglob("*.py")
        for call in re.findall(r"from_pretrained\(\s*[a-z][^)]*\)", path.read_text())
        if "gguf_file" not in call  # of a pinned wheel
    ]
    assert len(loads) >= 6 and all("trust_remote_code=False" in call for call in loads), loads
