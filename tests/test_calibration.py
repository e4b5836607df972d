"""Calibrating once: the sums against the definition, whatever they are made by; files; masks from norms."""

import json
import warnings
from contextlib import ExitStack

import pytest
import torch
from folders import Killed, contents, load, saved, stop_after, tensors
from oracle import nm_mask, prune_mask
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, UNUSUAL, Experts, tiny_model, with_feed_forward

import wanda_nb as wn
from wanda_nb import calibrating, calibration
from wanda_nb.reporting.identity import difference, model_identity

PADDING = torch.ones(6, 12, dtype=torch.long)
PADDING[0, :4] = PADDING[3, :7] = 0
PADDING[5, 8:] = 0


def layers_of(model) -> dict:
    names = {module: name for name, module in model.named_modules()}
    return {names[m]: m for block in wn.decoder_blocks(model) for m in wn.linear_layers(block).values()}


def inputs_by_definition(model, tokens, keep=None) -> dict:
    """All X (tokens, in) that each layer reads in one plain forward pass of the whole dense model, in float64."""
    seen = {}

    def watch(name):
        return lambda module, args: seen.update({name: args[0].double()})

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers_of(model).items()]
    with torch.no_grad():
        model(input_ids=tokens, attention_mask=keep)
    for hook in hooks:
        hook.remove()
    rows = slice(None) if keep is None else keep.bool()
    return {name: x[rows].reshape(-1, x.shape[-1]) for name, x in seen.items()}


def assert_by_definition(found, model, tokens, keep=None, rtol=1e-5):
    expected = inputs_by_definition(model, tokens, keep)
    assert list(found) == list(expected)
    for name, X in expected.items():
        assert found[name].dtype == torch.float32 and found.tokens[name] == len(X)
        torch.testing.assert_close(found[name].double(), X.norm(dim=0), rtol=rtol, atol=0)


def equal(one, other) -> bool:
    return one.tokens == other.tokens and all(torch.equal(one.sums[n], other.sums[n]) for n in one.sums | other.sums)


# ---- the sums


@pytest.mark.parametrize("batch_size", [1, 4, 6, None])
@pytest.mark.parametrize("keep", [None, PADDING], ids=["whole", "padded"])
def test_norms_are_the_dense_models(model, tokens, batch_size, keep):
    before = model.state_dict()
    found = wn.calibrate(model, tokens, attention_mask=keep, batch_size=batch_size)
    assert_by_definition(found, model, tokens, keep, rtol=1e-5 if keep is None else 1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model().state_dict().items())


def test_each_block_runs_once(model, tokens):
    calls = []
    hooks = [b.register_forward_hook(lambda module, *_: calls.append(module)) for b in wn.decoder_blocks(model)]
    states = wn.first_hidden_states(model, tokens, batch_size=2)
    before = len(calls)
    assert len(states.hidden) == 3
    calls.clear()
    wn.calibrate(model, tokens, batch_size=2)
    for hook in hooks:
        hook.remove()
    assert len(calls) - before == 3 * 3  # batches, blocks


def test_very_many_tokens_lose_no_bits():
    layer = torch.nn.Sequential(torch.nn.Linear(1, 1))
    with wn.InputNorms(layer, exact=True) as exact, wn.InputNorms(layer) as plain:
        layer(torch.full((1, 1), 4096.0))
        for _ in range(100):
            layer(torch.ones(1, 1))
    assert (exact.sums["0"].item(), plain.sums["0"].item()) == (2.0**24 + 100, 2.0**24)
    assert exact.tokens == {"0": 101}


