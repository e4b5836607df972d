"""What goes into each layer: input norms by hooks, and the hidden states that enter the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate.utils import send_to_device
from torch import nn

from .models import decoder_blocks, linear_layers, weight_matrix
from .ranks import sum_over_ranks, world


class Seen(Exception):
    """Raised by a hook once every layer of the block has shown its input: the rest need not be computed."""


class _InputSums(Mapping):
    """Something summed over the inputs of every linear layer in a block, by hooks; see InputNorms."""

    def __init__(self, block: nn.Module, stop_when_seen: bool = False):
        self._layers = linear_layers(block)
        self._sums: dict[str, torch.Tensor] = {}
        self._last = (None, None)
        self._hooks: list = []
        self._unseen = set(self._layers)
        self._stop = stop_when_seen
        #: Which tokens of the batch under way count, (batch, length), 0 for padding; None: all.
        self.token_mask: torch.Tensor | None = None

    def __enter__(self):
        for name, layer in self._layers.items():
            hook = layer.register_forward_pre_hook(self._watch(name), with_kwargs=True)
            self._hooks.append(hook)
        return self

    def __exit__(self, *error) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._last = (None, None)

    def _watch(self, name: str):
        def hook(layer, args, kwargs):
            x = args[0] if args else kwargs["input"]
            last, addend = self._last
            if x is not last:  # q, k and v read one tensor: sum it once
                addend = self._addend(self._rows(x.detach()))
                self._last = (x, addend)
            if name in self._sums:
                self._sums[name] += addend
            else:
                self._sums[name] = addend.clone()
            self._unseen.discard(name)
            if self._stop and not self._unseen:
                self._unseen = set(self._layers)  # for the next batch
                raise Seen

        return hook

    def sum_over_ranks(self) -> None:
        """Make the sums those over the tokens of all ranks; nothing where there is one process."""
        if world()[1] == 1:
            return
        for name, layer in self._layers.items():
            W = weight_matrix(layer)
            if not sum_over_ranks(torch.tensor(int(name in self._sums), device=W.device)):
                continue  # an expert that no rank's tokens chose
            if name not in self._sums:
                self._sums[name] = self._addend(torch.zeros(1, W.shape[1], device=W.device))
            sum_over_ranks(self._sums[name])

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.token_mask is not None:
            rows = rows[self.token_mask.to(x.device).reshape(-1).bool()]
        return rows.float()

    def _addend(self, X: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._sums[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._layers if name in self._sums)

    def __len__(self) -> int:
        return len(self._sums)


class InputNorms(_InputSums):
    """The L2 norm of every input channel of every linear layer in a block, over all tokens seen.

    Used in a ``with`` statement: while it is open, hooks watch each layer's input X (tokens, in), and
    ``norms["mlp.down_proj"]`` is ``X.norm(dim=0)``, (in,) float32, over everything the block has
    read so far. Sums of squares are taken in float32 whatever the dtype of X. The hooks leave with the statement, the
    norms stay. Raises KeyError for a layer that has seen no token.
    Introduced in notebook 01, "Streaming norms"; equation 1 of the paper.
    """

    def _addend(self, X):
        return X.pow(2).sum(dim=0)

    def __getitem__(self, name):
        return super().__getitem__(name).sqrt()


class InputGrams(_InputSums):
    """XᵀX (in, in) float32 of every linear layer's input X (tokens, in), over all tokens seen.

    Half the Hessian of the layer's squared output error in each row of W, up to a constant; its diagonal holds
    the squared norms. Used like InputNorms. Introduced in notebook 05, "The Hessian".
    """

    def _addend(self, X):
        return X.T @ X


class HiddenStates:
    """Calibration windows on their way through the model: what enters the next block.

    Built by ``first_hidden_states``. buffer: (samples, length, width), in the model's dtype; hidden: its batches, views
    (batch, length, width) which every block overwrites in turn.
    """

    def __init__(self, buffer, batch_size, calls, token_masks):
        self.buffer: torch.Tensor = buffer
        self.hidden = buffer.split(batch_size)
        self.calls = calls  # [batch][block] -> (args, kwargs): masks, positions and whatever else the model passes on
        self.token_masks = token_masks

    def through(self, index: int, block: nn.Module, device) -> Iterator[tuple[int, torch.Tensor]]:
        """Run block number ``index`` on every batch; yields (batch number, output or None).

        None where a capture stopped the block since it had seen all it wanted.
        """
        for number, (hidden, calls) in enumerate(zip(self.hidden, self.calls, strict=True)):
            args, kwargs = send_to_device(calls[index], device)
            try:
                output = block(hidden.to(device), *args, **kwargs)
            except Seen:
                output = (None,)
            yield number, output if isinstance(output, torch.Tensor) else output[0]

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Replace what entered block number ``index`` by what leaves it."""
        for number, output in self.through(index, block, device):
            self.hidden[number].copy_(output)


