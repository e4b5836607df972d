"""What enters the blocks and how they are called: shared only where equal, stopped only where certain, or refused."""

import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
from tiny import UNUSUAL, Chunked, tiny_model, with_feed_forward
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import BartConfig, BartForCausalLM, BertConfig, BertLMHeadModel, DynamicCache
from whole import as_run, prune_whole, same

import wanda_nb as wn
from wanda_nb.inputs import hidden_states
from wanda_nb.inputs.hidden_states import HiddenStates
from wanda_nb.inputs.refusals import equal
from wanda_nb.patched import replaced_forward


def test_the_first_hidden_states_are_the_embeddings(model, tokens):
    for keep in (None, torch.ones_like(tokens)):
        states = wn.first_hidden_states(model, tokens, keep)
        assert [tuple(h.shape) for h in states.hidden] == [(4, 12, 32), (2, 12, 32)]
        assert torch.equal(torch.cat(states.hidden), model.get_input_embeddings()(tokens))
        assert len({h.untyped_storage().data_ptr() for h in states.hidden}) == 1
        assert not any(h.requires_grad for h in states.hidden)
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_a_forward_of_its_own_comes_back(model, tokens):
    """As accelerate puts one on the modules of a model that is spread over devices; also after an error."""
    first, second, _ = wn.decoder_blocks(model)
    whole = first.forward
    first.forward = own = lambda *args, **kwargs: whole(*args, **kwargs)
    wn.first_hidden_states(model, tokens)
    assert first.__dict__["forward"] is own and "forward" not in second.__dict__
    with pytest.raises(KeyboardInterrupt), replaced_forward((first, len), (second, len)):
        assert first.forward is second.forward is len
        raise KeyboardInterrupt
    assert first.__dict__["forward"] is own and "forward" not in second.__dict__


def test_equal_masks_and_positions_are_held_once(tokens):
    """Of six windows at a time two: the mask and the angles are those of the first batch, in every batch and block."""
    model = tiny_model("mistral")
    states = wn.first_hidden_states(model, tokens[:5], batch_size=2)
    masks = [[kwargs["attention_mask"] for _, kwargs in batch] for batch in states.calls]
    angles = [[kwargs["position_embeddings"][0] for _, kwargs in batch] for batch in states.calls]
    assert all(mask is masks[0][0] for batch in masks[:2] for mask in batch)
    assert all(angle is angles[0][0] for batch in angles for angle in batch)
    assert masks[2][0].shape[0] == 1 and all(mask is masks[2][0] for mask in masks[2])


def test_only_an_equal_tensor_at_the_same_place_stands_for_another():
    known: dict = {}

    def shared(*tensors):
        (args, _), (again, _) = hidden_states._share([(tensors, {}), (tensors, {})], known)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(args, tensors, strict=True))
        assert all(a is b for a, b in zip(args, again, strict=True))
        return args

    ones, zeros, longer = torch.ones(2), torch.zeros(2), torch.ones(3)
    for first, copies in [((ones, zeros), (ones.clone(), zeros.clone())), ((longer,), (longer.clone(),))]:
        assert all(a is b for a, b in zip(shared(*first), first, strict=True))
        assert all(a is b for a, b in zip(shared(*copies), first, strict=True))
    other, wide = zeros.clone(), ones.double()
    assert shared(other)[0] is other and shared(wide)[0] is wide


def test_equal_is_the_same_type_and_values():
    one, nan = torch.ones(1), torch.tensor(float("nan"))
    pairs = [(one, one.clone()), (nan, nan), (None, None), (2, 2), ("a", "a"), (object(), object())]
    others = [
        (one, one * 2),
        (one, one.double()),
        (one, None),
        (None, one),
        (2, 3),
        (2, 2.0),
        ("a", "b"),
        (True, False),
    ]
    assert all(equal(*pair) for pair in pairs)
    assert not any(equal(*pair) for pair in others)


def test_what_depends_on_the_tokens_is_kept_for_each_batch(tokens):
    """Gemma 4 hands each block embeddings of its own: as the model makes them for these tokens alone."""
    model = tiny_model("gemma4")
    states = wn.first_hidden_states(model, tokens, batch_size=4)
    for start, batch in zip((0, 4), states.calls, strict=True):
        alone = wn.first_hidden_states(model, tokens[start : start + 4], batch_size=4).calls[0]
        for (args, _), (expected, _) in zip(batch, alone, strict=True):
            assert args[0].shape[-1] == 8 and torch.equal(args[0], expected[0])
    assert not torch.equal(states.calls[0][0][0][0][:2], states.calls[1][0][0][0])
    assert states.calls[0][0][1]["shared_kv_states"] is not states.calls[1][0][1]["shared_kv_states"]
    assert states.calls[0][0][1]["shared_kv_states"] is states.calls[0][2][1]["shared_kv_states"]