def test_grams_are_the_definition(model, tokens):
    found = wn.calibrate(model, tokens, statistic="gram")
    for name, X in inputs_by_definition(model, tokens).items():
        torch.testing.assert_close(found.gram(name).double(), X.T @ X, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[name].double(), X.norm(dim=0), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match='norms alone: calibrate with statistic="gram"'):
        wn.calibrate(model, tokens).gram(name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_streamed_and_in_memory_are_the_same_bits(architecture, tokens, tmp_path):
    model = tiny_model(architecture)
    source = saved(model, tmp_path / "source")
    one, other = wn.calibrate(model, tokens), wn.calibrate(source, tokens)
    assert equal(one, other) and one.about["model"] == other.about["model"]
    wn.prune_checkpoint(source, tmp_path / "out", calibration=one)
    wn.prune(model, calibration=other)
    pruned = load(tmp_path / "out").state_dict()
    assert all(torch.equal(pruned[name], tensor) for name, tensor in model.state_dict().items())
    assert wn.sparsity(model) == pytest.approx(0.5, abs=0.02)


def test_two_halves_are_the_whole(model, tokens):
    whole = wn.calibrate(model, tokens, text={"source": "both"})
    both = wn.calibrate(model, tokens[:2], text={"source": "a"}) + wn.calibrate(model, tokens[2:], text={"source": "b"})
    assert both.tokens == whole.tokens and [text["source"] for text in both.texts()] == ["a", "b"]
    for name in whole:
        torch.testing.assert_close(both[name], whole[name], rtol=1e-6, atol=0)
    assert both.sums["model.layers.0.self_attn.q_proj"] is both.sums["model.layers.0.self_attn.k_proj"]
    assert both.nbytes == whole.nbytes


def test_only_sums_of_one_kind_are_added(model, tokens):
    norms = wn.calibrate(model, tokens)
    with pytest.raises(ValueError, match="A calibration of norms and one of grams"):
        norms + wn.calibrate(model, tokens, statistic="gram")
    with pytest.raises(ValueError, match=r"another model than LlamaForCausalLM.*rms_norm_eps \(1e-06 and 0.01\)"):
        norms + wn.calibrate(tiny_model(rms_norm_eps=1e-2), tokens)


@pytest.mark.parametrize("kind", UNUSUAL)
def test_feed_forward_layers_of_every_kind(kind, tokens):
    """Experts, chunks, loops that the values decide: what hooks see in one plain pass, all windows at once."""
    model = with_feed_forward(UNUSUAL[kind])
    found = wn.calibrate(model, tokens, batch_size=len(tokens))
    with ExitStack() as stack, torch.no_grad():
        norms = [stack.enter_context(wn.InputNorms(block)) for block in wn.decoder_blocks(model)]
        model(input_ids=tokens)
    expected = {f"model.layers.{index}.{name}": n[name] for index, n in enumerate(norms) for name in n}
    assert expected.keys() == set(found)
    for name, norm in expected.items():
        torch.testing.assert_close(found[name], norm, rtol=1e-4, atol=0)


def test_a_model_in_training_is_calibrated_as_it_is_used(tokens):
    model = tiny_model(attention_dropout=0.5).train()
    model.model.layers[1].eval()
    assert equal(wn.calibrate(model, tokens), wn.calibrate(tiny_model(attention_dropout=0.5), tokens))
    assert [block.training for block in wn.decoder_blocks(model)] == [True, False, True]


# ---- pruning by them


def assert_outside_ties(mask, expected, score, groups):
    """The masks agree, but where a score is as good as the one across the border: within 1e-5 of it."""
    for m, e, s in zip(groups(mask), groups(expected), groups(score.double()), strict=True):
        if not torch.equal(m, e):
            border = s[e].max()
            assert int(m.sum()) == int(e.sum()) and ((s[m != e] - border).abs() < 1e-5 * border).all()


GROUPS = {"output": lambda t: t, "input": lambda t: t.T, "layer": lambda t: [t.flatten()]}


@pytest.mark.parametrize(
    ("how", "mask_of", "groups"),
    [
        ({"sparsity": 0.6}, lambda score: prune_mask(score, 0.6, "output"), GROUPS["output"]),
        ({"sparsity": 0.3, "group": "input"}, lambda score: prune_mask(score, 0.3, "input"), GROUPS["input"]),
        ({"group": "layer"}, lambda score: prune_mask(score, 0.5, "layer"), GROUPS["layer"]),
        ({"pattern": "2:4"}, lambda score: nm_mask(score, 2, 4), lambda t: t.reshape(-1, 4)),
        ({"pattern": "6:8"}, lambda score: nm_mask(score, 6, 8), lambda t: t.reshape(-1, 8)),
    ],
    ids=["output", "input", "layer", "2:4", "6:8"],
)
@pytest.mark.parametrize("keep", [None, PADDING], ids=["whole", "padded"])
def test_masks_are_those_of_the_hooked_dense_model(how, mask_of, groups, keep, tokens):
    dense, model = tiny_model(), tiny_model()
    report = wn.prune(model, calibration=wn.calibrate(model, tokens, attention_mask=keep), **how)
    assert report.activations == "norms of the dense model" and report.tokens == ()
    pruned = layers_of(model)
    for name, X in inputs_by_definition(dense, tokens, keep).items():
        W = layers_of(dense)[name].weight.detach()
        score = W.double().abs() * X.norm(dim=0)
        expected = torch.tensor(mask_of(score.tolist()))
        assert_outside_ties(pruned[name].weight == 0, expected, score, groups)
        assert torch.equal(pruned[name].weight, W.masked_fill(pruned[name].weight == 0, 0))


def test_it_is_not_what_is_published(tokens):
    """There, each block is pruned by what it reads after the blocks before it were pruned."""
    published, once = tiny_model(), tiny_model()
    report = wn.prune(published, tokens)
    assert report.activations == "sequential" and report.calibration is None
    wn.prune(once, calibration=wn.calibrate(once, tokens))
    same = [
        torch.equal(a.weight == 0, b.weight == 0)
        for a, b in zip(layers_of(published).values(), layers_of(once).values(), strict=True)
    ]
    assert all(same[:7]) and not any(same[7:])  # only the first block reads the same


def test_no_block_is_run(model, tokens, monkeypatch):
    norms = wn.calibrate(model, tokens)
    for block in wn.decoder_blocks(model):
        monkeypatch.setattr(block, "forward", lambda *_, **__: pytest.fail("a block was run"))
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    assert set(wn.prune(model, calibration=norms).seconds) == {"select"}


@pytest.mark.parametrize(
    "how",
    [{"method": "ria"}, {"method": "wanda-variant"}, {"method": lambda W, n: W.abs() * n.sqrt()}],
    ids=["ria", "variant", "own"],
)
def test_every_score_reads_the_same_norms(how, tokens, tmp_path):
    source = saved(tiny_model(), tmp_path / "source")
    model, other = tiny_model(), tiny_model()
    norms, grams = wn.calibrate(model, tokens), wn.calibrate(model, tokens, statistic="gram")
    wn.prune(model, calibration=norms, **how)
    wn.prune(other, calibration=grams, **how)
    wn.prune_checkpoint(source, tmp_path / "out", calibration=norms, **how)
    stored = load(tmp_path / "out").state_dict()
    assert wn.sparsity(model) == pytest.approx(0.5, abs=0.02)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, stored[name]) and ((a == 0) != (b == 0)).float().mean() < 0.002


