"""Every architecture by its structure: exact sparsity, a model still sound, everything else bit-identical."""

import math

import accelerate
import pytest
import torch
from tiny import ARCHITECTURES, UNUSUAL, tiny_model, with_feed_forward
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig
from whole import as_run, prune_whole, same

import wanda_nb as wn


def prunable_weights(model):
    blocks = wn.decoder_blocks(model)
    return {id(layer.weight) for block in blocks for layer in wn.linear_layers(block).values()}


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prunes_exactly_and_touches_nothing_else(architecture, method, tokens):
    model = tiny_model(architecture)
    prunable = prunable_weights(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=True).items()}
    report = wn.prune(model, tokens, method=method, sparsity=0.3, group="output")

    assert len(wn.decoder_blocks(model)) == 3
    assert len(report.layers) == len(prunable) >= 3 * 4
    for block in wn.decoder_blocks(model):
        for layer in wn.linear_layers(block).values():
            W = wn.weight_matrix(layer)
            assert ((W == 0).sum(dim=1) == math.floor(W.shape[1] * 0.3)).all()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in prunable:
            survived = tensor != 0
            assert torch.equal(tensor[survived], before[name][survived])
        else:
            assert torch.equal(tensor, before[name]), name
    assert model(input_ids=tokens).logits.isfinite().all()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masks_are_those_of_whole_model_calibration(architecture, batch_size, tokens):
    """Masks, positions and whatever depends on the tokens reach each block as the model hands them over."""
    expected = prune_whole(tiny_model(architecture), list(as_run(tokens, None, batch_size)))
    model = tiny_model(architecture)
    wn.prune(model, tokens, batch_size=batch_size)
    assert same(model, expected)


@pytest.mark.parametrize("padding", [slice(0, 5), slice(7, 12), slice(4, 7)], ids=["left", "right", "middle"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padded_windows_enter_and_leave_blocks_as_in_the_padded_model(architecture, padding, tokens):
    """A window is run without its padding; its tokens keep their positions, and what they see."""
    model = tiny_model(architecture)
    if padding == slice(4, 7) and "sliding_window" in ARCHITECTURES[architecture][1]:
        model = tiny_model(architecture, sliding_window=16)  # a shorter one counts real tokens, not positions
    keep = torch.ones_like(tokens)
    keep[0, padding] = 0
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _, args, output: outputs.append(output))
        for block in wn.decoder_blocks(model)
    ]
    with torch.no_grad():
        model.base_model(input_ids=tokens, attention_mask=keep, use_cache=False)
    for hook in hooks:
        hook.remove()
    states = wn.first_hidden_states(model, tokens, keep, batch_size=len(tokens))
    for index, (block, output) in enumerate(zip(wn.decoder_blocks(model), outputs, strict=True)):
        with torch.no_grad():
            states.advance(index, block, "cpu")
        expected = output if isinstance(output, torch.Tensor) else output[0]
        for hidden, row, real in zip(states.hidden, expected, keep.bool(), strict=True):
            torch.testing.assert_close(hidden[0], row[real], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_layers_that_read_some_tokens_at_a_time_are_exact(make, batch_size, padded, tokens):
    keep = None
    if padded:
        keep = torch.ones_like(tokens)
        keep[0, :5] = keep[2, 9:] = keep[3, 0] = 0
    expected = prune_whole(with_feed_forward(make), list(as_run(tokens, keep, batch_size)))
    model = with_feed_forward(make)
    wn.prune(model, tokens, attention_mask=keep, batch_size=batch_size)
    assert same(model, expected)


def test_conv1d_is_pruned_along_its_inputs(tokens):
    """GPT-2 keeps weights (in, out): each output's group is a column of the stored tensor."""
    model = tiny_model("gpt2")
    wn.prune(model, tokens, sparsity=0.5)
    stored = model.transformer.h[0].mlp.c_fc.weight  # (in 32, out 128)
    assert stored.shape == (32, 128)
    assert ((stored == 0).sum(dim=0) == 16).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, tokens):
    model = tiny_model(dtype=dtype)
    report = wn.prune(model, tokens)
    assert model.dtype == dtype
    assert report.reached == wn.sparsity(model) == 0.5


def test_refuses_fused_experts_by_name(tokens):
    sizes = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    config = MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"MixtralDecoderLayer is not supported: mlp\..* outside any linear layer"):
        wn.prune(model, tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_refuses_quantised_weights_by_name(model, tokens):
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(torch.ones(48, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"mlp.up_proj in LlamaDecoderLayer holds quantised weights \(torch.int8\)"):
        wn.prune(model, tokens)


def test_refuses_a_model_that_says_it_is_quantised(model, tokens):
    model.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises(ValueError, match="LlamaForCausalLM is quantised"):
        wn.prune(model, tokens)


def test_refuses_unmerged_adapters(model, tokens):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"q_proj .* unmerged adapter: merge"):
        wn.prune(adapted, tokens)


def test_refuses_a_model_with_no_prunable_layers():
    with pytest.raises(ValueError, match=r"Sequential is not supported: .* found none"):
        wn.decoder_blocks(nn.Sequential(nn.Embedding(4, 4)))


def test_refuses_weights_that_are_not_in_memory(tokens):
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight is on the meta device: .* no device_map"):
        wn.prune(model, tokens)


def test_refuses_offloaded_weights_and_leaves_them(model, tokens, tmp_path):
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk", "model.layers.2": "disk"}
    before = model(tokens).logits
    model = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    message = (
        r"model.layers.1.self_attn.q_proj.weight is on the meta device \(offloaded by accelerate\): .* "
        r"with no device_map, then prune\(..., device='cuda'\), .* prune_checkpoint"
    )
    for run in (wn.prune, wn.calibrate, wn.owl_sparsity):
        with pytest.raises(ValueError, match=message):
            run(model, tokens)
    with pytest.raises(ValueError, match=message):
        wn.prune(model, method="magnitude")
    assert torch.equal(model(tokens).logits, before)


def test_a_model_with_accelerates_hooks_is_pruned_and_keeps_them(model, tokens):
    plain = tiny_model()
    wn.prune(plain, tokens)
    model = accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    accelerate.hooks.add_hook_to_module(model.model.layers[1], hook := accelerate.hooks.AlignDevicesHook("cpu"))
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    wn.prune(model, tokens)
    assert same(model, plain) and model.model.layers[1]._hf_hook is hook
    assert [module.__dict__.get("forward") for module in model.modules()] == forwards


def test_refuses_a_model_that_skips_a_block(model, tokens):
    model.model.forward, whole = None, model.model.forward

    def twice(**inputs):
        whole(**inputs)
        return whole(**inputs)

    model.model.forward = twice
    with pytest.raises(ValueError, match="runs its 3 blocks once each, in order"):
        wn.prune(model, tokens)
