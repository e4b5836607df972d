"""Models of images, speech and both, encoders and decoders: pruned by what enters their blocks, whatever that is."""

import copy

import pytest
import torch
from tiny import FAMILIES, tiny_family, tiny_model
from torch import nn
from transformers import AutoModel, BatchFeature, ResNetConfig, ResNetModel, T5Config, T5Model, ViTImageProcessor
from whole import prune_whole, same

import wanda_nb as wn
from wanda_nb import distributed
from wanda_nb.blocks import is_pointwise
from wanda_nb.reporting.identity import tokens_identity

IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def in_batches(inputs, size):
    return [{name: tensor[start : start + size] for name, tensor in inputs.items()} for start in range(0, 5, size)]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_whole_model_calibration(family, batch_size):
    model, inputs, blocks = tiny_family(family)
    expected = prune_whole(tiny_family(family)[0], in_batches(inputs, batch_size), blocks=blocks)
    report = wn.prune(model, inputs, batch_size=batch_size, blocks=blocks)
    assert same(model, expected)
    assert report.reached == wn.sparsity(model, blocks) == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_the_linear_layers_of_the_blocks_changes(family):
    model, inputs, blocks = tiny_family(family)
    layers = {id(m.weight) for block in wn.decoder_blocks(model, blocks) for m in wn.linear_layers(block).values()}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    wn.prune(model, inputs, blocks=blocks)
    changed = {id(p) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == layers


def test_token_ids_are_the_same_by_name(tokens):
    keep = torch.ones_like(tokens)
    keep[0, :5] = keep[2, 9:] = 0
    plain, named = tiny_model(), tiny_model()
    tokens[:, 0] = tokens[0, 5] = 1  # BOS
    expected = wn.prune(plain, tokens, attention_mask=keep, batch_size=4)
    report = wn.prune(named, BatchFeature({"input_ids": tokens, "attention_mask": keep}), batch_size=4)
    assert same(plain, named) and report.tokens == (6, 12) and report.bos is expected.bos is True
    assert report.flops == expected.flops
    model, inputs, _ = tiny_family("vit")
    assert wn.prune(model, inputs).bos is None


def cut(inputs, keep, size, beside):
    """In batches, but a sample with padding by itself: of what is beside the tokens, only what lies at real ones."""
    for start in range(0, 5, size):
        rows = range(start, min(start + size, 5))
        if bool(keep[rows].all()):
            yield {name: tensor[rows] for name, tensor in inputs.items()}
            continue
        for row in rows:
            real = keep[row].nonzero().flatten()
            one = {name: tensor[row][None] for name, tensor in inputs.items()}
            yield {name: tensor[:, real] if name in beside else tensor for name, tensor in one.items()}


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "llava's language", "llava's images"])
def test_a_sample_with_padding_is_read_without_it(family):
    """What lies beside the tokens is cut with them, images are not; and tokens stay where they were."""
    model, inputs, blocks = tiny_family(family)
    keep = torch.ones(5, 20, dtype=torch.long)
    keep[1, :2] = keep[4, 19:] = 0
    if family == "bert":
        inputs["token_type_ids"] = (torch.arange(20) > 11).long().expand(5, 20)
    expected = copy.deepcopy(model)
    placed = {**inputs, "position_ids": torch.arange(20).expand(5, 20), "attention_mask": keep}
    beside = {"input_ids", "token_type_ids", "position_ids", "attention_mask"}
    prune_whole(expected, list(cut(placed, keep, 2, beside)), blocks=blocks)
    for given in ({**inputs, "attention_mask": keep}, placed):  # with positions, too
        pruned = copy.deepcopy(model)
        wn.prune(pruned, given, batch_size=2, blocks=blocks)
        assert same(pruned, expected)


@pytest.mark.parametrize("blocks", ["encoder", "decoder"])
def test_padding_of_a_model_that_takes_no_positions(blocks):
    model, inputs, _ = tiny_family("bart decoder")
    keep = torch.ones(5, 20, dtype=torch.long)
    keep[0, 15:] = keep[4, 19:] = 0
    inputs["decoder_input_ids"] = torch.cat([inputs["decoder_input_ids"], inputs["input_ids"]], dim=1)  # the longer one
    expected = prune_whole(copy.deepcopy(model), list(cut(inputs, keep, 2, {"input_ids"})), blocks=blocks)
    left = keep.flip(1)
    with pytest.raises(
        ValueError, match=r"BartModel puts tokens at other positions if the padding before .* on the right"
    ):
        wn.prune(model, {**inputs, "attention_mask": left}, blocks=blocks)
    wn.prune(model, {**inputs, "attention_mask": keep}, batch_size=2, blocks=blocks)
    assert same(model, expected)