@pytest.mark.parametrize("how", [{"method": "sparsegpt"}, {"update": "one-shot", "pattern": "2:4"}], ids=str)
def test_updates_read_grams(how, tokens, tmp_path):
    """The first block's inputs are the same as in a sequential run; all of them are the dense model's."""
    source = saved(tiny_model(), tmp_path / "source")
    published, once = tiny_model(), tiny_model()
    grams = wn.calibrate(source, tokens, statistic="gram")
    report = wn.prune(once, calibration=grams, **how)
    assert report.activations == "Grams of the dense model"
    wn.prune(published, tokens, **how)
    names = list(layers_of(once))
    a, b = layers_of(published), layers_of(once)
    for name in names[:3]:
        torch.testing.assert_close(a[name].weight, b[name].weight, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(a[names[-1]].weight, b[names[-1]].weight, rtol=1e-2, atol=1e-2)
    wn.prune_checkpoint(source, tmp_path / "out", calibration=grams, **how)
    stored = load(tmp_path / "out").state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in once.state_dict().items())
    with pytest.raises(ValueError, match=r'An update needs XᵀX.*calibrate with statistic="gram", or give tokens'):
        wn.prune(tiny_model(), calibration=wn.calibrate(source, tokens), **how)


def test_owl_reads_them_too(model, tokens):
    """It takes the dense model's activations in any case."""
    found = wn.owl_sparsity(model, sparsity=0.7, threshold=3, calibration=wn.calibrate(model, tokens))
    assert found == pytest.approx(wn.owl_sparsity(model, tokens, 0.7, threshold=3), abs=1e-3)
    assert len(set(found)) > 1