@torch.no_grad()
def first_hidden_states(
    model, tokens: torch.Tensor, attention_mask=None, batch_size: int = 4, allocate=torch.empty
) -> HiddenStates:
    """The hidden states (batch, length, width) that enter the first block, for all tokens (samples, length).

    The model's own code prepares masks and positions for each block, while its blocks stand idle, so
    only the embeddings are computed. attention_mask: (samples, length), 0 for padding. allocate: what makes their
    buffer, called like torch.empty with shape, dtype and device.
    Raises ValueError for a model that does not run its blocks once each, in order.
    Introduced in notebook 03, "Stop before the first block".
    """
    blocks = decoder_blocks(model)
    where = model.get_input_embeddings().weight.device
    buffer, calls, token_masks = None, [], []
    by_shape: dict[tuple, list] = {}  # without padding, batches of one shape are called alike
    with _idle(blocks) as seen:
        for number, batch in enumerate(tokens.split(batch_size)):
            mask = None if attention_mask is None else attention_mask.split(batch_size)[number]
            if mask is not None and bool(mask.all()):
                mask = None
            seen.clear()
            model.base_model(
                input_ids=batch.to(where),
                attention_mask=None if mask is None else mask.to(where),
                use_cache=False,
            )
            _check_order(model, blocks, seen, batch)
            first = seen[0][1]
            if buffer is None:
                buffer = allocate((*tokens.shape, first.shape[-1]), dtype=first.dtype, device=first.device)
            buffer[number * batch_size :][: len(batch)].copy_(first)
            call = [(args, kwargs) for _, _, args, kwargs in seen]
            calls.append(call if mask is not None else by_shape.setdefault(tuple(batch.shape), call))
            token_masks.append(mask)
    return HiddenStates(buffer, batch_size, calls, token_masks)


@contextmanager
def _idle(blocks):
    """Let every block note how it is called and hand its input on, computing nothing."""
    seen: list[tuple] = []
    answers: dict[type, int | None] = {}  # how blocks of a class answer: a tensor (None) or so long a tuple

    def stand_in(index, block, forward):
        def idle(*args, **kwargs):
            if args:
                x, args = args[0], args[1:]
            else:
                x = kwargs.pop("hidden_states")
            seen.append((index, x, args, kwargs))
            if type(block) not in answers:  # ask the block itself, once
                output = forward(x, *args, **kwargs)
                answers[type(block)] = None if isinstance(output, torch.Tensor) else len(output)
                return output
            length = answers[type(block)]
            return x if length is None else (x, *[None] * (length - 1))

        return idle

    with replaced_forward(*[(block, stand_in(i, block, block.forward)) for i, block in enumerate(blocks)]):
        yield seen


@contextmanager
def replaced_forward(*pairs):
    """For a while, let each module of the (module, function) pairs compute the function instead."""
    before = [(module, module.__dict__.get("forward")) for module, _ in pairs]
    try:
        for module, function in pairs:
            module.forward = function
        yield
    finally:
        for module, forward in before:
            if forward is not None:
                module.forward = forward
            else:
                module.__dict__.pop("forward", None)


def _check_order(model, blocks, seen, batch) -> None:
    order = [index for index, *_ in seen]
    if order != list(range(len(blocks))) or seen[0][1].shape[:2] != batch.shape:
        raise ValueError(
            f"{type(model).__name__} is not supported: expected a model that runs its {len(blocks)} blocks once "
            f"each, in order, on hidden states (batch, length, width); it ran {order[:8]}…"
        )
