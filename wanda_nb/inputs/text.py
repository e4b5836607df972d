"""Tokenised calibration and evaluation windows.

A *document* is a string; a *window* is a row of token ids. Calibration draws windows at random, as
the published code does; evaluation cuts all the text into windows that follow one another.

How windows begin: with ``bos=True``, each with BOS, followed by length - 1 tokens of text (ValueError if the tokenizer
has no BOS); with ``False``, with text, to which the tokenizer adds nothing; with ``None``, as the family needs it. That
is True for Gemma (1 to 4) and Cohere, which break down without BOS and are recognised by its spelling (``NEED_BOS``).
For all others, LLaMA among them, windows are cut as published, after the tokenizer has put its BOS, if any, before each
text.
"""

from __future__ import annotations

import math
import random

import torch

from ..blocks import input_embeddings
from .documents import C4_SHARD, documents, hub_rows, local_rows

# Gemma: github.com/EleutherAI/lm-evaluation-harness/pull/1465; Cohere: ExLlamaV2's ``requires_bos``.
NEED_BOS = ("<bos>", "<BOS_TOKEN>")


def calibration_tokens(tokenizer, source="c4", samples: int = 16, length: int = 256, seed: int = 0, bos=None):
    """Random windows for calibration, LongTensor (samples, length).

    As published: a random document longer than the window, then a random window in it; here no document is used twice.
    If too few documents are long enough, all are joined in random order, with an end-of-text token between them, and
    cut into windows that do not overlap.
    source: see ``documents``. length: in tokens. bos: how windows begin, see ``wanda_nb.inputs.text``.
    Raises ValueError if there is too little text.
    Introduced in notebook 00, "Calibration"; settings in section 4 of the paper.
    """
    _positive(samples=samples, length=length)
    prefix, body = _beginning(tokenizer, bos, length)
    draw, texts = random.Random(seed), documents(source)
    draw.shuffle(texts)
    ids = _tokenise(tokenizer, texts, prefix)
    long = [row for row in ids if len(row) > body]
    if len(long) >= samples:
        starts = [draw.randrange(len(row) - body) for row in long[:samples]]
        return _windows((row[start : start + body] for row, start in zip(long, starts, strict=False)), prefix)
    return _consecutive(_joined(tokenizer, ids), prefix, body, samples, source)


def published_windows(tokenizer, source="hub:c4", samples: int = 128, length: int = 2048, seed: int = 0, bos=None):
    """The windows that the published code draws with this seed and tokenizer, LongTensor (samples, length).

    Documents are drawn at random until one is longer than the window, then a window in it; a document may be used
    twice. Only drawn documents are tokenised.
    source: ``"hub:c4"``, which reads the one shard that the published code reads, or the path of another shard (.json,
    .jsonl, also .gz; .parquet).
    bos: how windows begin, see ``wanda_nb.inputs.text``; None is as published, except for families that need BOS.
    Raises ValueError if no document is long enough.
    Introduced in notebook 10; section 4 of the paper.
    """
    _positive(samples=samples, length=length)
    prefix, body = _beginning(tokenizer, bos, length)
    rows = hub_rows("allenai/c4", data_files=C4_SHARD, split="train") if source == "hub:c4" else local_rows(source)
    draw, tries = random.Random(seed), 0
    windows: list[list[int]] = []
    while len(windows) < samples:
        ids = _tokenise(tokenizer, [rows[draw.randint(0, len(rows) - 1)]["text"]], prefix)[0]
        tries += 1
        if len(ids) > body:
            start = draw.randint(0, len(ids) - body - 1)
            windows.append(ids[start : start + body])
        elif tries > 100 * (len(windows) + 1) + 20 * len(rows):
            raise ValueError(
                f"Too little text: {tries} draws from the {len(rows)} documents of {str(source)!r} gave {len(windows)} "
                f"longer than {body} tokens, {samples} requested. Ask for shorter windows, or give another shard."
            )
    return _windows(windows, prefix)


def training_tokens(tokenizer, source="c4", windows: int | None = None, length: int = 1024, seed: int = 0, bos=None):
    """Packed windows for training, LongTensor (windows, length): none of the text is left out or padded.

    Documents are joined in random order, with an end-of-text token between them, and cut into windows that do not
    overlap. source: see ``documents``. windows: how many, by default all. bos: how windows begin, see
    ``wanda_nb.inputs.text``.
    Raises ValueError if there is too little text.
    Introduced in notebook 08, "LoRA with peft".
    """
    _positive(length=length, windows=1 if windows is None else windows)
    prefix, body = _beginning(tokenizer, bos, length)
    texts = documents(source)
    random.Random(seed).shuffle(texts)
    return _consecutive(_joined(tokenizer, _tokenise(tokenizer, texts, prefix)), prefix, body, windows, source)