def test_magnitude_reads_none(model, tokens):
    report = wn.prune(model, method="magnitude", calibration=wn.calibrate(model, tokens))
    assert report.activations is None and report.calibration is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_checkpoint_may_be_calibrated_in_another_dtype(dtype, tokens, tmp_path):
    source = saved(tiny_model(dtype=torch.bfloat16), tmp_path / "source")
    found = wn.calibrate(source, tokens, dtype=dtype)
    assert found.about["texts"][0]["made"]["dtype"] == str(dtype).removeprefix("torch.")
    assert_by_definition(found, load(source, dtype=dtype), tokens, rtol=1e-5)
    for loaded in (torch.bfloat16, torch.float32):
        wn.prune(load(source, dtype=loaded), calibration=found)
    report = wn.prune_checkpoint(source, tmp_path / "out", calibration=found)
    assert report.reached == 0.5 and load(tmp_path / "out").dtype == torch.bfloat16
    assert report.read <= 1.1 * report.written  # each block once
    estimate = wn.estimate_checkpoint(source, calibration=found)
    assert (estimate.flops, estimate.hidden) == (0, 0) and estimate.disk > 0


def test_the_card_says_what_the_norms_are_of(model, tokens, tmp_path):
    source = saved(model, tmp_path / "source")
    norms = wn.calibrate(source, tokens, text={"source": "letters", "seed": 3})
    wn.prune_checkpoint(source, tmp_path / "one", calibration=norms)
    wn.prune_checkpoint(source, tmp_path / "two", calibration=norms + norms)
    wn.prune_checkpoint(source, tmp_path / "published", tokens, text={"source": "letters"})
    said = {name: json.loads((tmp_path / name / "pruning.json").read_text()) for name in ("one", "two", "published")}
    text = said["one"]["calibration"]
    told = {"source": "letters", "seed": 3, "samples": 6, "length": 12, "windows begin with BOS": False}
    assert {key: text[key] for key in told} == told and len(text["sha256"]) == 64
    assert said["two"]["calibration"] == [text, text]
    assert said["one"]["activations"] == "norms of the dense model" and said["published"]["activations"] == "sequential"
    card = (tmp_path / "two" / "README.md").read_text()
    assert "| activations | norms of the dense model |" in card and card.count("source letters, seed 3") == 2
    report = wn.prune(model, calibration=norms)
    assert "zeros in 21 layers · norms of the dense model · select" in report.headline()
    assert report.calibration == [text]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tokens": torch.ones(2, 4, dtype=torch.long)}, "Both tokens and a calibration: expected one of them"),
        ({"attention_mask": torch.ones(2, 4)}, "Leave out tokens and attention_mask"),
        ({"calibration": {"source": "c4"}}, "calibration is dict: expected what calibrate.*text="),
        ({"sparsity": 1.0}, "sparsity"),
        ({"method": "sparsegpt"}, "An update needs"),
    ],
    ids=["tokens", "mask", "dict", "sparsity", "update"],
)
def test_what_does_not_fit_is_refused_before_any_work(how, message, model, tokens, tmp_path):
    source = saved(model, tmp_path / "source")
    how = {"calibration": wn.calibrate(model, tokens), **how}
    for call in (
        lambda: wn.prune(model, **how),
        lambda: wn.prune_checkpoint(source, tmp_path / "out", **how),
        lambda: wn.estimate_checkpoint(source, **how),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert wn.sparsity(model) == 0 and not (tmp_path / "out").exists()


def rescaled(model):
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1.01)


def pruned(model):
    wn.prune(model, None, method="magnitude", sparsity=0.1)


def other_embeddings(model):
    model.get_input_embeddings().weight.data[-1] += 0.1


def other_bias(model):
    model.model.layers[2].input_layernorm.weight.data[5] *= 1.1