def runs_of_the_last_layer(model, tokens, batch_size, attention_mask=None):
    """How often the last layer of block 1 multiplies while the block is captured."""
    states = wn.first_hidden_states(model, tokens, attention_mask, batch_size)
    block = wn.decoder_blocks(model)[1]
    ran = []
    list(wn.linear_layers(block).values())[-1].register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad(), wn.InputNorms(block) as norms:
        states.capture(1, block, "cpu", norms)
    return len(ran)


def test_a_plain_block_stops_at_its_last_layer(model, tokens):
    """The first batch of each shape shows what the last layer is."""
    assert runs_of_the_last_layer(model, tokens, 2) == 1
    assert runs_of_the_last_layer(model, tokens, 4) == 2
    keep = torch.ones_like(tokens)
    keep[:3, :2] = 0
    assert runs_of_the_last_layer(model, tokens, 3, keep) == 2


def test_a_block_in_chunks_stops_at_its_last_chunk(tokens):
    assert runs_of_the_last_layer(with_feed_forward(Chunked), tokens, 2) == 3 + 2 + 2


def test_a_block_that_reads_values_is_never_stopped(tokens):
    model = with_feed_forward(UNUSUAL["until large"])
    stopped = runs_of_the_last_layer(model, tokens, 1)
    block, ran = wn.decoder_blocks(model)[1], []
    block.mlp.mlp.down_proj.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        wn.first_hidden_states(model, tokens, None, 1).advance(1, block, "cpu")
    assert stopped == len(ran) > len(tokens)


