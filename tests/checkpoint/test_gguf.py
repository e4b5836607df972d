"""A GGUF file holds the model: transformers reads it back, zeros stay zeros, and llama.cpp says the same."""

import contextlib
import math
import os

import gguf
import pytest
import torch
from tiny import letters_of, tiny_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

import wanda_nb as wn
from wanda_nb.checkpoint.gguf_tokenizer import PRE_TOKENIZERS, vocabulary

ROWS = 320  # of embeddings, more than there are tokens
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("i", "n"), ("e", "r"), ("an", "d"), ("1", "2"), ("3", "4")]
TEXTS = ["the hat", " and then  the  inner 1234!", "héé\n\n<tool> other", "", "the</s>the"]

#: Where the file says nothing, readers take what real models of the family have: the width of heads, the last block.
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 3, "head_dim": 8},
    "qwen3": {"head_dim": 128},
    "gemma3": {"head_dim": 256, "query_pre_attn_scalar": 256, "num_hidden_layers": 7, "num_attention_heads": 2},
}


def tiny(architecture, **settings):
    return tiny_model(architecture, vocab_size=ROWS, **{**FAMILIES[architecture], **settings})


def byte_level(pre=None, ignore_merges=False):
    """A tokenizer as GPT-2's: bytes spelled as letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), *MERGES]
    words = ["<unk>", "<s>", "</s>", *alphabet, *map("".join, merges)]
    bpe = models.BPE({word: number for number, word in enumerate(words)}, merges, ignore_merges=ignore_merges)
    inner = Tokenizer(bpe)
    inner.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.chat_template = "{{ messages[0].content }}"
    return tokenizer


def sentencepiece(kind=LlamaTokenizer, special=("<unk>", "<s>", "</s>")):
    """A tokenizer as LLaMA's: letters, and bytes to fall back on."""
    merges = [("▁", "t"), ("▁t", "he"), ("h", "e"), ("▁", "▁"), *MERGES, ("t", "he"), ("▁", "the")]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz<>/!1234"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    words += dict.fromkeys(["▁t", "he", "th", "the", "▁the", "▁▁", "an", "in", "er", "and", "12", "34"])
    scored = sorted(merges, key=lambda pair: words.index("".join(pair)))
    return kind(vocab={word: number for number, word in enumerate(words)}, merges=scored)


TOKENIZERS = {
    "llama": byte_level,
    "mistral": sentencepiece,
    "qwen2": byte_level,
    "qwen3": byte_level,
    "gemma3": lambda: sentencepiece(GemmaTokenizer, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")),
}


def read(path):
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def matrices(model):
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim == 2}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_transformers_reads_the_same_model(architecture, tokens, tmp_path):
    model, tokenizer = tiny(architecture), TOKENIZERS[architecture]()
    size = wn.save_gguf(model, tokenizer, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert size == (tmp_path / "model.gguf").stat().st_size
    again = read(tmp_path / "model.gguf")
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        for tensor in matrices(model).values():
            tensor.copy_(tensor.half())
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=2e-7)
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)
