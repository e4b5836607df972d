"""The block loop: what it computes, what it leaves behind, what it refuses."""

import copy

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb.reporting.progress import duration


def masks_of(model):
    return [
        wn.weight_matrix(layer) == 0 for block in wn.decoder_blocks(model) for layer in wn.linear_layers(block).values()
    ]


def prune_by_hand(model, tokens, see_pruned=True, **how):
    """The method in the plainest way: the whole model is run again for every block."""
    dense = copy.deepcopy(model)
    for index, block in enumerate(wn.decoder_blocks(model)):
        source = model if see_pruned else dense
        with wn.InputNorms(wn.decoder_blocks(source)[index]) as norms, torch.no_grad():
            source(input_ids=tokens)
        for name, layer in wn.linear_layers(block).items():
            score = wn.wanda_score(layer.weight.detach(), norms[name])
            mask = wn.nm_mask(score, *how["nm"]) if "nm" in how else wn.prune_mask(score, **how)
            layer.weight.data[mask] = 0
    return model


@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"sparsity": 0.7, "group": "layer"}, {"group": "input"}])
def test_prune_is_the_method_done_the_plain_way(how, tokens):
    expected = prune_by_hand(tiny_model(), tokens, **how)
    model = tiny_model()
    wn.prune(model, tokens, batch_size=len(tokens), **how)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(("pattern", "nm"), [("2:4", (2, 4)), ("1:4", (1, 4)), ("4:8", (4, 8)), ("3:16", (3, 16))])
def test_patterns_are_the_method_done_the_plain_way(pattern, nm, tokens):
    expected = prune_by_hand(tiny_model(), tokens, nm=nm)
    model = tiny_model()
    report = wn.prune(model, tokens, pattern=pattern, batch_size=len(tokens))
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True))
    assert report.reached == pytest.approx(1 - nm[0] / nm[1])


def test_block_two_sees_the_pruned_block_one(tokens):
    """Statistics of block 2 differ between the two readings of the method, and ours is the sequential one."""
    model = tiny_model()
    seen = {}

    def spy(W, norm):
        seen[len(seen)] = norm.clone()
        return wn.wanda_score(W, norm)

    wn.prune(model, tokens, method=spy, sparsity=0.6, batch_size=len(tokens))
    layers = len(wn.linear_layers(wn.decoder_blocks(model)[0]))
    dense, half = tiny_model(), tiny_model()
    half.model.layers[0].load_state_dict(model.model.layers[0].state_dict())  # block 1 pruned, block 2 not
    norms = []
    for source in (dense, half):
        with wn.InputNorms(wn.decoder_blocks(source)[1]) as block_two, torch.no_grad():
            source(input_ids=tokens)
        norms.append(block_two["mlp.down_proj"])
    assert not torch.allclose(norms[0], norms[1], rtol=0.01)
    assert torch.equal(seen[2 * layers - 1], norms[1])

    one_shot = prune_by_hand(tiny_model(), tokens, see_pruned=False, sparsity=0.6)
    assert any(not torch.equal(a, b) for a, b in zip(masks_of(one_shot), masks_of(model), strict=True))


@pytest.mark.parametrize("group", ["output", "input", "layer"])
def test_magnitude_needs_no_text(group):
    model, expected = tiny_model(), tiny_model()
    report = wn.prune(model, None, method="magnitude", sparsity=0.4, group=group)
    for mask, (_, layer) in zip(
        masks_of(model),
        [item for block in wn.decoder_blocks(expected) for item in wn.linear_layers(block).items()],
        strict=True,
    ):
        assert torch.equal(mask, wn.prune_mask(layer.weight.abs(), 0.4, group))
    assert set(report.seconds) == {"select"}


def test_each_method_comes_with_the_group_it_was_published_with(tokens):
    assert wn.prune(tiny_model(), tokens).group == "output"
    assert wn.prune(tiny_model(), None, method="magnitude").group == "layer"


