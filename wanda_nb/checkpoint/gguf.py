"""A model as one GGUF file, which llama.cpp and what is built on it open."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType

from ..blocks import check_weights, decoder_blocks
from ..files import settle
from .gguf_tokenizer import Vocabulary, vocabulary

#: How matrices are stored, and what the file then says of itself.
DTYPES = {
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}


class Family(NamedTuple):
    """What GGUF makes of a family of models."""

    arch: gguf.MODEL_ARCH
    #: Settings that readers take for granted, since the file has no place for them.
    granted: dict
    #: Whether the rows of q and k are stored with the two halves of each head interleaved, as the first LLaMA had them.
    interleaved: bool = False
    #: What is added to the weights of norms: Gemma multiplies by 1 + w, llama.cpp by what it reads.
    norm_offset: int = 0


GEMMA3 = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}
FAMILIES = {
    "llama": Family(
        gguf.MODEL_ARCH.LLAMA, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}, interleaved=True
    ),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, {"hidden_act": "silu", "sliding_window": None}, interleaved=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, {"hidden_act": "silu", "use_sliding_window": False}),
    "qwen3": Family(
        gguf.MODEL_ARCH.QWEN3, {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}
    ),
    "gemma3_text": Family(gguf.MODEL_ARCH.GEMMA3, GEMMA3, norm_offset=1),
}


def save_gguf(model, tokenizer, path, dtype: str = "F16") -> int:
    """Write a model and its tokenizer to one GGUF file, for llama.cpp and its kin; return its size in bytes.

    dtype: how matrices are stored: ``"F16"``, ``"Q8_0"`` or ``"Q4_0"`` (8 or 4 bits, and a scale for every 32 weights
    of a row, so 8.5 or 4.5 bits a weight; rows that 32 does not divide stay F16). Vectors stay float32. A zero stays a
    zero in each, but takes as much room as any other weight. Families: LLaMA, Mistral, Qwen 2 and 3, Gemma 3, with
    tokenizers that are SentencePiece's BPE with bytes to fall back on, or byte-level BPE of a kind known to llama.cpp.
    ``from_pretrained(folder, gguf_file=name)`` reads the file, too, but no scaled rotary frequencies (LLaMA 3.1).
    The file appears complete or not at all. Raises ValueError, before anything is written, for another family or
    tokenizer, a setting that GGUF cannot say, adapters, and weights that are quantised, not finite or beyond F16.
    Introduced in notebook 07, "As small as its zeros".
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}.")
    family = _family(model)
    check_weights(model, decoder_blocks(model))
    tensors = _tensors(model, family)
    words = vocabulary(tokenizer, len(model.get_input_embeddings().weight))
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[family.arch])
    try:
        _write_settings(writer, model, DTYPES[dtype][1])
        _write_vocabulary(writer, words)
        kinds = {name: _kind(tensor, dtype) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
            writer.add_tensor_info(name, tensor.shape, np.dtype("f4"), tensor.numel() // block * size, kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():  # one at a time, so that no second model lies in memory
            values = _as_read(name, tensor, family, model.config)
            writer.write_tensor_data(gguf.quantize(values, kinds[name]))
        writer.close()
        return settle(temporary, path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _family(model) -> Family:
    config, kind = model.config, model.config.model_type
    if kind not in FAMILIES:
        raise ValueError(
            f"{type(model).__name__} ({kind}) is not supported: expected one of {', '.join(FAMILIES)}. For another "
            "family, use save_pruned and llama.cpp's own convert_hf_to_gguf.py."
        )
    for name, value in {**FAMILIES[kind].granted, **(_gemma3(config) if kind == "gemma3_text" else {})}.items():
        if (found := getattr(config, name, None)) != value:
            raise ValueError(f"{name} is {found!r}: whoever reads the GGUF file of a {kind} takes it to be {value!r}.")
    rope, known = _rope(config), ("default", "llama3") if kind == "llama" else ("default",)
    if rope["rope_type"] not in known or rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"rope_parameters are {rope}: expected all dimensions, and a type among {', '.join(known)}.")
    return FAMILIES[kind]


def _gemma3(config) -> dict:
    """What readers take for granted of a Gemma 3 of this size; the largest, of 62 blocks, scales in another way."""
    blocks = range(1, config.num_hidden_layers + 1)
    width = config.hidden_size // config.num_attention_heads if len(blocks) == 62 else config.head_dim
    sliding = {"rope_type": "default", "rope_theta": 10000.0}
    return {
        "layer_types": ["sliding_attention" if number % 6 else "full_attention" for number in blocks],
        "query_pre_attn_scalar": width,
        "rope_parameters": {**config.rope_parameters, "sliding_attention": sliding},
    }


def _rope(config) -> dict:
    return config.rope_parameters.get("full_attention", config.rope_parameters)


def _tensors(model, family: Family) -> dict[str, torch.Tensor]:
    """The model's tensors by their names in GGUF. Raises ValueError for one without a name, or that F16 cannot hold."""
    names = gguf.get_tensor_name_map(family.arch, model.config.num_hidden_layers)
    state = model.state_dict()
    if model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():  # tied: readers expect one
        del state["lm_head.weight"]
    tensors = {}
    for own, tensor in state.items():
        name = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"{own} has no name in GGUF files of {family.arch.name}: it cannot be stored.")
        if (largest := max(map(abs, map(float, tensor.aminmax())))) > torch.finfo(torch.float16).max:
            raise ValueError(f"{own} holds a weight of {largest:.0f}: F16 ends at 65504.")
        tensors[name] = tensor
    if _rope(model.config)["rope_type"] == "llama3":
        own = model.model.rotary_emb.inv_freq
        plain = _rope(model.config)["rope_theta"] ** -(torch.arange(len(own), device=own.device) / len(own))
        tensors["rope_freqs.weight"] = plain / own
    return tensors


def _kind(tensor: torch.Tensor, dtype: str) -> GGMLQuantizationType:
    if tensor.ndim < 2:
        return GGMLQuantizationType.F32
    kind = DTYPES[dtype][0]
    return GGMLQuantizationType.F16 if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _as_read(name: str, tensor: torch.Tensor, family: Family, config) -> np.ndarray:
    """A tensor's values in float32, changed into what the file's readers compute with."""
    values = tensor.detach().float().cpu()
    if name.endswith("norm.weight"):
        values = values + family.norm_offset
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if family.interleaved and heads:
        values = values.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return values.contiguous().numpy()


def _write_settings(writer: gguf.GGUFWriter, model, file_type: LlamaFileType) -> None:
    config, name = model.config, Path(model.config._name_or_path).name
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type("model")
    writer.add_name(type(model).__name__ if name in ("", "mistral") else name)  # transformers stumbles over "mistral"
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)


def _write_vocabulary(writer: gguf.GGUFWriter, words: Vocabulary) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores:
        writer.add_token_scores(words.scores)
    if words.merges:
        writer.add_token_merges(words.merges)
    writer.add_add_space_prefix(words.space_prefix)
    writer.add_add_bos_token(words.begins)
    writer.add_add_eos_token(words.ends)
    for kind, number in words.special.items():
        getattr(writer, f"add_{kind}_token_id")(number)
    if words.chat_template:
        writer.add_chat_template(words.chat_template)