class Steps(nn.Module):
    """As many steps as what it is called with says, without a look at any value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, how=None):
        for _ in range(x.shape[1] if how is None else steps(how)):
            x = self.layer(x)
        return x


def steps(how):
    if isinstance(how, torch.Tensor):
        return how.numel() * how.element_size() // 4
    return int(how) if isinstance(how, (int, float)) else len(how)


class Object:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


KINDS = {
    "length": (None, None),
    "int": (1, 2),
    "float": (1.0, 2.0),
    "str": ("a", "aa"),
    "object": (Object(1), Object(2)),
    "list": ([0], [0, 0]),
    "set": ({0}, {0, 1}),
    "nesting": ([[0, 0]], [[0], [0]]),
    "shape": (torch.ones(1), torch.ones(2)),
    "dtype": (torch.ones(1), torch.ones(1).double()),
}


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("by_name", [False, True])
def test_only_a_call_of_the_same_kind_is_stopped(how, by_name):
    """Two batches that differ in one thing, by which the second takes a step more."""
    block = Steps()
    batches = [torch.randn(1, 1, 4), torch.randn(1, 2 if how == (None, None) else 1, 4)]
    calls = [[((), {"how": one}) if by_name else ((one,), {})] for one in how]
    with torch.no_grad(), wn.InputNorms(block) as expected:
        for x, ((args, kwargs),) in zip(batches, calls, strict=True):
            block(x, *args, **kwargs)
    with torch.no_grad(), wn.InputNorms(block) as found:
        HiddenStates(batches, calls).capture(0, block, "cpu", found)
    assert torch.equal(found["layer"], expected["layer"])


@pytest.mark.parametrize("start", [0, 5])
def test_tokens_of_a_padded_window_keep_their_positions(start, model, tokens):
    keep = torch.zeros_like(tokens)
    keep[:, start : start + 7] = 1
    real, whole = (wn.first_hidden_states(model, tokens[:1], mask).calls[0] for mask in (keep[:1], None))
    for (_, here), (_, there) in zip(real, whole, strict=True):
        assert torch.equal(here["position_embeddings"][0], there["position_embeddings"][0][:, start : start + 7])


def test_positions_counted_by_the_mask_are_told_by_what_they_add(tokens):
    """OPT counts no padding; here a position adds the less the later it is."""
    model, keep, entered = tiny_model("opt"), torch.ones_like(tokens), []
    keep[0, :5] = 0
    with torch.no_grad():
        positions = model.model.decoder.embed_positions.weight
        positions.copy_(-torch.arange(len(positions))[:, None].expand_as(positions))
        block = wn.decoder_blocks(model)[0]
        with block.register_forward_pre_hook(lambda _, args: entered.append(args[0])):
            model(input_ids=tokens[:1], attention_mask=keep[:1])
    found = wn.first_hidden_states(model, tokens[:1], keep[:1]).hidden[0]
    assert torch.equal(found, entered[0][:, 5:])


def test_custom_code_that_knows_no_positions(tokens):
    model, keep = Between(hand_on), torch.ones_like(tokens)
    keep[0, :5] = 0
    found = wn.first_hidden_states(model, tokens[:2], keep[:2], batch_size=2).hidden
    for hidden, window, real in zip(found, tokens, keep.bool(), strict=False):
        assert torch.equal(hidden[0], model.embeddings(window[real]))


class Flex(nn.Module):
    """What torch does where flex attention is called while operations are watched."""

    config = SimpleNamespace(_attn_implementation="flex_attention")

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        assert _get_current_dispatch_mode() is None
        return self.layer(x)


def test_a_block_that_must_not_be_watched_is_not():
    block, x = Flex(), torch.randn(2, 3, 4)
    with torch.no_grad(), wn.InputNorms(block) as norms:
        HiddenStates([x[:1], x[1:]], [[((), {})], [((), {})]]).capture(0, block, "cpu", norms)
    torch.testing.assert_close(norms["layer"], x.flatten(0, 1).norm(dim=0))


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_padding_tokens_change_nothing_for_experts(make, tokens):
    """Also in windows that are all padding, and with a hole in the middle."""
    keep = torch.ones_like(tokens)
    keep[0, :5] = keep[1, 7:] = keep[2] = keep[4, 3:6] = 0
    pruned = []
    for padding in (50, 7):
        model = with_feed_forward(make)
        wn.prune(model, torch.where(keep.bool(), tokens, padding), attention_mask=keep, batch_size=3)
        pruned.append(model)
    assert same(*pruned)
    assert not same(pruned[0], prune_whole(with_feed_forward(make), list(as_run(tokens, None, 3))))


def test_values_that_overflow_in_the_padding_alone_stop_nothing(tokens):
    """The rehearsal of the first window counts real tokens only."""
    expected, model = tiny_model("gpt_neox"), tiny_model("gpt_neox")
    keep = torch.ones_like(tokens)
    keep[0, 8:] = keep[3, :2] = 0
    padded = torch.where(keep.bool(), tokens, torch.tensor(2))
    wn.prune(expected, padded, attention_mask=keep)
    with torch.no_grad():
        for each in (expected, model):
            each.get_input_embeddings().weight[2] = 3e38  # its sum is not finite
    assert not model(input_ids=padded).logits[0, 8:].isfinite().any()
    wn.prune(model, padded, attention_mask=keep)
    assert same(model, expected)


def test_a_first_window_of_padding_is_not_the_one_rehearsed(model, tokens):
    keep = torch.ones_like(tokens)
    keep[0] = 0
    wn.prune(model, tokens, attention_mask=keep)
    expected = tiny_model()
    wn.prune(expected, tokens[1:])
    assert same(model, expected)


def test_windows_of_nothing_but_padding(model, tokens):
    with pytest.raises(ValueError, match="attention_mask hides every token of the windows at hand"):
        wn.first_hidden_states(model, tokens, torch.zeros_like(tokens))


class Between(nn.Module):
    """A small language model of custom code, which does ``between`` to what blocks put out and pass on."""

    def __init__(self, between=lambda number, x, extra: (x, extra), start=lambda: None, block=None):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings, self.between, self.start = nn.Embedding(96, 8), between, start
        self.layers = nn.ModuleList((block or Block)() for _ in range(3))
        self.config, self.dtype = tiny_model().config, torch.float32

    @property
    def base_model(self):
        return self

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        x, extra = self.embeddings(input_ids), self.start()
        for number, layer in enumerate(self.layers):
            x, out = layer(x, extra)
            x, extra = self.between(number, x, out if extra is None else extra)
        return x


class Calls(Between):
    """A language model that calls its blocks in another order, or in another way."""

    def __init__(self, order=list, call=lambda layer, x: layer(x), block=None):
        super().__init__(block=block)
        self.order, self.call = order, call

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        x = self.embeddings(input_ids)
        for layer in self.order(self.layers):
            x = self.call(layer, x)[0]
        return x


class Block(nn.Module):
    """Returns hidden states and its values, and adds values that it is given."""

    number = 1

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, extra=None):
        values = self.a(x)
        return x + self.b(values.tanh() if extra is None else values + extra), values


def hand_on(number, x, extra):
    return x, None


class Named(Block):
    def forward(self, hidden_states, extra=None):
        return super().forward(hidden_states, extra)


class Returns(Block):
    parts = 1

    def forward(self, x, extra=None):
        return super().forward(x)[0], *[None] * (self.parts - 1)


class Appends(Block):
    def forward(self, x, extra=None):
        if self.number == 1:
            extra.append(x)
        return super().forward(x)


class Shifts(Appends):
    def forward(self, x, extra=None):
        if self.number == 1:
            extra += 1
        return Block.forward(self, x)


def numbered(model):
    """The model, of whose blocks number 1 is not like the first."""
    for number, block in enumerate(model.layers):
        block.number = number
    return model


class Replaces(Appends):
    def forward(self, x, extra=None):
        if self.number == 1:
            extra[0] = extra[0] + 1
        return Block.forward(self, x)


class Overwrites(Block):
    def forward(self, x, extra=None):
        output = super().forward(x)
        x.zero_()
        return output


def zeros():
    return torch.zeros(8)


REFUSED = {
    "values of block 0": (Between(), "block 1 is called with something that depends on what earlier blocks put out"),
    "a sum of what left": (
        Between(lambda number, x, extra: (x, x.mean())),
        "block 1 is called with something that depends on what earlier blocks put out",
    ),
    "a number of what left": (
        Between(lambda number, x, extra: (x, x.mean().item())),
        "block 1 is called with something that depends on what earlier blocks put out",
    ),
    "a scale in between": (Between(lambda number, x, extra: (x * 2, None)), "between block 0 and block 1"),
    "a scale in place": (Between(lambda number, x, extra: (x.mul_(2), None)), "between block 0 and block 1"),
    "a list to append to": (Between(start=list, block=Appends), "something that depends on what earlier blocks"),
    "a tensor to write to": (Between(start=zeros, block=Shifts), "something that depends on what earlier blocks"),
    "a list for block 1": (numbered(Between(start=list, block=Appends)), "block 1 writes into what it is called with"),
    "a tensor for block 1": (numbered(Between(start=zeros, block=Shifts)), "block 1 writes into what it is called wi"),
    "an entry for block 1": (
        numbered(Between(start=lambda: [zeros()], block=Replaces)),
        "block 1 writes into what it is called with",
    ),
    "another order": (Calls(reversed), r"its 3 blocks once each, in order, .* it ran \[2\]"),
    "a block twice": (Calls(lambda layers: [*layers, layers[2]]), r"it ran \[0, 1, 2, 2\]"),
    "a block less": (Calls(lambda layers: layers[:2]), r"it ran \[0, 1\]"),
    "rows in a row": (
        Calls(call=lambda layer, x: layer(x.flatten(0, -2))),
        r"\(batch, length, width\); it ran \[0, 1, 2\]",
    ),
    "another name": (
        Calls(call=lambda layer, x: layer(x=x, extra=None)),
        r"block 0 is called with no hidden states, but \['extra', 'x'\]",
    ),
    "values added": (
        Between(lambda number, x, extra: (x if extra is None else x + extra, None)),
        "between block 0 and block 1",
    ),
    "a cache for block 1": (
        numbered(Calls(call=lambda layer, x: layer(x, DynamicCache() if layer.number == 1 else None))),
        "block 1 is given a cache, although",
    ),
    "a cache": (Between(start=DynamicCache), "block 0 is given a cache, although"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_known_beforehand_is_refused_by_name(model, message, tokens):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=rf"^({type(model).__name__}|{type(model.layers[0]).__name__}) is not .*{message}"
    ):
        wn.prune(model, tokens, batch_size=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("block", [Block, Overwrites])
def test_custom_code_that_hands_on_hidden_states_alone(block, tokens):
    """Also where a block overwrites what it was given, as custom code may do to save memory."""
    model = Between(hand_on, block=block)
    expected = prune_whole(copy.deepcopy(model), list(as_run(tokens, None, 4)))
    wn.prune(model, tokens, batch_size=4)
    assert same(model, expected) and wn.sparsity(model) == 0.5


def test_blocks_that_are_called_by_name(tokens):
    model = Calls(call=lambda layer, x: layer(hidden_states=x, extra=None), block=Named)
    expected = prune_whole(copy.deepcopy(model), list(as_run(tokens, None, 4)))
    wn.prune(model, tokens, batch_size=4)
    assert same(model, expected)


@pytest.mark.parametrize("parts", [1, 3])
def test_idle_blocks_answer_with_as_much_as_blocks(parts, tokens, monkeypatch):
    def call(layer, x):
        output = layer(x)
        assert len(output) == parts
        return output

    monkeypatch.setattr(Returns, "parts", parts)
    model = Calls(call=call, block=Returns)
    expected = prune_whole(copy.deepcopy(model), list(as_run(tokens, None, 4)))
    wn.prune(model, tokens, batch_size=4)
    assert same(model, expected)


def test_what_a_model_does_after_its_last_block_changes_nothing(tokens):
    model = Between(lambda number, x, extra: (x.mul_(2) if number == 2 else x, None))
    states = wn.first_hidden_states(model, tokens)
    assert torch.equal(torch.cat(states.hidden), model.embeddings(tokens))


@pytest.mark.parametrize("compiles", ["blocks in place", "blocks wrapped", "model in place", "model wrapped"])
def test_a_model_compiled_and_used_before(compiles, tokens):
    """Hooks do not fire in compiled code: the blocks run as they were written, and stay compiled."""
    model, expected = Between(hand_on), Between(hand_on)
    wn.prune(expected, tokens, batch_size=2)
    if compiles == "blocks in place":
        for block in model.layers:
            block.compile(backend="eager")
    elif compiles == "blocks wrapped":
        for index, block in enumerate(model.layers):
            model.layers[index] = torch.compile(block, backend="eager")
    elif compiles == "model in place":
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with torch.no_grad():
        model(input_ids=tokens)
    wn.prune(model, tokens, batch_size=2)
    assert same(model, expected)
    torch.testing.assert_close(model(input_ids=tokens), expected(input_ids=tokens))


def test_an_expert_that_no_token_chose(tokens):
    model = with_feed_forward(UNUSUAL["experts"])
    with torch.no_grad():
        model.model.layers[1].mlp.router.bias[2] = -1e4
    with pytest.raises(ValueError, match=r"mlp.experts.2.0 in block 1 saw no token \(an expert never chosen\?\)"):
        wn.prune(model, tokens)


class Bypasses(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return nn.functional.linear(self.mlp.up_proj(x), self.mlp.down_proj.weight) + self.mlp.gate_proj(x)[..., :32]


def test_a_layer_that_its_block_does_not_call_is_no_expert(tokens):
    model = with_feed_forward(Bypasses)
    before = copy.deepcopy(model.state_dict())
    for look in (wn.prune, wn.first_hidden_states):
        with pytest.raises(ValueError, match=r"mlp.mlp.down_proj in block 0 is never called as a module"):
            look(model, tokens)
    model = with_feed_forward(lambda mlp: mlp)
    model.model.layers[2].mlp = Bypasses(model.model.layers[2].mlp)  # a block unlike the first of its class
    with pytest.raises(ValueError, match=r"mlp.mlp.down_proj in block 2 is never called .* 2 are already pruned"):
        wn.prune(model, tokens)
    assert before.keys() == with_feed_forward(Bypasses).state_dict().keys()


SIZES = dict(vocab_size=96, d_model=32, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4)
CROSS = {
    "bart": lambda: BartForCausalLM(BartConfig(**SIZES, decoder_ffn_dim=48, max_position_embeddings=64)),
    "bert": lambda: BertLMHeadModel(
        BertConfig(
            vocab_size=96,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            is_decoder=True,
            add_cross_attention=True,
        )
    ),
}


@pytest.mark.parametrize("make", CROSS.values(), ids=CROSS)
def test_a_decoder_with_cross_attention_is_refused_for_that(make, tokens):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"in block 0 belongs to cross-attention, which reads an encoder's output"):
        wn.prune(model, tokens)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_leaves_a_batch_is_let_go_before_the_next(tokens):
    model = tiny_model()
    block, outputs, alive = wn.decoder_blocks(model)[0], [], []
    states = wn.first_hidden_states(model, tokens, batch_size=2)

    def note(module, args, output):
        alive.append(sum(one() is not None for one in outputs))
        outputs.append(weakref.ref(output if isinstance(output, torch.Tensor) else output[0]))

    block.register_forward_hook(note)
    with torch.no_grad():
        states.advance(0, block, torch.device("cpu"))
    assert alive == [0] * len(states.hidden) and len(alive) > 1
