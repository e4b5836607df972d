"""A tokenizer as GGUF describes it: tokens, what kind each is, and the order in which they are merged."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from gguf import TokenType

SPACE = "▁"  # what SentencePiece writes for a space

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: llama.cpp's name for how byte-level BPE cuts text before it merges, and whether it takes whole words first.
PRE_TOKENIZERS = {
    ((("ByteLevel", True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", True)), False): "smollm",
    ((("Split", _WORDS % "{1,3}", "Isolated", False), ("ByteLevel", False)), True): "llama-bpe",
    ((("Split", _WORDS % "", "Isolated", False), ("ByteLevel", False)), False): "qwen2",
}


class Vocabulary(NamedTuple):
    """What the file says of a tokenizer."""

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    #: Of SentencePiece alone: pieces that make the token of the highest score are merged first.
    scores: list[float]
    #: Of byte-level BPE alone.
    merges: list[str]
    #: Whether a space is put before the text, BOS before it, EOS after it.
    space_prefix: bool
    begins: bool
    ends: bool
    #: The ids of special tokens, such as ``{"bos": 1}``.
    special: dict[str, int]
    chat_template: str | list | None


def vocabulary(tokenizer, rows: int) -> Vocabulary:
    """Describe a tokenizer for a model with so many rows of embeddings; rows without a token get an unused one.

    Raises ValueError for a tokenizer that llama.cpp would not cut text like, and for one with more tokens than rows.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(f"{type(tokenizer).__name__} is not supported: expected a fast tokenizer (tokenizer.json).")
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model, pre = _kind(tokenizer, parts)
    numbers = tokenizer.get_vocab()
    if max(numbers.values()) >= rows:
        raise ValueError(
            f"The tokenizer has a token of number {max(numbers.values())}, and the model {rows} rows of embeddings: "
            "expected the tokenizer of this model, or one row for each token."
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [TokenType.UNUSED] * rows
    added = {token["id"]: token for token in parts["added_tokens"]}
    for token, number in numbers.items():
        types[number] = _type(token, added.get(number), number == tokenizer.unk_token_id, model)
        tokens[number] = token.replace(SPACE, " ") if types[number] == TokenType.USER_DEFINED else token
    merges = parts["model"]["merges"]
    text = tokenizer("a")["input_ids"]
    first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
    special = {kind: getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "unk", "pad", "mask")}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": words} for name, words in template.items()]
    return Vocabulary(
        model,
        pre,
        tokens,
        types,
        _scores(merges, numbers, rows) if model == "llama" else [],
        [" ".join(pair) for pair in merges] if model == "gpt2" else [],
        first.startswith(SPACE) if model == "llama" else False,
        text[0] == tokenizer.bos_token_id,
        text[-1] == tokenizer.eos_token_id,
        {kind: number for kind, number in special.items() if number is not None},
        template,
    )


def _kind(tokenizer, parts: dict) -> tuple[str, str]:
    """llama.cpp's names for the model and for how it cuts text beforehand."""
    model = parts["model"]
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return "llama", "default"
    steps = parts["pre_tokenizer"] or {}
    cuts = tuple(map(_cut, steps.get("pretokenizers", [steps])))
    pre = PRE_TOKENIZERS.get((cuts, bool(model.get("ignore_merges"))))
    if model["type"] != "BPE" or pre is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not supported: its {model['type']} cuts text by {cuts}. Expected BPE with "
            f"bytes to fall back on, or that of {', '.join(PRE_TOKENIZERS.values())}. For others, use save_pruned and "
            "llama.cpp's own convert_hf_to_gguf.py."
        )
    return "gpt2", pre


def _cut(step: dict) -> tuple:
    """A step of a pre-tokenizer, by what changes where it cuts."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return kind, step["use_regex"]
    if kind == "Digits":
        return kind, step["individual_digits"]
    if kind == "Split":
        return kind, step["pattern"].get("Regex"), step["behavior"], step["invert"]
    return (kind,)


def _type(token: str, added: dict | None, unknown: bool, model: str) -> TokenType:
    if unknown and model == "llama":
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if model == "llama" and re.fullmatch("<0x[0-9A-F]{2}>", token):
        return TokenType.BYTE
    return TokenType.NORMAL


def _scores(merges: list, numbers: dict[str, int], rows: int) -> list[float]:
    """The earlier a token is merged, the higher it scores; what nothing is merged into comes last."""
    scores = [-float(len(merges))] * rows
    for rank, pair in reversed([*enumerate(merges)]):
        scores[numbers["".join(pair)]] = -float(rank)
    return scores
