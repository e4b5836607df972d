"""Statistics of what goes into each layer, summed up by hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .blocks import linear_layers, rows_read, weight_matrix
from .device import has_float64
from .distributed import sum_over_ranks, world


class AllInputsSeen(Exception):
    """Raised by a hook when the last layer of the block receives its input, to stop the forward pass there."""


class _InputSums(Mapping):
    """Sums over the inputs of every linear layer in a block, taken by hooks; see InputNorms.

    exact: add the batches up in float64, which loses nothing however many there are; each is summed in float32.
    """

    def __init__(self, block: nn.Module, exact: bool = False):
        self._layers = linear_layers(block)
        self._exact = exact
        self._home: torch.device | None = None  # of the sums in float64
        #: What is summed up, by layer: squares (in,), or XᵀX (in, in).
        self.sums: dict[str, torch.Tensor] = {}
        #: Over how many tokens, by layer.
        self.tokens: dict[str, int] = {}
        self._last: tuple = (None, None, None, None, None, 0)
        self._hooks: list = []
        #: Which tokens of the current batch count, (batch, length), 0 for padding; None: all.
        self.token_mask: torch.Tensor | None = None
        #: Names of the layers in the order in which they were called; the caller may clear it.
        self.called: list[str] = []
        #: AllInputsSeen stops the forward pass once ``called`` equals this; None: never.
        self.stop_after: list[str] | None = None

    def __enter__(self):
        for name, layer in self._layers.items():
            hook = layer.register_forward_pre_hook(self._watch(name), with_kwargs=True)
            self._hooks.append(hook)
        return self

    def __exit__(self, *error) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._last = (None, None, None, None, None, 0)

    def _watch(self, name: str):
        def hook(layer, args, kwargs):
            x = args[0] if args else kwargs["input"]
            addend, tokens = self._addend_of(name, layer, x)
            if tokens:  # an expert may be called with none
                self.tokens[name] = self.tokens.get(name, 0) + tokens
                self.sums[name] = self.sums[name].add_(addend) if name in self.sums else addend.clone()
            self.called.append(name)
            if self.called == self.stop_after:
                raise AllInputsSeen

        return hook

    def _addend_of(self, name: str, layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What a layer's input adds, and how many tokens it holds.

        Computed once for q, k and v, which read one tensor, until it is written into.
        """
        version, read = write_count(x), rows_read(layer, x.detach())
        layout = read.shape, read.stride()
        last, last_version, last_mask, last_layout, *addend_and_tokens = self._last
        same = x is last and self.token_mask is last_mask and layout == last_layout
        if same and version is not None and version == last_version:
            return tuple(addend_and_tokens)
        X = self._rows(name, read)
        addend = self._summed(X)
        self._last = (x, version, self.token_mask, layout, addend, len(X))
        return addend, len(X)

    def _summed(self, X: torch.Tensor) -> torch.Tensor:
        addend = self._addend(X)
        if not self._exact:
            return addend
        if self._home is None:
            self._home = X.device if has_float64(X.device) else torch.device("cpu")
        return addend.to(self._home, torch.float64)

    def sum_over_ranks(self) -> None:
        """Replace each sum by the one over the tokens of all ranks; with a single process, do nothing."""
        if world()[1] == 1:
            return
        for name, layer in self._layers.items():
            W = weight_matrix(layer)
            tokens = int(sum_over_ranks(torch.tensor(self.tokens.get(name, 0), device=W.device)))
            if not tokens:
                continue  # an expert that no rank's tokens chose
            if name not in self.sums:
                self.sums[name] = self._summed(torch.zeros(1, W.shape[1], device=W.device))
            self.tokens[name] = tokens
            sum_over_ranks(self.sums[name])

    def _rows(self, name: str, x: torch.Tensor) -> torch.Tensor:
        rows, mask = x.reshape(-1, x.shape[-1]), self.token_mask
        if mask is None:
            return rows.float()
        if x.shape[:-1] not in (mask.shape, (mask.numel(),)):
            raise ValueError(
                f"{name} reads {tuple(x.shape)}, but token_mask is {tuple(mask.shape)}: it is unclear which rows are "
                "padding (an expert's tokens? a chunk?). Run each text by itself, unpadded, as prune() does."
            )
        return rows[mask.to(x.device).reshape(-1).bool()].float()

    def _addend(self, X: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.sums[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._layers if name in self.sums)

    def __len__(self) -> int:
        return len(self.sums)


class InputNorms(_InputSums):
    """The L2 norm of every input channel of every linear layer in a block, over all tokens seen.

    Used in a ``with`` statement, during which hooks watch each layer's input X (tokens, in);
    ``norms["mlp.down_proj"]`` is ``X.norm(dim=0)``, (in,) float32, over everything that the block has read so far.
    Squares are summed in float32 whatever the dtype of X. The hooks are removed when the statement ends; the norms
    stay. Raises KeyError for a layer that has seen no token.
    Introduced in notebook 01, "Streaming norms"; equation 1 of the paper.
    """

    def _addend(self, X):
        return X.pow(2).sum(dim=0)

    def __getitem__(self, name):
        return super().__getitem__(name).sqrt()


class InputGrams(_InputSums):
    """XᵀX (in, in) float32 of every linear layer's input X (tokens, in), over all tokens seen.

    This is half the Hessian of the layer's squared output error in each row of W; its diagonal holds the squared norms.
    Used like InputNorms. Introduced in notebook 05, "The Hessian".
    """

    def _addend(self, X):
        return X.T @ X


def write_count(thing) -> int | None:
    """How often a tensor was written into, through any view; None for anything for which torch does not count."""
    return None if not isinstance(thing, torch.Tensor) or thing.is_inference() else thing._version


@contextmanager
def value_reads():
    """While open, a list of the operations that read a tensor's values, or derive a shape from them.

    Without such an operation Python code cannot branch on the values. torch tags its own; those that leave torch, such
    as ``tolist``, are known by name.
    """
    operations: list = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
                operations.append(func)
            return func(*args, **(kwargs or {}))

    class Methods(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__", "__dlpack__", "__repr__"):
                operations.append(func)
            return func(*args, **(kwargs or {}))

    with Operations(), Methods():
        yield operations
