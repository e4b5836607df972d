"""Where texts come from: pinned packages, a hub, files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from . import assets

# How many documents of the hub's C4 to read: the head of its first shard, which the published code reads whole.
HUB_C4_DOCUMENTS = 20_000
C4_SHARD = {"train": "en/c4-train.00000-of-01024.json.gz"}


def documents(source) -> list[str]:
    """The texts that a source names, in a fixed order.

    source: ``"c4"`` or ``"wikipedia"`` (pinned, no hub needed), ``"hub:c4"`` or ``"hub:wikitext2"``, a list of strings,
    or the path of a .txt file, which is one document, or of a .jsonl, .json.gz or .parquet file, with one in the
    ``text`` column of each row. Raises ValueError for anything else, DownloadError if it cannot be fetched.
    """
    if isinstance(source, (list, tuple)):
        return list(source)
    if source in _SOURCES:
        return _SOURCES[source]()
    path = Path(source)
    if path.suffix == ".txt" and path.is_file():
        return [path.read_text(encoding="utf-8")]
    return list(local_rows(path)["text"])


def _c4() -> list[str]:
    lines = assets.fetch("text")["c4.utf8"].read_text(encoding="utf-8").split("\n")
    menus = 9  # the first lines are the menus of web pages, not prose
    return list(dict.fromkeys(line for line in lines[menus:] if line.strip()))


def _wikipedia() -> list[str]:
    text = assets.fetch("text")["wiki.utf8"].read_text(encoding="utf-8")
    articles = re.findall(r"<doc [^>]*>\n(.*?)\n</doc>", text, flags=re.DOTALL)
    return [article.strip() for article in articles if len(article) > 200]  # many are a bare title


def local_rows(path):
    """The rows of a file of texts, left on disk until they are read. Raises ValueError for any other file."""
    path = Path(path)
    kinds = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    kind = kinds.get(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)
    if kind is None or not path.is_file():
        raise ValueError(
            f"No text source {str(path)!r}: expected one of {', '.join(_SOURCES)}, "
            "the path of an existing .txt, .jsonl, .json.gz or .parquet file, or a list of strings."
        )
    import datasets

    return datasets.load_dataset(kind, data_files=os.fspath(path), split="train")


def hub_rows(repository: str, **options):
    """The rows of a dataset on the hub. Raises DownloadError if it cannot be read."""
    import datasets

    try:
        return datasets.load_dataset(repository, **options)
    except OSError as error:
        raise assets.DownloadError(
            f"{repository} could not be read from the hub: {str(error).splitlines()[0]}. "
            "Without a hub, use source='c4' or source='wikipedia', or the path of a text file."
        ) from error


def _hub_c4() -> list[str]:
    rows = hub_rows("allenai/c4", data_files=C4_SHARD, split="train", streaming=True)
    return [row["text"] for row in rows.take(HUB_C4_DOCUMENTS)]


def _hub_wikitext2() -> list[str]:
    return list(hub_rows("Salesforce/wikitext", name="wikitext-2-raw-v1", split="test")["text"])


_SOURCES = {"c4": _c4, "wikipedia": _wikipedia, "hub:c4": _hub_c4, "hub:wikitext2": _hub_wikitext2}