@pytest.mark.parametrize("change", [rescaled, pruned, other_embeddings, other_bias])
def test_another_model_is_refused(change, tokens, tmp_path):
    norms, model = wn.calibrate(tiny_model(), tokens), tiny_model()
    change(model)
    source = saved(model, tmp_path / "source")
    before = wn.sparsity(model)
    message = (
        "The calibration is of another model than LlamaForCausalLM, which differs in weights. .*Calibrate this one"
    )
    with pytest.raises(ValueError, match=message):
        wn.prune(model, calibration=norms)
    with pytest.raises(ValueError, match=message):
        wn.prune_checkpoint(source, tmp_path / "out", calibration=norms)
    assert wn.sparsity(model) == before and not (tmp_path / "out").exists()


def test_what_of_a_config_tells_models_apart():
    one = model_identity(tiny_model())
    model = tiny_model()
    model.config.use_cache, model.config.pad_token_id, model.config._name_or_path = False, 7, "elsewhere"
    model.config.added_by_a_later_version = 3
    assert difference(one, model_identity(model)) is None is difference(model_identity(model), one)
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5e5}
    assert difference(one, model_identity(model)) == "rope_theta (10000.0 and 500000.0)"
    assert difference(one, model_identity(tiny_model("mistral"))) == "class (LlamaForCausalLM and MistralForCausalLM)"


# ---- experts


def test_experts_that_saw_no_token(tokens):
    model = with_feed_forward(lambda mlp: Experts())
    with pytest.warns(UserWarning, match=r"experts.\d.0 saw no token .*add the two"):
        few = wn.calibrate(model, tokens[:1, :1])
    unseen = next(name for name, count in few.tokens.items() if not count)
    assert unseen not in few and "experts" in unseen and len(few) < len(few.tokens)
    with pytest.raises(ValueError, match=r"saw no token \(an expert never chosen\?\).*Nothing was changed. Use more"):
        wn.prune(model, calibration=few)
    assert wn.sparsity(model) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = wn.calibrate(model, tokens)
    both = few + many
    assert both.tokens == {name: few.tokens[name] + many.tokens[name] for name in few.tokens}
    assert torch.equal(both[unseen], many[unseen]) and equal(both, many + few)
    assert sum(count for name, count in many.tokens.items() if "layers.1.mlp.experts" in name) == 2 * 2 * tokens.numel()
    wn.prune(model, calibration=both)
    assert wn.sparsity(model) == pytest.approx(0.5, abs=0.02)


# ---- files


@pytest.fixture
def norms(model, tokens):
    return wn.calibrate(model, tokens, text={"source": "letters"})