def evaluation_tokens(
    tokenizer, source="wikipedia", length: int = 512, windows: int | None = None, bos=None, spread: bool = False
):
    """Windows for perplexity, one after another through the text, LongTensor (windows, length).

    The published protocol: all documents are joined by two newlines, tokenised once and cut into windows that do not
    overlap; the tail is dropped. source: see ``documents``. windows: how many, by default all: from the first, or, with
    spread, evenly from the whole text, since a text's first windows may be easier than the rest. bos: how windows
    begin, see ``wanda_nb.inputs.text``. Raises ValueError if there is too little text.
    Introduced in notebook 00, "Perplexity"; the protocol's traps are in notebook 06.
    """
    _positive(length=length, windows=1 if windows is None else windows)
    prefix, body = _beginning(tokenizer, bos, length)
    (ids,) = _tokenise(tokenizer, ["\n\n".join(documents(source))], prefix)
    return _consecutive(ids, prefix, body, windows, source, spread)


def check_tokens(model, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
    """Raise ValueError unless tokens (samples, length) are windows that the model can read."""
    if not isinstance(tokens, torch.Tensor) or tokens.ndim != 2 or tokens.dtype not in (torch.int64, torch.int32):
        given = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise ValueError(f"tokens is {given}: expected a LongTensor (windows, length), as calibration_tokens gives.")
    if tokens.numel() == 0:
        raise ValueError(
            f"There is no text: tokens is empty, {tuple(tokens.shape)}. Expected at least one window of one token."
        )
    vocabulary = getattr(input_embeddings(model), "num_embeddings", math.inf)  # a model may not say which they are
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"Token ids from {low} to {high}: the model knows 0 to {vocabulary - 1}. Use the model's own tokenizer."
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and tokens.shape[1] > longest:
        raise ValueError(
            f"Windows of {tokens.shape[1]} tokens, but the model reads at most {longest}: use shorter ones."
        )
    if attention_mask is None:
        return
    if attention_mask.shape != tokens.shape:
        shapes = f"attention_mask is {tuple(attention_mask.shape)}, tokens {tuple(tokens.shape)}"
        raise ValueError(f"{shapes}: expected the same shape.")
    if not bool(attention_mask.any()):
        raise ValueError("attention_mask hides every token: expected at least one that counts, marked 1.")


def _beginning(tokenizer, bos: bool | None, length: int) -> tuple[list[int] | None, int]:
    """The tokens before the text of each window (None: the tokenizer decides), and the number of tokens of text."""
    if bos is None and getattr(tokenizer, "bos_token", None) not in NEED_BOS:
        return None, length
    if bos is False:
        return [], length
    if (bos_id := getattr(tokenizer, "bos_token_id", None)) is None or length < 2:
        problem = "the tokenizer has no BOS token" if bos_id is None else "length=1 leaves no room for text, expected 2"
        raise ValueError(f"Windows are to begin with BOS, but {problem}. Without BOS: bos=False.")
    return [bos_id], length - 1


def begin_with_bos(model, tokens, attention_mask: torch.Tensor | None = None) -> bool | None:
    """Whether every window (samples, length) begins with the model's BOS, after any padding; None if it has none.

    tokens: or a dict of inputs, whose ``input_ids`` are meant; None if there are none.
    """
    if (tokens := tokens if isinstance(tokens, torch.Tensor) else tokens.get("input_ids")) is None:
        return None
    configs = (model.config.get_text_config(), getattr(model, "generation_config", None))
    bos = next((token for config in configs if (token := getattr(config, "bos_token_id", None)) is not None), None)
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(tokens.device).int()
    first = tokens.gather(1, mask.argmax(dim=1, keepdim=True))
    return None if bos is None else bool((first == bos).all())


def _tokenise(tokenizer, texts: list[str], prefix: list[int] | None) -> list[list[int]]:
    settings = {} if prefix is None else {"add_special_tokens": False}
    ids = tokenizer(texts, verbose=False, **settings)["input_ids"] if texts else []
    return [row[1:] if prefix and row[:1] == prefix else row for row in ids]  # the text of a chat may contain BOS


def _joined(tokenizer, ids: list[list[int]]) -> list[int]:
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return [token for row in ids for token in row + end]


def _consecutive(ids: list[int], prefix, body: int, windows: int | None, source, spread: bool = False) -> torch.Tensor:
    available = len(ids) // body
    requested = available if windows is None else windows
    if not 0 < requested <= available:
        name = f"{len(source)} strings" if isinstance(source, (list, tuple)) else repr(str(source))
        raise ValueError(
            f"Too little text: {name} gives {available} windows of {body} tokens ({len(ids)} tokens in all), "
            f"{requested or 1} requested. Ask for fewer or shorter windows, or give more text."
        )
    numbers = (i * available // requested if spread else i for i in range(requested))
    return _windows((ids[i * body : (i + 1) * body] for i in numbers), prefix)


def _windows(texts, prefix: list[int] | None) -> torch.Tensor:
    return torch.tensor([(prefix or []) + ids for ids in texts])


def _positive(**numbers) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r}: expected a whole number of at least 1.")
