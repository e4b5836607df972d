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
    return kind(vocab={word: number for number, word in enumerate(words)}, merges=scored, add_bos_token=True)


LOCAL_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
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


@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_0"])
def test_zeros_stay_zeros(dtype, tokens, tmp_path):
    model = tiny("llama")
    wn.prune(model, tokens, sparsity=0.5)
    pruned = {name: tensor == 0 for name, tensor in matrices(model).items()}
    wn.save_gguf(model, byte_level(), tmp_path / "model.gguf", dtype)
    again = read(tmp_path / "model.gguf")
    assert wn.sparsity(again) >= wn.sparsity(model) == 0.5
    assert all(bool((tensor[pruned[name]] == 0).all()) for name, tensor in matrices(again).items())


@pytest.mark.parametrize(("dtype", "steps", "half_a_step"), [("Q8_0", 127, 0.5), ("Q4_0", 8, 1)])
def test_a_weight_is_off_by_no_more_than_its_block_allows(dtype, steps, half_a_step, tmp_path):
    """Q4_0 has 8 steps on one side of zero and 7 on the other, where the largest weight may be a whole step off."""
    model = tiny("llama")
    wn.save_gguf(model, byte_level(), tmp_path / "model.gguf", dtype)
    stored = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert stored["blk.0.ffn_gate.weight"] == stored["token_embd.weight"] == dtype
    assert stored["blk.0.ffn_down.weight"] == "F16"  # 48 wide, which no 32 divides
    assert stored["blk.0.attn_norm.weight"] == "F32"
    before, after = matrices(model), matrices(read(tmp_path / "model.gguf"))
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"):
        blocks, found = (tensor[name].reshape(-1, 32) for tensor in (before, after))
        step = blocks.abs().amax(dim=1, keepdim=True) / steps
        error = (found - blocks).abs()
        assert (error <= step * (half_a_step + steps / 2048)).all() and error.max() > 0  # and a scale is F16


def test_sizes_are_8_and_a_half_and_4_and_a_half_bits(tmp_path):
    model = tiny("llama", hidden_size=64, intermediate_size=256, head_dim=16, num_hidden_layers=6)
    count = sum(tensor.numel() for tensor in matrices(model).values())
    sizes = {dtype: wn.save_gguf(model, byte_level(), tmp_path / "m.gguf", dtype) for dtype in ("F16", "Q8_0", "Q4_0")}
    assert (sizes["F16"] - sizes["Q8_0"]) * 8 == count * 7.5 and (sizes["Q8_0"] - sizes["Q4_0"]) * 8 == count * 4


def test_a_tied_head_is_not_stored(tmp_path):
    for tied in (True, False):
        model = tiny("llama", tie_word_embeddings=tied)
        wn.save_gguf(model, byte_level(), tmp_path / "model.gguf")
        names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors]
        assert ("output.weight" in names) is not tied
        assert read(tmp_path / "model.gguf").config.tie_word_embeddings is tied