@pytest.mark.parametrize("statistic", ["norm", "gram"])
def test_saved_and_loaded_bit_for_bit(statistic, model, tokens, tmp_path):
    before = wn.calibrate(model, tokens, statistic=statistic)
    size = before.save(tmp_path / "norms.safetensors")
    assert size == (tmp_path / "norms.safetensors").stat().st_size and [*tmp_path.iterdir()] == [
        tmp_path / "norms.safetensors"
    ]
    after = wn.load_calibration(tmp_path / "norms.safetensors")
    assert equal(before, after) and before.about == after.about and list(before) == list(after)
    assert before.digest() == after.digest() and repr(before) == repr(after)
    stored = load_file(tmp_path / "norms.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "norms.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert len(stored) == 4 * 3 and sum(t.nbytes for t in stored.values()) == before.nbytes == after.nbytes
    text = str(safe_open(tmp_path / "norms.safetensors", "pt").metadata())
    assert str(tmp_path) not in text and str(calibration.__file__).rpartition("/")[0] not in text


def test_experts_that_saw_no_token_are_kept_as_such(tokens, tmp_path):
    model = with_feed_forward(lambda mlp: Experts())
    with pytest.warns(UserWarning):
        few = wn.calibrate(model, tokens[:1, :1])
    few.save(tmp_path / "few")
    assert equal(few, wn.load_calibration(tmp_path / "few")) and 0 in few.tokens.values()


def rewritten(path, edit=lambda tensors: None, **changes):
    """The file with other content and, unless it is among the changes, the sha256 that belongs to it."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    edit(tensors)
    metadata |= {"sha256": calibration._digest(changes.get("about", metadata["about"]), tensors), **changes}
    save_file(tensors, path, metadata)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def said_otherwise(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata["about"] = metadata["about"].replace("letters", "lessons")
    save_file(load_file(path), path, metadata)


def set_sum(value):
    def edit(tensors):
        tensors["model.layers.1.mlp.down_proj"][3] = value

    return edit


def shorter(tensors):
    tensors["model.layers.1.mlp.down_proj"] = tensors["model.layers.1.mlp.down_proj"][:-1].clone()


def single(tensors):
    tensors["model.layers.1.mlp.down_proj"] = tensors["model.layers.1.mlp.down_proj"].float()


def square(tensors):
    tensors["model.layers.1.mlp.down_proj"] = torch.eye(48, dtype=torch.float64)


def lost(tensors):
    del tensors["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, "norms is damaged or cut short .*make or fetch it again"),
        (flip, "norms was altered after it was written, or is damaged"),
        (said_otherwise, "norms was altered after it was written, or is damaged"),
        (lambda path: path.write_text("my notes"), "norms is damaged or cut short"),
        (lambda path: path.write_bytes(b""), "norms is damaged or cut short"),
        (lambda path: save_file({"a": torch.ones(2)}, path), "norms holds no calibration: expected"),
        (lambda path: rewritten(path, version="2"), "norms is of version 2 .* reads 1. Use .*newer"),
        (lambda path: rewritten(path, sha256="0"), "norms was altered"),
        (lambda path: rewritten(path, set_sum(-1.0)), "down_proj has sums of squares that are negative"),
        (lambda path: rewritten(path, set_sum(float("nan"))), "down_proj has .* not finite"),
        (lambda path: rewritten(path, set_sum(float("inf"))), "down_proj has .* not finite"),
        (lambda path: rewritten(path, single), r"down_proj is \(48,\) of torch.float32"),
        (lambda path: rewritten(path, square), r"down_proj is \(48, 48\) of torch.float64"),
        (lambda path: rewritten(path, lost), "norms is damaged: what it says of its sums"),
        (lambda path: rewritten(path, about="{}"), "norms is damaged: what it says of its sums"),
        (lambda path: rewritten(path, about="[" * 100_000), "norms is damaged: what it says of its sums"),
        (lambda path: rewritten(path, about='{"layers": {}, "model": 3}'), "norms is damaged: what it says"),
    ],
    ids=lambda thing: "" if callable(thing) else thing[:30],
)
def test_a_file_that_is_not_right_is_refused_by_name(harm, message, norms, tmp_path):
    path = tmp_path / "norms"
    norms.save(path)
    harm(path)
    with pytest.raises(ValueError, match=message):
        wn.load_calibration(path)


def test_another_shape_is_refused_before_any_weight_changes(norms, model, tmp_path):
    norms.save(tmp_path / "norms")
    rewritten(tmp_path / "norms", shorter)
    with pytest.raises(ValueError, match=r"47 input channels for model.layers.1.mlp.down_proj: expected 48"):
        wn.prune(model, calibration=wn.load_calibration(tmp_path / "norms"))
    assert wn.sparsity(model) == 0


def test_saving_fails_whole(norms, tmp_path, monkeypatch):
    norms.save(tmp_path / "norms")
    before = (tmp_path / "norms").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(calibration, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        (norms + norms).save(tmp_path / "norms")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


# ---- calibrating: refused, and killed


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"statistic": "mean"}, "statistic='mean': expected one of norm, gram"),
        ({"tokens": None}, "tokens is NoneType"),
        ({"tokens": torch.full((2, 4), 96)}, "the model knows 0 to 95"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"device": "foo"}, "device='foo' is not usable"),
        ({"dtype": torch.bfloat16}, "dtype and budget are for a checkpoint folder"),
        ({"text": {"source": object()}}, "expected plain values"),
    ],
    ids=lambda thing: "" if isinstance(thing, dict) else thing[:30],
)
def test_wrong_arguments_are_refused(how, message, model, tokens):
    with pytest.raises(ValueError, match=message):
        wn.calibrate(model, **{"tokens": tokens, **how})


def test_grams_that_do_not_fit_into_memory_are_refused(model, tokens, monkeypatch):
    needed = 3 * 8 * (6 * 32**2 + 48**2)
    monkeypatch.setattr(calibrating, "free_memory", lambda device: needed - 1)
    with pytest.raises(ValueError, match=r"statistic='gram' takes up to 0.2 MiB for this model, and .* is free"):
        wn.calibrate(model, tokens, statistic="gram")
    wn.calibrate(model, tokens)
    monkeypatch.setattr(calibrating, "free_memory", lambda device: needed)
    wn.calibrate(model, tokens, statistic="gram")


def test_an_overflow_names_its_block(model, tokens):
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1e30)
    model.model.layers[1].mlp.gate_proj.weight.data.mul_(1e30)
    with pytest.raises(ValueError, match=r"down_proj in block 1 is not finite. The model is as it was. Expected"):
        wn.calibrate(model, tokens)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("statistic", ["norm", "gram"])
def test_killed_it_goes_on(blocks, place, statistic, model, tokens, tmp_path, monkeypatch):
    source = model if place == "memory" else saved(model, tmp_path / "source")
    how = {"statistic": statistic, "kept": tmp_path / "kept"}
    whole = wn.calibrate(source, tokens, statistic=statistic)
    save, noted = calibration.Calibration.save, []

    def saves(part, path):
        if len(noted) == blocks:
            raise Killed
        noted.append(path.name)
        return save(part, path)

    monkeypatch.setattr(calibration.Calibration, "save", saves)
    if blocks < 3:
        with pytest.raises(Killed):
            wn.calibrate(source, tokens, **how)
    else:
        wn.calibrate(source, tokens, **how)
    monkeypatch.undo()
    assert len(noted) == blocks == len([*(tmp_path / "kept").glob("block-*")])
    note = calibrating._note
    monkeypatch.setattr(calibrating, "_note", lambda index, *rest: noted.append(index) or note(index, *rest))
    assert equal(wn.calibrate(source, tokens, **how), whole)
    assert noted[blocks:] == [0, 1, 2][blocks:]
    (tmp_path / "kept" / "block-00001.safetensors").unlink()
    again = wn.calibrate(source, tokens, **how)
    assert equal(again, whole) and list(again) == list(whole) and noted[-1] == 1


@pytest.mark.parametrize("change", ["tokens", "mask", "model", "dtype", "statistic", "text", "folder"])
def test_another_call_is_not_mixed_in(change, model, tokens, tmp_path):
    source = saved(model, tmp_path / "source")
    wn.calibrate(source, tokens, kept=tmp_path / "kept")
    (tmp_path / "kept" / "block-00002.safetensors").unlink()
    how = {"model": source, "tokens": tokens, "kept": tmp_path / "kept"}
    how |= {
        "tokens": {"tokens": tokens.flip(0)},
        "mask": {"attention_mask": PADDING},
        "model": {"model": tiny_model(rms_norm_eps=1e-2)},
        "dtype": {"dtype": torch.bfloat16},
        "statistic": {"statistic": "gram"},
        "text": {"text": {"source": "other"}},
        "folder": {},
    }[change]
    if change == "folder":
        (tmp_path / "kept" / "block-00001.safetensors").write_bytes(b"something else")
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    with pytest.raises((FileExistsError, ValueError), match="kept"):
        wn.calibrate(**how)
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before


def test_a_killed_pruning_goes_on_only_with_the_same_norms(norms, model, tokens, tmp_path, monkeypatch):
    source = saved(model, tmp_path / "source")
    wn.prune_checkpoint(source, tmp_path / "whole", calibration=norms)
    stop_after(1, monkeypatch)
    with pytest.raises(Killed):
        wn.prune_checkpoint(source, tmp_path / "out", calibration=norms)
    monkeypatch.undo()
    for other in ({"calibration": norms + norms}, {"tokens": tokens}):
        with pytest.raises(FileExistsError, match=r"other arguments \(.*calibration"):
            wn.prune_checkpoint(source, tmp_path / "out", **other)
    wn.prune_checkpoint(source, tmp_path / "out", calibration=norms)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole") and tensors(tmp_path / "out")