def test_what_a_decoder_reads_is_not_cut_although_as_long_as_the_tokens():
    model, inputs, _ = tiny_family("bart decoder")
    inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    keep = torch.ones(5, 20, dtype=torch.long)
    keep[1, 15:] = 0
    expected = prune_whole(copy.deepcopy(model), list(cut(inputs, keep, 2, {"input_ids"})), blocks="decoder")
    wn.prune(model, {**inputs, "attention_mask": keep}, batch_size=2, blocks="decoder")
    assert same(model, expected)


def test_the_masks_do_not_depend_on_what_says_which_blocks():
    models = [tiny_family("whisper encoder")[:2] for _ in range(3)]
    for (model, inputs), blocks in zip(models, ("encoder", "encoder.layers", None), strict=True):
        wn.prune(model, inputs, blocks=model.encoder.layers if blocks is None else blocks)
    assert same(models[0][0], models[1][0]) and same(models[0][0], models[2][0])


def test_stages_are_pruned_one_after_the_other():
    model, inputs, _ = tiny_family("convnext")
    expected = copy.deepcopy(model)
    for stage in ("stages.0", "stages.1"):
        prune_whole(expected, in_batches(inputs, 2), blocks=stage)
        wn.prune(model, inputs, batch_size=2, blocks=stage)
    assert same(model, expected)
    with pytest.raises(ValueError, match=r"encoder.stages.0.layers \(2 blocks\), encoder.stages.1.layers \(3 blocks\)"):
        wn.prune(model, inputs)


def test_a_model_with_several_lists_of_blocks_refuses_to_guess():
    model = tiny_family("llava's images")[0]
    listing = r"vision_tower.encoder.layers \(3 blocks\), language_model.layers \(3 blocks\)"
    with pytest.raises(
        ValueError, match=rf"LlavaModel has {listing}: .* several. .* blocks='vision_tower.encoder.layers'"
    ):
        wn.prune(model, {"pixel_values": IMAGES})
    for name in ("vision", "audio_tower", "layers.0"):
        with pytest.raises(ValueError, match=rf"{listing}: blocks='{name}' names none"):
            wn.decoder_blocks(model, name)
    with pytest.raises(ValueError, match=rf"{listing}: .* several"):
        wn.decoder_blocks(model, "layers")


def test_a_whole_name_is_that_list_although_it_is_a_part_of_another():
    one, other = (nn.ModuleList([nn.Linear(2, 2)]) for _ in range(2))
    model = nn.ModuleDict({"decoder": nn.ModuleDict({"layers": one}), "layers": other})
    assert wn.decoder_blocks(model, "layers") == [*other] and wn.decoder_blocks(model, "decoder") == [*one]


@pytest.mark.parametrize("blocks", [[], [nn.Linear(2, 2)], "norms", 3])
def test_a_list_of_blocks_is_of_the_model(blocks, model):
    blocks = [model.model.norm] if blocks == "norms" else blocks
    with pytest.raises(
        ValueError, match="expected a name, or a list of modules of LlamaForCausalLM, each with linear la"
    ):
        wn.decoder_blocks(model, blocks)


class Permuted(nn.Module):
    """A convolution in a block whose channels come last."""

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, x):
        return self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def convolved():
    """ConvNeXt in its other implementation: 1×1 convolutions in place of linear layers."""
    model, inputs, blocks = tiny_family("convnext")
    for block in wn.decoder_blocks(model, blocks):
        for name in ("pwconv1", "pwconv2"):
            linear = getattr(block, name)
            convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
            convolution.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
            setattr(block, name, Permuted(convolution))
    return model, inputs, blocks


@pytest.mark.parametrize("how", [{}, {"method": "ria"}, {"pattern": "2:4"}, {"update": "one-shot"}], ids=str)
def test_a_convolution_of_one_by_one_is_a_linear_layer(how):
    model, inputs, blocks = convolved()
    if not how:
        expected = prune_whole(copy.deepcopy(model), in_batches(inputs, 2), blocks=blocks)
    linear = tiny_family("convnext")[0]
    wn.prune(linear, inputs, batch_size=2, blocks=blocks, **how)
    report = wn.prune(model, inputs, batch_size=2, blocks=blocks, **how)
    assert how or same(model, expected)
    assert len(report.layers) == 6 and report.reached == 0.5
    for block, plain in zip(*(wn.decoder_blocks(m, blocks) for m in (model, linear)), strict=True):
        for one, other in zip(wn.linear_layers(block).values(), wn.linear_layers(plain).values(), strict=True):
            torch.testing.assert_close(wn.weight_matrix(one), other.weight, rtol=1e-4, atol=1e-5)


