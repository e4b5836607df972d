"""Input norms: against the definition, over batches, without padding, in float32."""

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn


def norms_by_definition(model, tokens, keep=None):
    """X.norm(dim=0) of everything that each layer of block 1 reads, kept whole, in float64."""
    kept = {}
    block = wn.decoder_blocks(model)[1]
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: kept.setdefault(name, args[0]))
        for name, layer in wn.linear_layers(block).items()
    ]
    with torch.no_grad():
        model(input_ids=tokens, attention_mask=keep)
    for hook in hooks:
        hook.remove()
    rows = slice(None) if keep is None else keep.bool()
    return {name: x[rows].reshape(-1, x.shape[-1]).double().norm(dim=0) for name, x in kept.items()}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_norms_are_the_definition_whatever_the_batch(model, batch):
    tokens = torch.randint(3, 96, (16, 12))
    expected = norms_by_definition(model, tokens)
    with wn.InputNorms(wn.decoder_blocks(model)[1]) as norms, torch.no_grad():
        for part in tokens.split(batch):
            model(input_ids=part)
    assert list(norms) == list(expected) == list(wn.linear_layers(wn.decoder_blocks(model)[1]))
    for name, norm in norms.items():
        assert norm.dtype == torch.float32
        torch.testing.assert_close(norm.double(), expected[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_in_no_norm(model, side):
    tokens = torch.randint(3, 96, (5, 12))
    keep = torch.ones_like(tokens)
    for row, padding in enumerate([0, 3, 7, 1, 11]):
        where = slice(0, padding) if side == "left" else slice(12 - padding, 12)
        keep[row, where] = 0
    expected = norms_by_definition(model, tokens, keep)
    for batch in (1, 2, 5):
        states = wn.first_hidden_states(model, tokens, keep, batch_size=batch)
        blocks = wn.decoder_blocks(model)
        with torch.no_grad():
            states.advance(0, blocks[0], "cpu")
            with wn.InputNorms(blocks[1]) as norms:
                norms.token_mask = states.token_masks[0]
                for number, _ in states.through(1, blocks[1], torch.device("cpu")):
                    norms.token_mask = (*states.token_masks, None)[number + 1]
        for name in expected:
            torch.testing.assert_close(norms[name].double(), expected[name], rtol=1e-5, atol=0)
    assert any((norms_by_definition(model, tokens)[n] > expected[n] * 1.01).any() for n in expected)


def test_pruning_with_a_mask_ignores_what_the_padding_says(tokens):
    """Other tokens under the mask, same pruned model; and without the mask another one."""
    keep = torch.ones_like(tokens)
    keep[:, 8:] = 0
    other = torch.where(keep.bool(), tokens, torch.full_like(tokens, 50))
    pruned = []
    for calibration, mask in ((tokens, keep), (other, keep), (tokens, None)):
        model = tiny_model()
        wn.prune(model, calibration, attention_mask=mask)
        pruned.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(pruned[0], pruned[1])
    assert not torch.equal(pruned[0], pruned[2])


def test_sums_of_squares_are_float32_for_half_precision_inputs():
    """300² overflows float16; so would the sum of 100,000 ones in bfloat16."""
    block = torch.nn.Sequential(torch.nn.Linear(4, 2)).half()
    with wn.InputNorms(block) as norms:
        for _ in range(3):
            block[0](torch.full((1, 10, 4), 300.0).half())
    torch.testing.assert_close(norms["0"], torch.full((4,), 300.0 * 30**0.5))


def test_layers_that_read_one_tensor_share_its_norm(model, tokens):
    block = wn.decoder_blocks(model)[0]
    with wn.InputNorms(block) as norms, torch.no_grad():
        model(input_ids=tokens)
    assert torch.equal(norms["self_attn.q_proj"], norms["self_attn.v_proj"])
    assert torch.equal(norms["mlp.gate_proj"], norms["mlp.up_proj"])
    assert not torch.equal(norms["self_attn.q_proj"], norms["mlp.up_proj"])


def test_hooks_leave_with_the_statement_even_on_an_error(model, tokens):
    block = wn.decoder_blocks(model)[0]
    with pytest.raises(KeyboardInterrupt), wn.InputNorms(block):
        raise KeyboardInterrupt
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_saw_nothing_has_no_norm(model):
    with wn.InputNorms(wn.decoder_blocks(model)[0]) as norms:
        pass
    assert len(norms) == 0 and list(norms) == []
    with pytest.raises(KeyError):
        norms["mlp.down_proj"]


def test_the_first_hidden_states_are_the_embeddings(model, tokens):
    states = wn.first_hidden_states(model, tokens, batch_size=4)
    assert [tuple(h.shape) for h in states.hidden] == [(4, 12, 32), (2, 12, 32)]
    assert torch.equal(torch.cat(states.hidden), model.get_input_embeddings()(tokens))
    assert all("forward" not in module.__dict__ for module in model.modules())
