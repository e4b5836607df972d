"""What the block loop computes: counted by the formula, as torch counts it while it runs."""

import pytest
import torch
from tiny import ARCHITECTURES, tiny_family, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import wanda_nb as wn
from wanda_nb.cost import loop_flops, windows_by_batch
from wanda_nb.reporting.progress import duration


def counted(states, blocks):
    """What torch counts in capture and in propagate, with attention by its plain kernel."""
    capture = propagate = 0
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for index, block in enumerate(blocks):
            with FlopCounterMode(display=False) as counter, wn.InputNorms(block) as norms:
                states.capture(index, block, "cpu", norms)
            capture += counter.get_total_flops()
            if block is not blocks[-1]:
                with FlopCounterMode(display=False) as counter:
                    states.advance(index, block, "cpu")
                propagate += counter.get_total_flops()
    return capture, propagate


#: Their blocks read values, or are handed an object of each batch's own: no batch may stop early.
RUN_WHOLE = "falcon", "falcon-alibi", "gemma4"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_formula_counts_what_torch_counts(architecture, tokens):
    model, batches = tiny_model(architecture), windows_by_batch(*tokens.shape, 2)
    capture, propagate = counted(wn.first_hidden_states(model, tokens, batch_size=2), wn.decoder_blocks(model))
    expected = loop_flops(model, batches)
    assert propagate == expected.propagate and expected.total == expected.capture + propagate
    if architecture in RUN_WHOLE:
        assert capture == sum(loop_flops(model, [batch]).capture for batch in batches)
    else:
        assert capture == expected.capture


@pytest.mark.parametrize("settings", [{"num_key_value_heads": 1}, {"head_dim": 16}, {"num_hidden_layers": 1}], ids=str)
def test_heads_of_any_number_and_width(settings, tokens):
    model = tiny_model(**settings)
    states = wn.first_hidden_states(model, tokens, batch_size=4)  # 4 windows and 2: two shapes
    assert counted(states, wn.decoder_blocks(model)) == loop_flops(model, windows_by_batch(*tokens.shape, 4))


@pytest.mark.parametrize("family", ["vit", "bert", "llava's images", "llava's language"])
def test_models_of_other_inputs(family):
    model, inputs, which = tiny_family(family)
    blocks = wn.decoder_blocks(model, which)
    states = wn.first_hidden_states(model, inputs, batch_size=2, blocks=blocks)
    shapes = [hidden.shape[:2] for hidden in states.hidden]
    assert counted(states, blocks) == loop_flops(model, shapes, blocks)
    report = wn.prune(model, inputs, batch_size=2, blocks=which)
    assert report.flops == loop_flops(model, shapes, blocks).total
    assert report.tokens == (5, shapes[0][1])


@pytest.mark.parametrize("family", ["whisper decoder", "convnext"])
def test_what_the_formula_does_not_know_is_not_counted(family):
    """Layers that read an encoder's output, and channels that come first."""
    model, inputs, blocks = tiny_family(family)
    report = wn.prune(model, inputs, blocks=blocks)
    assert report.flops == 0 and "matrix products" not in repr(report)
    assert report.tokens == {"whisper decoder": (5, 7), "convnext": (5, 16)}[family]


def test_padding_is_not_computed(tokens):
    mask = torch.ones_like(tokens)
    mask[0, :4] = mask[3, :7] = mask[5, :4] = 0
    model = tiny_model()
    states = wn.first_hidden_states(model, tokens, mask, batch_size=2)
    shapes = [hidden.shape[:2] for hidden in states.hidden]
    assert counted(states, wn.decoder_blocks(model)) == loop_flops(model, shapes)
    report = wn.prune(model, tokens, attention_mask=mask, batch_size=2)
    assert report.flops == loop_flops(model, shapes).total


def test_batches_hold_all_windows():
    assert windows_by_batch(6, 12, 4) == [(4, 12), (2, 12)]
    assert windows_by_batch(6, 12, 6) == windows_by_batch(6, 12, 9) == [(6, 12)]


def test_the_bar_says_how_long_it_will_take(tokens, monkeypatch):
    """One window through every block took 30 s; the loop takes as many times that as it has operations."""
    said = []
    monkeypatch.setattr("wanda_nb.pruning.rehearse", lambda *_: 30.0)
    monkeypatch.setattr("tqdm.auto.tqdm.set_description", lambda bar, text: said.append(text))
    model = tiny_model()
    report = wn.prune(model, tokens, batch_size=2)
    one_window = loop_flops(model, [(1, 12)])
    assert one_window.capture == 3 / 2 * one_window.propagate  # a whole pass of three blocks, and of two
    assert said == [f"prune (wanda), about {duration(30 * report.flops / one_window.capture)}"]
    assert 30 * 6 < 30 * report.flops / one_window.capture < 2 * 30 * 6