def test_the_frequencies_of_llama_3_1_are_stored(tmp_path):
    """transformers does not read them; llama.cpp divides its own by them."""
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    wn.save_gguf(tiny("llama", rope_parameters=rope), byte_level(), tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    (stored,) = (tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    expected = []
    for index in range(4):  # pairs of the 8 dimensions of a head
        wavelength = 2 * math.pi * 500000 ** (index / 4)
        share = (32 / wavelength - 1) / 3
        expected.append(1 / (min(max(share, 0), 1) + (1 - min(max(share, 0), 1)) / 8))
    assert stored == pytest.approx(expected, rel=1e-5) and expected[0] == 1 and expected[-1] == 8
    assert reader.fields["llama.rope.freq_base"].contents() == 500000


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_transformers_reads_the_same_tokenizer(architecture, tmp_path):
    """Byte-level BPE, SentencePiece with a space put before the text, and Gemma's without."""
    tokenizer = TOKENIZERS[architecture]()
    wn.save_gguf(tiny(architecture), tokenizer, tmp_path / "model.gguf")
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], text
    for kind in ("bos", "eos", "unk", "pad"):
        assert getattr(again, f"{kind}_token") == getattr(tokenizer, f"{kind}_token"), kind
    assert again.chat_template == tokenizer.chat_template


def test_what_the_file_says_of_tokens(tmp_path):
    said = vocabulary(byte_level(), ROWS)
    numbers = byte_level().get_vocab()
    kinds = {token: kind.name for token, kind in zip(said.tokens, said.types, strict=True)}
    assert len(said.tokens) == len(said.types) == ROWS
    assert (said.model, said.pre, said.begins, said.ends, said.scores) == ("gpt2", "gpt-2", False, False, [])
    assert (kinds["</s>"], kinds["<tool>"], kinds["the"]) == ("CONTROL", "USER_DEFINED", "NORMAL")
    assert kinds[f"[PAD{ROWS - 1}]"] == "UNUSED" and said.tokens[numbers["the"]] == "the"
    assert said.merges[:3] == ["Ġ t", "t h", "th e"] and said.special == {"bos": 1, "eos": 2, "unk": 0}
    said = vocabulary(sentencepiece(), ROWS)
    kinds = {token: kind.name for token, kind in zip(said.tokens, said.types, strict=True)}
    assert (said.model, said.pre, said.begins, said.space_prefix, said.merges) == ("llama", "default", True, True, [])
    assert (kinds["<unk>"], kinds["<s>"], kinds["<0x0A>"], kinds["▁the"]) == ("UNKNOWN", "CONTROL", "BYTE", "NORMAL")
    scores = dict(zip(said.tokens, said.scores, strict=True))
    assert scores["▁t"] > scores["he"] > scores["th"] > scores["the"] > scores["▁the"] > scores["and"] > scores["<s>"]


@pytest.mark.parametrize(("cuts", "ignore_merges"), PRE_TOKENIZERS, ids=PRE_TOKENIZERS.values())
def test_how_text_is_cut_has_a_name(cuts, ignore_merges):
    make = {
        "ByteLevel": lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex),
        "Digits": lambda individual: pre_tokenizers.Digits(individual_digits=individual),
        "Split": lambda regex, behavior, invert: pre_tokenizers.Split(Regex(regex), behavior.lower(), invert),
    }
    steps = [make[kind](*how) for kind, *how in cuts]
    pre = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    assert vocabulary(byte_level(pre, ignore_merges), ROWS).pre == PRE_TOKENIZERS[cuts, ignore_merges]
    with pytest.raises(ValueError, match="its BPE cuts text by"):
        vocabulary(byte_level(pre_tokenizers.Sequence([*steps, pre_tokenizers.Whitespace()])), ROWS)


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        ("gpt2", {}, r"GPT2LMHeadModel \(gpt2\) is not supported: expected one of llama, mistral"),
        ("llama", {"attention_bias": True}, "attention_bias is True: .* takes it to be False"),
        ("mistral", {"sliding_window": 4}, "sliding_window is 4: .* takes it to be None"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4}, "use_sliding_window is True"),
        ("gemma3", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar is 8: .* takes it to be 256"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, r"layer_types is \['full_attention"),
        ("gemma3", {"rope_parameters": LOCAL_ROPE}, "rope_parameters is .*20000"),
        ("llama", {"rope_parameters": LINEAR_ROPE}, "expected all dimensions, and a type among default, llama3"),
    ],
)
def test_what_the_file_cannot_say_is_refused(make, settings, said, tmp_path):
    model = tiny(make, **settings) if make in FAMILIES else tiny_model(make)
    with pytest.raises(ValueError, match=said):
        wn.save_gguf(model, byte_level(), tmp_path / "model.gguf")
    assert not [*tmp_path.iterdir()]


def test_other_errors_come_before_the_file(tmp_path):
    model, path = tiny("llama"), tmp_path / "model.gguf"
    with pytest.raises(ValueError, match="dtype='Q3': expected one of F16, Q8_0, Q4_0"):
        wn.save_gguf(model, byte_level(), path, "Q3")
    with pytest.raises(ValueError, match=r"its WordLevel cuts text by .* Expected BPE with bytes"):
        wn.save_gguf(model, letters_of("llama"), path)
    with pytest.raises(ValueError, match="Tokenizer is not supported: expected a fast tokenizer"):
        wn.save_gguf(model, type("Tokenizer", (), {})(), path)
    with pytest.raises(ValueError, match=r"a token of number 268, and the model 96 rows"):
        wn.save_gguf(tiny_model(), byte_level(), path)
    model.score = torch.nn.Linear(32, 2)
    with pytest.raises(ValueError, match=r"score.weight has no name in GGUF files of LLAMA"):
        wn.save_gguf(model, byte_level(), path)
    del model.score
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = -70000
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight holds a weight of 70000: F16 ends at 65504"):
        wn.save_gguf(model, byte_level(), path)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        wn.save_gguf(model, byte_level(), path)
    assert not [*tmp_path.iterdir()]


def test_the_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_text("an earlier one")
    calls, quantize = [], gguf.quantize

    def full(*args):
        calls.append(args)
        if len(calls) > 5:
            raise OSError("No space left on device")
        return quantize(*args)

    monkeypatch.setattr(gguf, "quantize", full)
    with contextlib.suppress(OSError):
        wn.save_gguf(tiny("llama"), byte_level(), path)
    assert len(calls) == 6 and path.read_text() == "an earlier one" and os.listdir(tmp_path) == ["model.gguf"]


PROMPTS = ["The capital of France is", "In 1969, 12 men walked to the moon and", "def fibonacci(n):\n   "]


def test_llama_cpp_continues_as_transformers_does(tmp_path):
    """The pruned real model, text to text: what each reads the prompt as, and the next 20 tokens."""
    llama = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    model, tokenizer = wn.load_model()
    wn.prune(model, method="magnitude", sparsity=0.2)
    wn.save_gguf(model, tokenizer, tmp_path / "model.gguf")
    settings = llama.CommonParams()
    settings.model.path, settings.n_ctx = str(tmp_path / "model.gguf"), 128
    settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    server = llama.Server(settings)
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        ours = model.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :].tolist()
        theirs = server.handle_completions({"prompt": prompt, "temperature": 0, "n_predict": 20, "logprobs": 1})
        assert theirs["usage"]["prompt_tokens"] == ids.shape[1]
        assert [token["id"] for token in theirs["choices"][0]["logprobs"]["content"]] == ours
