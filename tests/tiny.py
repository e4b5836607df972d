"""Tiny random models with the structure of the real ones; nothing here needs a network."""

import re

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

ALPHABET = "abcdefghijklmnopqrstuvwxyz"

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
ROOMY = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

#: name: (model type, settings)
ARCHITECTURES = {
    "llama": ("llama", ROOMY),
    "llama3-rope": (
        "llama",
        {
            **ROOMY,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral": ("mistral", {**ROOMY, "sliding_window": 4}),
    "qwen2": ("qwen2", {**ROOMY, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", ROOMY),
    "gemma2": ("gemma2", {**ROOMY, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**ROOMY, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma4": (  # each block is handed something of the tokens, and the last one the keys and values of the one before
        "gemma4_text",
        {
            **ROOMY,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "global_head_dim": 8,
            "num_global_key_value_heads": 2,
            "num_kv_shared_layers": 1,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 96,
        },
    ),
    "phi3": ("phi3", ROOMY),
    "opt": ("opt", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16, "max_position_embeddings": 64}),
    "gpt_neox": ("gpt_neox", {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}),
    "bloom": ("bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "falcon": ("falcon", {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("falcon", {**SMALL, "alibi": True, "new_decoder_architecture": False}),
    "gpt2": ("gpt2", {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
}


def letters_of(family: str) -> PreTrainedTokenizerFast:
    """A real tokenizer of one token a letter, which puts its BOS before each text; ids fit the tiny models."""
    special = {"gemma": ("<pad>", "<bos>", "<eos>"), "cohere": ("<PAD>", "<BOS_TOKEN>", "<EOS_TOKEN>")}
    pad, bos, eos = special.get(family, ("<unk>", "<s>", "</s>"))
    vocabulary = {token: number for number, token in enumerate([pad, bos, eos, "<unused>", *ALPHABET, "\n"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=pad))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=pad)


def tiny_model(architecture="llama", dtype=torch.float32, **settings):
    """A random model, made rough enough (norms and biases too) that a forgotten tensor shows."""
    kind, defaults = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**defaults, **SPECIAL, **settings})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


IMAGE = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "image_size": 16, "patch_size": 4}
VISION = {**IMAGE, "intermediate_size": 48}
TEXT = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
SPEECH = {
    **{"vocab_size": 96, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "max_source_positions": 16},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    **{"num_mel_bins": 8, "max_target_positions": 32, "decoder_start_token_id": 1, **SPECIAL},
}
SEEN = {
    **{"vision_config": {"model_type": "clip_vision_model", **VISION}, "image_token_id": 95, "image_token_index": 95},
    "text_config": {"model_type": "llama", **ROOMY, **SPECIAL, "num_attention_heads": 2},
}
STAGES = {"hidden_sizes": [16, 32], "depths": [2, 3], "num_stages": 2, "patch_size": 2, "image_size": 16}

#: Models of anything but language alone, and encoders. name: (model type, settings, what inputs are, blocks)
FAMILIES = {
    "vit": ("vit", VISION, "images", None),
    "dinov2": ("dinov2", {**IMAGE, "mlp_ratio": 2, "layerscale_value": 0.7}, "images", None),
    "clip vision": ("clip_vision_model", VISION, "images", None),
    "siglip vision": ("siglip_vision_model", VISION, "images", None),
    "convnext": ("convnext", STAGES, "images", "encoder.stages.1.layers"),
    "convnext v2": ("convnextv2", STAGES, "images", "stages.0"),
    "whisper encoder": ("whisper", SPEECH, "speech", "encoder"),
    "whisper decoder": ("whisper", SPEECH, "speech", "decoder"),
    "bert": ("bert", TEXT, "text", None),
    "roberta": ("roberta", {**TEXT, **SPECIAL}, "text", None),
    "distilbert": (
        "distilbert",
        {"vocab_size": 96, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
        "text",
        None,
    ),
    "modernbert": ("modernbert", {**TEXT, **SPECIAL, "cls_token_id": 1, "sep_token_id": 2}, "text", None),
    "bart encoder": ("bart", SPEECH, "two texts", "encoder"),
    "bart decoder": ("bart", SPEECH, "two texts", "decoder"),
    "llava's images": ("llava", SEEN, "images in text", "vision_tower"),
    "llava's language": ("llava", SEEN, "images in text", "language_model"),
}


def inputs_of(what: str) -> dict[str, torch.Tensor]:
    """Five random samples, by the names of the model's forward."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(5, 3, 16, 16, generator=generator)
    ids, answer = torch.randint(3, 95, (5, 20), generator=generator), torch.randint(3, 95, (5, 7), generator=generator)
    speech = torch.randn(5, 8, 32, generator=generator)
    seen = ids.clone()
    seen[:, 2:18] = 95  # one for each patch of the image
    return {
        "images": {"pixel_values": images},
        "speech": {"input_features": speech, "decoder_input_ids": answer},
        "text": {"input_ids": ids},
        "two texts": {"input_ids": ids, "decoder_input_ids": answer},
        "images in text": {"input_ids": seen, "pixel_values": images},
    }[what]


def tiny_family(name: str):
    """A random model of a family, as rough as ``tiny_model``, its inputs, and which blocks of it."""
    kind, settings, what, blocks = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model, inputs_of(what), blocks


class Experts(nn.Module):
    """Experts as custom code writes them, one module each, which reads the tokens that the router gave to it."""

    def __init__(self, width=32, inner=48, count=4):
        super().__init__()
        self.router = nn.Linear(width, count)
        experts = [nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, width)) for _ in range(count)]
        self.experts = nn.ModuleList(experts)

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(tokens).softmax(dim=-1).topk(2)
        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, place = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                output.index_add_(0, rows, expert(tokens[rows]) * weights[rows, place, None])
        return output.view_as(x)


class OneByOne(Experts):
    """The same for one token after the other: an expert is called as often as it is chosen."""

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        chosen = self.router(tokens).argmax(dim=-1).tolist()
        return torch.stack([self.experts[number](token) for number, token in zip(chosen, tokens, strict=True)]).view_as(
            x
        )


class Chunked(nn.Module):
    """A feed-forward layer that reads a few positions at a time, as chunk_size_feed_forward makes it."""

    def __init__(self, mlp, size=5):
        super().__init__()
        self.mlp, self.size = mlp, size

    def forward(self, x):
        return torch.cat([self.mlp(part) for part in x.split(self.size, dim=1)], dim=1)


class UntilLarge(nn.Module):
    """A feed-forward layer that is run again until its output is large: as often as the values want it."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        for _ in range(4):
            x = self.mlp(x)
            if bool(x.norm() > 60):
                break
        return x


def with_feed_forward(make):
    """The tiny model, each feed-forward layer replaced by what ``make`` makes of it."""
    model = tiny_model()
    torch.manual_seed(3)
    for layer in model.model.layers:
        layer.mlp = make(layer.mlp)
    return model.eval()


#: Feed-forward layers that are not called once each on all tokens.
UNUSUAL = {
    "experts": lambda mlp: Experts(),
    "one by one": lambda mlp: OneByOne(),
    "chunked": Chunked,
    "until large": UntilLarge,
}


def label(settings) -> str:
    """What a parametrised test is called: the same in every process, so functions without their addresses."""
    return re.sub(r"<function (?:\w+\.<locals>\.)?(\S+) at 0x[0-9a-f]+>", r"\1", str(settings))