def test_the_masks_do_not_depend_on_the_batch_size(tokens):
    masks = []
    for batch_size in (1, 4, 6, None):
        model = tiny_model()
        wn.prune(model, tokens, batch_size=batch_size)
        masks.append(torch.cat([mask.flatten() for mask in masks_of(model)]))
    for other in masks[1:]:  # rounding may turn a near-tie, one in thousands
        assert (masks[0] != other).float().mean() < 0.002


def test_your_own_score_plugs_in(tokens):
    report = wn.prune(tiny_model(), tokens, method=lambda W, norm: W.abs() * norm.sqrt(), sparsity=0.25)
    assert report.method == "<lambda>" and report.reached == 0.25
    with pytest.raises(ValueError, match=r"gave \(32,\) for a layer of \(32, 32\): expected one score per weight"):
        wn.prune(tiny_model(), tokens, method=lambda W, norm: norm)


def test_the_report_says_what_was_done(tokens):
    model = tiny_model()
    report = wn.prune(model, tokens, sparsity=0.5)
    assert list(report.layers.columns) == ["block", "name", "shape", "asked", "reached", "select s"]
    assert len(report.layers) == 21 and set(report.layers["reached"]) == {0.5}
    assert set(report.seconds) == {"prepare", "capture", "select", "propagate"}
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert report.peak_memory > 50 * 2**20  # this process with torch in it
    assert "wanda, 50%, compared by output: 50.00% zeros in 21 layers" in str(report)
    assert "<table" in report._repr_html_() and "mlp.down_proj" in report._repr_html_()
    assert report.tokens == (6, 12)


def test_the_reports_table_says_zeros_only_where_they_differ(tokens):
    report = wn.prune(tiny_model(), tokens, sparsity=0.5)
    assert list(report.summary().columns) == ["blocks", "shape", "select s"]
    report = wn.prune(tiny_model(), tokens, sparsity=0.33)  # floor: what is reached is not what was asked
    assert list(report.summary().columns) == ["blocks", "shape", "asked", "reached", "select s"]
    assert set(report.summary()["asked"]) == {0.33} and set(report.summary()["reached"]) == {0.3125}


def test_floor_decides_where_the_share_is_not_whole(tokens):
    model = tiny_model()  # rows of 32 and 48
    wn.prune(model, tokens, sparsity=0.33)
    block = wn.linear_layers(wn.decoder_blocks(model)[0])
    assert ((block["mlp.up_proj"].weight == 0).sum(dim=1) == 10).all()
    assert ((block["mlp.down_proj"].weight == 0).sum(dim=1) == 15).all()