def test_one_tensor_read_by_channels_last_and_by_channels_first_is_two_inputs():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.convolution = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

        def forward(self, x):
            return self.linear(x) + self.convolution(x)

    block, x = Both(), torch.randn(3, 4, 4)
    with wn.InputNorms(block) as norms:
        block(x)
        block.convolution(x[0])  # no batch
    torch.testing.assert_close(norms["linear"], x.pow(2).sum(dim=(0, 1)).sqrt())
    torch.testing.assert_close(norms["convolution"], (x.pow(2).sum(dim=(0, 2)) + x[0].pow(2).sum(dim=1)).sqrt())


@pytest.mark.parametrize(
    ("settings", "linear"),
    [
        ({"kernel_size": 1}, True),
        ({"kernel_size": 1, "padding": "same"}, True),
        ({"kernel_size": (1, 3)}, False),
        ({"kernel_size": 1, "stride": (1, 2)}, False),
        ({"kernel_size": 1, "padding": 1}, False),
        ({"kernel_size": 1, "groups": 2}, False),
    ],
    ids=str,
)
def test_a_convolution_that_reads_all_channels_at_each_position_is_linear(settings, linear):
    assert is_pointwise(nn.Conv2d(4, 4, **settings)) is linear
    assert not is_pointwise(nn.ConvTranspose2d(4, 4, 1)) and not is_pointwise(nn.Linear(4, 4))


