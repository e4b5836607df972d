"""Stacked experts are taken apart without a bit changing, and pruned by what each reads, however few tokens."""

import pytest
import torch
from tiny import ROOMY, SPECIAL, Experts, tiny_model, with_feed_forward
from transformers import AutoConfig, AutoModelForCausalLM
from whole import same

import wanda_nb as wn
from wanda_nb.experts import Separated
from wanda_nb.inputs.statistics import Rare

QWEN = {"num_experts": 4, "moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": [0]}
STACKED = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**QWEN, "shared_expert_intermediate_size": 40},
    "qwen3_moe": QWEN,
    "olmoe": {"num_experts": 4},
}


def moe(kind, **settings):
    torch.manual_seed(0)
    settings = {
        **ROOMY,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        **SPECIAL,
        **STACKED.get(kind, {}),
        **settings,
    }
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def stacks(model):
    return {
        name: part
        for name, part in model.named_modules()
        if hasattr(part, "gate_up_proj") and part.gate_up_proj.ndim == 3
    }


def prune_stacked(model, batches, sparsity=0.5):
    """Wanda the slow way, on the stacked model itself: what each expert reads is taken from the router's choice."""
    for block in model.model.layers:
        read, linear, experts = {}, {}, stacks(block)

        def note(module, args, read):
            hidden, chosen, _ = args
            for number in range(len(module.gate_up_proj)):
                x = hidden[torch.where((chosen == number).T)[1]]
                up = torch.nn.functional.linear(x, module.gate_up_proj[number])
                inner = module.act_fn(up[:, : up.shape[1] // 2]) * up[:, up.shape[1] // 2 :]
                read.setdefault(("gate_up_proj", number), []).append(x)
                read.setdefault(("down_proj", number), []).append(inner)

        hooks = [
            part.register_forward_pre_hook(lambda module, args, read=read: note(module, args, read))
            for part in experts.values()
        ]
        for name, layer in block.named_modules():
            if isinstance(layer, torch.nn.Linear):
                linear[name] = layer.weight
                hooks.append(
                    layer.register_forward_pre_hook(
                        lambda _, args, name=name, read=read: read.setdefault(name, []).append(args[0].clone())
                    )
                )
        for batch in batches:
            with torch.no_grad():
                model(batch, use_cache=False)
        for hook in hooks:
            hook.remove()
        for part in experts.values():
            linear |= {
                (stack, number): W
                for stack in ("gate_up_proj", "down_proj")
                for number, W in enumerate(getattr(part, stack))
            }
        for name, W in linear.items():
            norm = sum(x.reshape(-1, x.shape[-1]).pow(2).sum(dim=0) for x in read[name] if len(x)).sqrt()
            W.detach().masked_fill_(wn.prune_mask(wn.wanda_score(W.detach(), norm), sparsity), 0)
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("kind", STACKED)
def test_masks_are_those_of_each_experts_own_inputs(kind, batch_size, tokens):
    expected = prune_stacked(moe(kind), tokens.split(batch_size))
    model, before = moe(kind), moe(kind)
    with wn.separate_experts(model):
        report = wn.prune(model, tokens, batch_size=batch_size)
        assert wn.sparsity(model) == report.reached == 0.5
    assert same(model, expected)
    for name, part in stacks(model).items():
        assert ((part.gate_up_proj == 0).sum(dim=2) == 16).all()
        router = name.removesuffix("experts") + "gate.weight"
        assert torch.equal(model.get_parameter(router), before.get_parameter(router))


@pytest.mark.parametrize("kind", STACKED)
def test_the_model_is_the_same_inside_and_afterwards(kind, tokens):
    model = moe(kind)
    own, logits = dict(model.named_modules()), model(tokens).logits
    with pytest.raises(KeyError), wn.separate_experts(model):
        assert torch.equal(model(tokens).logits, logits)
        assert sum(isinstance(part, Separated) for part in model.modules()) == len(stacks(moe(kind)))
        raise KeyError
    assert dict(model.named_modules()) == own


def test_outside_it_is_refused_and_the_way_is_named(tokens):
    with pytest.raises(
        ValueError, match=r"MixtralDecoderLayer is not supported: .* Open wn.separate_experts\(model\) around"
    ):
        wn.prune(moe("mixtral"), tokens)


def test_experts_that_compute_anything_else_stay_stacked(tokens):
    otherwise = moe("mixtral")
    for part in stacks(otherwise).values():
        part._apply_gate = lambda x: x[:, ::2] * x[:, 1::2].sigmoid()
    for model in (moe("gpt_oss", num_local_experts=4), otherwise):
        with wn.separate_experts(model), pytest.raises(ValueError, match="outside any linear layer"):
            wn.prune(model, tokens)
        assert not any(isinstance(part, Separated) for part in model.modules())
    with wn.separate_experts(tiny_model()) as model:  # none to take apart
        wn.prune(model, tokens)


def test_a_saved_model_is_read_back(tokens, tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}")

    model = moe("mixtral")
    with wn.separate_experts(model):
        report = wn.prune(model, tokens)
        with pytest.raises(ValueError, match="save the model outside of separate_experts"):
            wn.save_pruned(model, Tokenizer(), tmp_path / "pruned", report)
    folder = wn.save_pruned(model, Tokenizer(), tmp_path / "pruned", report)
    assert same(AutoModelForCausalLM.from_pretrained(folder), model)


def test_a_calibration_prunes_as_the_dense_norms_do(tokens):
    model = moe("mixtral")
    with wn.separate_experts(model):
        norms = wn.calibrate(model, tokens)
        wn.prune(model, calibration=norms)
    assert norms.tokens["model.layers.0.mlp.experts.0.down_proj"] < tokens.numel()
    expected = moe("mixtral")
    for name, part in stacks(expected).items():
        for number, W in enumerate(part.down_proj):
            score = wn.wanda_score(W.detach(), norms[f"{name}.{number}.down_proj"])
            W.detach().masked_fill_(wn.prune_mask(score, 0.5), 0)
        assert torch.equal(part.down_proj, model.get_submodule(name).down_proj)


def never_the_third():
    """A model that never chooses expert 2."""
    model = with_feed_forward(lambda mlp: Experts())
    for layer in model.model.layers:
        layer.mlp.router.bias.data[2] = -100
    return model


@pytest.mark.filterwarnings("ignore:.*saw no token")
@pytest.mark.parametrize("how", [{}, {"method": "sparsegpt"}, {"update": "least-squares"}], ids=str)
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_rare_expert_is_pruned_by_magnitude_if_asked(how, calibrated, tokens):
    """One expert is never chosen, and another rarely; the others, and all other layers, are pruned as ever."""
    model, statistic = never_the_third(), "gram" if how else "norm"
    given = (
        {"calibration": wn.calibrate(never_the_third(), tokens, statistic=statistic)}
        if calibrated
        else {"tokens": tokens}
    )
    if calibrated:
        counts = {tuple(name.split(".", 3)[2:]): count for name, count in given["calibration"].tokens.items()}
        few = sorted(counts[str(0), f"mlp.experts.{number}.0"] for number in range(4))[1] + 1
    else:
        few = 1
    with pytest.raises(ValueError, match=r"mlp.experts.2.0 in block 0 saw no token .* rare=1"):
        wn.prune(never_the_third(), **given, **how)
    report = wn.prune(model, **given, **how, rare=few)
    assert {(block, name) for block, name, _ in report.rare_experts} >= {
        (b, f"mlp.experts.2.{i}") for b in range(3) for i in (0, 2)
    }
    assert all(count < few for _, _, count in report.rare_experts)
    assert f"{len(report.rare_experts)} of rare experts by magnitude" in report.headline()
    dense = never_the_third()
    for block, name, _ in report.rare_experts:
        W, found = (part.model.layers[block].get_submodule(name).weight.detach() for part in (dense, model))
        group = "output" if how.get("method") != "sparsegpt" else None
        if group:
            torch.testing.assert_close(found, W.masked_fill(wn.prune_mask(W.abs(), 0.5, group), 0))
        else:
            kept = found != 0
            torch.testing.assert_close(found[kept], W[kept])  # inputs that are unrelated cannot make up for one another
            assert found.abs()[kept].min() > 0 and W[~kept].abs().mean() < W[kept].abs().mean() / 2


def test_with_enough_tokens_rare_changes_nothing(tokens):
    model, other = (with_feed_forward(lambda mlp: Experts()) for _ in range(2))
    assert wn.prune(model, tokens, rare=1).rare_experts == []
    wn.prune(other, tokens)
    assert same(model, other)


@pytest.mark.filterwarnings("ignore:.*saw no token")
@pytest.mark.parametrize("how", [{}, {"update": "least-squares"}], ids=str)
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_rare_expert_is_pruned_by_what_all_experts_read_if_asked(how, calibrated, tokens):
    """Its mask and weights in the first block are those that it would have got, had it read what all of them did."""
    model, statistic = never_the_third(), wn.InputGrams if how else wn.InputNorms
    given = {"tokens": tokens}
    if calibrated:
        given = {"calibration": wn.calibrate(never_the_third(), tokens, statistic="gram" if how else "norm")}
    report = wn.prune(model, **given, **how, rare=1, rare_by="others")
    assert {name.split(".")[2] for _, name, _ in report.rare_experts} == {"2"}
    assert "6 of rare experts by what all experts read" in report.headline()
    dense = never_the_third()
    block = wn.decoder_blocks(dense)[0]
    with statistic(block) as read, torch.no_grad():
        dense.base_model(tokens, use_cache=False)
    for part in ("0", "2"):
        W = block.get_submodule(f"mlp.experts.2.{part}").weight.detach()
        sums = sum(read.sums[f"mlp.experts.{number}.{part}"] for number in (0, 1, 3))
        norm = (sums.diagonal() if how else sums).sqrt()
        mask = wn.prune_mask(wn.wanda_score(W, norm))
        expected = wn.least_squares(W, sums, mask)[0] if how else W.masked_fill(mask, 0)
        found = model.model.layers[0].get_submodule(f"mlp.experts.2.{part}").weight
        assert torch.equal(found == 0, expected == 0)
        torch.testing.assert_close(found, expected, **({"rtol": 1e-3, "atol": 1e-4} if how else {}))


def test_what_all_experts_read_has_the_rare_ones_own_in_it():
    block = wn.decoder_blocks(never_the_third())[0]
    sums = {name: torch.full((W.in_features,), 1.0 + n) for n, (name, W) in enumerate(wn.linear_layers(block).items())}
    for part in ("0", "2"):
        every = [sums[f"mlp.experts.{number}.{part}"] for number in range(4)]
        found = Rare(9, "others").stand_in(block, f"mlp.experts.1.{part}", sums, wn.InputNorms)
        assert torch.equal(found, torch.stack(every).sum(0)) and len({float(one[0]) for one in every}) == 4


def test_rare_by_is_one_of_two_words(tokens):
    with pytest.raises(ValueError, match="rare_by='mean': expected 'magnitude' or 'others'"):
        wn.prune(tiny_model(), tokens, rare_by="mean")


@pytest.mark.parametrize("rare", [-1, 0.5, True, None])
def test_rare_is_a_number_of_tokens(rare, tokens):
    model, before = tiny_model(), tiny_model()
    with pytest.raises(ValueError, match=r"rare=.*: expected a number of tokens"):
        wn.prune(model, tokens, rare=rare)
    assert same(model, before)