def as_found(model):
    return (
        [(name, module.training) for name, module in model.named_modules()],
        [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks],
        [name for name, module in model.named_modules() if "forward" in module.__dict__],
        [parameter.requires_grad for parameter in model.parameters()],
        model.config.use_cache,
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("use_cache", [True, False])
def test_leaves_the_model_as_it_was(error, use_cache, tokens, monkeypatch):
    model = tiny_model(use_cache=use_cache)
    model.train()
    model.model.layers[1].eval()  # a mixture must come back as a mixture
    before = as_found(model)
    if error is None:
        wn.prune(model, tokens)
    else:
        calls = iter(range(100))

        def failing(W, norm):
            if next(calls) == 10:  # in the middle of block 2
                raise error
            return wn.wanda_score(W, norm)

        with pytest.raises(error):
            wn.prune(model, tokens, method=failing)
    assert as_found(model) == before
    assert torch.equal(model.lm_head.weight, tiny_model().lm_head.weight)
    assert model.eval()(input_ids=tokens).logits.isfinite().all()


def test_tied_embeddings_stay_tied(tokens):
    model = tiny_model(tie_word_embeddings=True)
    embeddings = model.get_input_embeddings().weight.clone()
    wn.prune(model, tokens)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(embeddings, model.lm_head.weight)


BAD = {
    "sparsity": (dict(sparsity=1.0), r"sparsity=1.0: expected the fraction of weights to remove, in \[0, 1\)"),
    "percentage": (dict(sparsity=50), r"Did you mean 0.5\?"),
    "method": (dict(method="wandas"), r"method='wandas': expected one of magnitude, wanda, .* or a function"),
    "group": (dict(group="row"), "group='row': expected one of output, input, layer"),
    "pattern": (dict(pattern="2/4"), "pattern='2/4': expected N:M"),
    "pattern keeps all": (dict(pattern="4:4"), "4:4 makes no sense"),
    "pattern width": (dict(pattern="2:5"), r"self_attn.q_proj in block 0 has 32 input channels, which 5 does not"),
    "pattern and sparsity": (dict(pattern="1:4", sparsity=0.5), "keeping 1 of every 4 removes 0.75"),
    "pattern and group": (dict(pattern="2:4", group="layer"), "Leave group out"),
    "no tokens": (dict(tokens=None), "tokens is NoneType: expected a LongTensor"),
    "flat tokens": (dict(tokens=torch.arange(5)), r"tokens is torch.int64 \(5,\)"),
    "float tokens": (dict(tokens=torch.rand(2, 3)), "tokens is torch.float32"),
    "empty": (dict(tokens=torch.zeros(0, 8, dtype=torch.long)), "There is no text: tokens is empty"),
    "vocabulary": (dict(tokens=torch.full((1, 4), 96)), "Token ids from 96 to 96: the model knows 0 to 95"),
    "negative ids": (dict(tokens=torch.full((1, 4), -100)), "Token ids from -100"),
    "too long": (dict(tokens=torch.ones(1, 65, dtype=torch.long)), "the model reads at most 64"),
    "mask shape": (dict(attention_mask=torch.ones(6, 11)), r"attention_mask is \(6, 11\), tokens \(6, 12\)"),
    "all padding": (dict(attention_mask=torch.zeros(6, 12)), "hides every token"),
    "batch size": (dict(batch_size=0), "batch_size=0: expected a whole number"),
}


@pytest.mark.parametrize(("how", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_before_the_model_is_touched(model, tokens, how, message):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        wn.prune(model, **{"tokens": tokens, **how})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "where", ["model.layers.2.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_weights_that_are_not_finite_are_refused(model, tokens, where):
    dict(model.named_parameters())[where].data[0] = float("nan")
    with pytest.raises(ValueError, match=f"{where} has values that are not finite"):
        wn.prune(model, tokens)
    assert wn.sparsity(model) == 0


def test_activations_that_overflow_are_refused_before_anything_changes(model, tokens):
    """Finite weights whose outputs are not: as a half-precision model overflows."""
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1e30)
    model.model.layers[1].mlp.down_proj.weight.data.mul_(1e30)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"Block 1 puts out activations that are not finite.*Nothing was changed"):
        wn.prune(model, tokens)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_overflow_in_a_later_window_stops_at_that_block(model, tokens):
    """Only the first window is rehearsed; the message says what state the model is in."""
    layer = model.model.layers[1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _, args: (args[0] * (1.0 if len(args[0]) == 1 else float("inf")),))
    with pytest.raises(ValueError, match=r"down_proj in block 1 is not finite. Blocks before 1 are already pruned"):
        wn.prune(model, tokens)
    hook.remove()
    blocks = wn.decoder_blocks(model)
    zeros = [any((wn.weight_matrix(layer) == 0).any() for layer in wn.linear_layers(b).values()) for b in blocks]
    assert zeros == [True, False, False]


def test_the_estimate_in_the_progress_bar():
    assert (duration(0.72), duration(7.2), duration(72), duration(600)) == ("0.72 s", "7.2 s", "72 s", "10 min")


def test_sparsity_zero_changes_nothing(model, tokens):
    before = copy.deepcopy(model.state_dict())
    assert wn.prune(model, tokens, sparsity=0).reached == wn.sparsity(model) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_blocks_visit_the_gpu_and_come_home(tokens):
    model = tiny_model()
    report = wn.prune(model, tokens, device="cuda")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    cpu = tiny_model()
    wn.prune(cpu, tokens)
    for ours, theirs in zip(masks_of(model), masks_of(cpu), strict=True):
        assert (ours != theirs).float().mean() < 0.01
    assert 0 < report.peak_memory < 2**30