def test_what_is_left_is_reported():
    model, inputs, blocks = tiny_family("convnext v2")
    report = wn.prune(model, inputs, blocks=blocks)
    left = report.left.set_index(["name", "why"])
    pruned = sum(
        layer.weight.numel() for b in wn.decoder_blocks(model, blocks) for layer in wn.linear_layers(b).values()
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    assert left["weights"].sum() + pruned == total and left["share"].sum() == pytest.approx(1 - pruned / total)
    convolution = left.loc["encoder.stages.*.layers.*.dwconv.weight", "a convolution over 7×7 positions"]
    assert convolution["kind"] == "Conv2d" and convolution["weights"] == (2 * 16 + 3 * 32) * 49
    other = left.loc["encoder.stages.*.layers.*.pwconv1.weight", "outside the blocks"]
    assert other["weights"] == 3 * 32 * 128 and other["share"] == other["weights"] / total
    assert left.loc["encoder.stages.*.layers.*.grn.weight", "a number for each channel"]["weights"] == 2 * 64 + 3 * 128
    line = f"left as they are: {1 - pruned / total:.1%} of all weights (Linear 64.0%, Conv2d 22.0%, "
    assert line in repr(report) and line in report._repr_html_()


def test_the_same_is_left_in_memory_and_on_disk_where_the_head_is_the_embeddings(tokens, tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "dense")
    report = wn.prune(model, tokens)
    assert report.left["why"].value_counts().to_dict() == {"a table, looked up": 1, "a number for each channel": 3}
    assert report.left.equals(wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", tokens).left)


def test_embeddings_and_layers_that_read_values_apart_are_left(tokens):
    model = tiny_model()
    for layer in model.model.layers:
        layer.mlp.up_proj = nn.Sequential(Permuted(nn.Conv2d(32, 32, 1, groups=2)), layer.mlp.up_proj)
        layer.mlp.up_proj[0].forward = lambda x, own=layer.mlp.up_proj[0]: Permuted.forward(own, x[:, :, None])[:, :, 0]
    report = wn.prune(model, tokens)
    assert len(report.layers) == 21
    assert "a convolution with a stride, padding or groups" in set(report.left["why"])


@pytest.mark.parametrize("family", ["vit", "convnext", "whisper decoder", "llava's images"])
def test_norms_of_the_dense_model_prune_it_too(family, tmp_path):
    """The first block reads in the dense model what it reads in the pruned one."""
    model, inputs, blocks = tiny_family(family)
    by_norms = copy.deepcopy(model)
    calibration = wn.calibrate(model, inputs, blocks=blocks, batch_size=2)
    calibration.save(tmp_path / "norms.safetensors")
    report = wn.prune(by_norms, calibration=wn.load_calibration(tmp_path / "norms.safetensors"), blocks=blocks)
    assert report.activations == "norms of the dense model" and report.reached == 0.5
    wn.prune(model, inputs, blocks=blocks, batch_size=2)
    assert same(wn.decoder_blocks(model, blocks)[0], wn.decoder_blocks(by_norms, blocks)[0])
    with pytest.raises(ValueError, match="The calibration is of another model"):
        wn.prune(by_norms, calibration=calibration, blocks=blocks)


def test_sparsity_by_outliers_of_chosen_blocks():
    model, inputs, blocks = tiny_family("whisper decoder")
    shares = wn.owl_sparsity(model, inputs, 0.6, blocks=blocks, batch_size=2)
    assert len(shares) == 3 and len(set(shares)) == 3
    report = wn.prune(model, inputs, sparsity=shares, blocks=blocks)
    assert abs(report.reached - 0.6) < 0.03


TEXT = {"input_ids": torch.full((5, 20), 7)}


@pytest.mark.parametrize(
    ("family", "inputs", "message"),
    [
        ("vit", {}, "There are no inputs: the dict is empty"),
        ("vit", {"images": IMAGES}, "ViTModel takes no 'images': expected some of pixel_values, bool_masked_pos"),
        ("vit", {"pixel_values": IMAGES, "kwargs": IMAGES}, "ViTModel takes no 'kwargs'"),
        ("vit", {"pixel_values": [IMAGES]}, r"pixel_values is list: expected a tensor \(samples, ...\)"),
        ("vit", {"pixel_values": torch.tensor(1.0)}, "pixel_values is a single number"),
        ("vit", {"pixel_values": IMAGES / 0}, "pixel_values has values that are not finite"),
        (
            "vit",
            {"pixel_values": IMAGES[:0]},
            "Numbers of samples: pixel_values 0. Expected the same of each, and at l",
        ),
        ("vit", TEXT["input_ids"], "ViTModel reads no token ids alone: expected a dict, {'pixel_values': ...}"),
        ("bert", None, "tokens is NoneType: expected a LongTensor"),
        (
            "llava's images",
            {"pixel_values": IMAGES[:4], **TEXT},
            "Numbers of samples: pixel_values 4, input_ids 5. Expected the same of each",
        ),
        ("bert", {"input_ids": TEXT["input_ids"] * 20}, "Token ids from 140 to 140: the model knows 0 to 95"),
        ("bert", {**TEXT, "attention_mask": torch.ones(5, 19)}, r"attention_mask is \(5, 19\), tokens \(5, 20\)"),
        ("bart encoder", {**TEXT, "decoder_input_ids": TEXT["input_ids"] * 20}, "Token ids from 140 to 140"),
        (
            "bart encoder",
            {**TEXT, "decoder_input_ids": TEXT["input_ids"], "decoder_attention_mask": torch.eye(5, 20)},
            "decoder_attention_mask hides some positions, which would count in the statistics",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_inputs_that_the_model_cannot_read_are_refused(family, inputs, message):
    model, _, blocks = tiny_family(family)
    for run in (wn.prune, wn.calibrate):
        with pytest.raises(ValueError, match=message):
            run(model, inputs, blocks=blocks)
    assert wn.sparsity(model, blocks) == 0


def test_a_mask_of_inputs_by_name_is_one_of_them(tokens):
    with pytest.raises(ValueError, match="attention_mask beside a dict of inputs: expected it in the dict"):
        wn.prune(tiny_model(), {"input_ids": tokens}, attention_mask=torch.ones_like(tokens))


def test_a_block_that_changes_the_shape_is_refused_and_can_be_left_out():
    torch.manual_seed(0)
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 3], layer_type="bottleneck")
    model = ResNetModel(ResNetConfig(**sizes)).eval()
    inputs = {"pixel_values": torch.randn(5, 3, 32, 32)}
    with pytest.raises(ValueError, match=r"block 0 turns hidden states \(1, 8, 8, 8\) into \(1, 16, 4, 4\)"):
        wn.prune(model, inputs, blocks=model.encoder.stages[1].layers)
    rest = model.encoder.stages[1].layers[1:]
    expected = copy.deepcopy(model)
    prune_whole(expected, in_batches(inputs, 2), blocks=expected.encoder.stages[1].layers[1:])
    wn.prune(model, inputs, blocks=rest, batch_size=2)
    assert same(model, expected)


def test_a_block_that_changes_the_shape_later_is_refused():
    """All blocks are of one class, and only the first one of a class is run before the loop."""
    model, inputs, _ = tiny_family("vit")
    late = model.layers[1]
    late.forward = lambda x, *args, own=late.forward, **kwargs: own(x, *args, **kwargs)[:, :1]
    with pytest.raises(ValueError, match=r"block 1 turns hidden states \(1, 17, 32\) into \(1, 1, 32\)"):
        wn.prune(model, inputs)
    assert wn.sparsity(model) == 0


def test_samples_that_enter_in_several_pieces_are_refused():
    model, inputs, _ = tiny_family("vit")
    whole = model.embeddings.forward
    model.embeddings.forward = lambda *args, **kwargs: whole(*args, **kwargs).repeat(2, 1, 1)
    with pytest.raises(
        ValueError, match="ViTModel is not supported: expected a model that runs its 3 blocks once each"
    ):
        wn.prune(model, inputs)


@pytest.mark.parametrize("blocks", ["encoder", "decoder"])
def test_an_encoder_decoder_whose_blocks_hand_on_more_is_refused_for_that(blocks):
    """T5's first block computes a bias of positions for all others."""
    sizes = dict(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    model = T5Model(T5Config(**sizes)).eval()
    listing = r"encoder.block \(2 blocks\), decoder.block \(2 blocks\)"
    with pytest.raises(ValueError, match=f"T5Model has {listing}: .* Name one of them, such as blocks='encoder.block'"):
        wn.decoder_blocks(model)
    with pytest.raises(
        ValueError, match="block 1 is called with something that depends on what earlier blocks put out"
    ):
        wn.prune(model, {**TEXT, "decoder_input_ids": TEXT["input_ids"]}, blocks=blocks)


def test_a_folder_is_of_text_alone(tokens, tmp_path):
    tiny_model().save_pretrained(tmp_path / "dense")
    for run in (
        lambda given: wn.prune_checkpoint(tmp_path / "dense", tmp_path / "out", given),
        lambda given: wn.calibrate(tmp_path / "dense", given),
    ):
        with pytest.raises(
            ValueError, match=r"A checkpoint folder with a dict of inputs: .* Load the model into memory"
        ):
            run({"input_ids": tokens})
    with pytest.raises(ValueError, match="A checkpoint folder with blocks: "):
        wn.calibrate(tmp_path / "dense", tokens, blocks="layers")
    assert not (tmp_path / "out").exists()


def test_processes_share_the_samples_of_every_tensor(monkeypatch):
    inputs = {"input_ids": torch.arange(5)[:, None], "pixel_values": torch.arange(5.0)[:, None, None]}
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: (rank, 2))
        shares.append(distributed.my_share(inputs)[0])
    assert [share["input_ids"].flatten().tolist() for share in shares] == [[0, 1, 2], [3, 4]]
    assert [share["pixel_values"].flatten().tolist() for share in shares] == [[0, 1, 2], [3, 4]]
    monkeypatch.setattr(distributed, "world", lambda: (0, 6))
    with pytest.raises(ValueError, match="5 calibration windows for 6 processes"):
        distributed.my_share(inputs)


def test_inputs_are_known_again_by_names_values_and_types():
    given = {"pixel_values": IMAGES, "input_ids": TEXT["input_ids"]}
    known = tokens_identity(given, None)
    assert known == tokens_identity(dict(reversed(given.items())), None)
    others = [
        {**given, "pixel_values": IMAGES.double()},
        {**given, "pixel_values": -IMAGES},
        {"pixel_values": IMAGES, "labels": TEXT["input_ids"]},
        {"pixel_values": IMAGES.view(5, 3, -1), "input_ids": TEXT["input_ids"]},
    ]
    assert len({known, tokens_identity(given, TEXT["input_ids"]), *(tokens_identity(o, None) for o in others)}) == 6


@pytest.mark.parametrize("family", ["vit", "llava's images"])
def test_a_pruned_model_of_images_is_saved_and_loaded(family, tmp_path):
    model, inputs, blocks = tiny_family(family)
    report = wn.prune(model, inputs, blocks=blocks)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    wn.save_pruned(model, processor, tmp_path / "out", report, blocks=blocks)
    assert same(AutoModel.from_pretrained(tmp_path / "out"), model)
    assert "text-generation" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
