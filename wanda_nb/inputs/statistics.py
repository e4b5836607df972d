"""What the block loop knows of the inputs of each layer: captured as blocks run, or looked up in a calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import nn

from ..blocks import block_names, decoder_blocks, is_expert, linear_layers, weight_matrix
from ..calibration import Calibration
from ..capture import InputGrams
from ..reporting.progress import Clock
from .hidden_states import HiddenStates
from .refusals import never_called


class Inputs(Protocol):
    """What the block loop knows of the inputs of each layer: captured as blocks run, or looked up."""

    #: Whether blocks are run; in words, for the report; and (block, layer, tokens) of experts that saw too few.
    runs: bool
    kind: str
    by_magnitude: list[tuple[int, str, int]]

    def statistics(self, index: int, block: nn.Module, device) -> Mapping[str, torch.Tensor]:
        """What each linear layer of a block reads, by its name: norm (in,) or XᵀX (in, in)."""

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Go on from the input of a block to its output, if blocks are run."""


class Captured:
    """Inputs summed up as blocks run on the hidden states of this process's windows, over all processes.

    dense: blocks are left as they are, so each runs once, to its end: the pass that is watched also propagates. Sums
    are then kept in float64. rare: the fewest tokens that say something of an expert; of one that saw fewer, statistics
    are as if all its inputs were alike, and (block, layer, tokens) is noted in ``by_magnitude``.
    """

    runs, kind = True, "sequential"

    def __init__(self, states: HiddenStates, statistic: type, clock: Clock, dense: bool = False, rare: int = 0):
        self.states, self.statistic, self.clock, self.dense, self.rare = states, statistic, clock, dense, rare
        self.by_magnitude: list[tuple[int, str, int]] = []
        self.entered = 0  # the number of the block that the hidden states are about to enter

    def statistics(self, index: int, block: nn.Module, device):
        """An InputNorms or InputGrams. Raises ValueError for a layer that saw no input, or one that is not finite.

        With ``dense``, an expert may have seen none: more text can be added to a calibration.
        """
        with self.clock("capture"):
            with self.statistic(block, exact=self.dense) as sums:
                if self.dense:
                    self._run(index, block, device)
                else:
                    self.states.capture(index, block, device, sums)
            sums.sum_over_ranks()
            for name, layer in linear_layers(block).items():
                if (tokens := sums.tokens.get(name, 0)) < self.rare and is_expert(block, name):
                    sums.sums[name] = _alike(weight_matrix(layer), self.statistic)
                    self.by_magnitude.append((index, name, tokens))
            self._check(index, block, sums)
        return sums

    def _check(self, index: int, block: nn.Module, sums) -> None:
        state = "The model is as it was" if self.dense else f"Blocks before {index} are already pruned"
        for name in linear_layers(block):
            if name in sums:
                if not bool(sums[name].isfinite().all()):
                    raise ValueError(
                        f"The input of {name} in block {index} is not finite. "
                        f"{state}{'' if self.dense else ': load the model again'}. "
                        "Expected finite activations: try float32 or bfloat16, or look at the text."
                    )
            elif not is_expert(block, name):
                raise ValueError(f"{type(block).__name__} is not supported: {never_called(name, index)} {state}.")
            elif not self.dense:
                raise _no_token(name, index, state)

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Replace the block's input by its output, unless that was done while it was watched."""
        if self.entered == index:
            with self.clock("propagate"):
                self._run(index, block, device)

    def _run(self, index: int, block: nn.Module, device) -> None:
        self.states.advance(index, block, device)
        self.entered = index + 1


class LookedUp:
    """What layers read in the dense model, from a calibration. Raises ValueError if it does not fit the model.

    identity: gives the ``model_identity``, also of a model that is on the meta device. blocks, rare: as for ``prune``.
    """

    runs = False

    def __init__(
        self, calibration: Calibration, model, statistic: type, identity: Callable[[], dict], blocks=None, rare: int = 0
    ):
        calibration.check(identity())
        self.statistic, self.by_magnitude = statistic, []
        self.names, self.gram = block_names(model, blocks), statistic is InputGrams
        self.calibration, self.kind = calibration, f"{'Grams' if self.gram else 'norms'} of the dense model"
        if self.gram and calibration.statistic != "gram":
            raise ValueError(
                "An update needs XᵀX of each layer's input, and this calibration holds norms alone: calibrate with "
                'statistic="gram", or give tokens.'
            )
        for index, block in enumerate(decoder_blocks(model, blocks)):
            for name, layer in linear_layers(block).items():
                full, width = f"{self.names[index]}.{name}", weight_matrix(layer).shape[1]
                if (tokens := calibration.tokens.get(full, 0)) < rare and is_expert(block, name):
                    self.by_magnitude.append((index, name, tokens))
                    continue
                if not tokens:
                    raise _no_token(name, index, "Nothing was changed")
                if (given := calibration.sums[full].shape[-1]) != width:
                    raise ValueError(f"The calibration has {given} input channels for {full}: expected {width}.")

    def statistics(self, index: int, block: nn.Module, device) -> dict:
        """The norm (in,) of each layer's input, or XᵀX (in, in) for an update; float32, on the device."""
        read = self.calibration.gram if self.gram else self.calibration.__getitem__
        rare = {name for place, name, _ in self.by_magnitude if place == index}
        layers = linear_layers(block)
        found = {name: read(f"{self.names[index]}.{name}").to(device) for name in layers if name not in rare}
        return found | {name: _alike(weight_matrix(layers[name]), self.statistic) for name in rare}

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Nothing, because no block is run."""


def looked_up(
    calibration, model, plan, tokens, attention_mask, identity: Callable[[], dict], blocks=None, rare: int = 0
) -> LookedUp | None:
    """The inputs for a plan, if there is a calibration and the plan reads inputs. Raises ValueError if not usable."""
    if calibration is None:
        return None
    if not isinstance(calibration, Calibration):
        raise ValueError(
            f"calibration is {type(calibration).__name__}: expected what calibrate or load_calibration gave. "
            "prune_checkpoint takes what the model card says of the text as text=."
        )
    if tokens is not None or attention_mask is not None:
        raise ValueError("Both tokens and a calibration: expected one of them. Leave out tokens and attention_mask.")
    return LookedUp(calibration, model, plan.statistic, identity, blocks, rare) if plan.statistic else None


def check_rare(rare: int) -> None:
    """Raise ValueError unless it is a number of tokens."""
    if isinstance(rare, bool) or not isinstance(rare, int) or rare < 0:
        raise ValueError(f"rare={rare!r}: expected a number of tokens, 0 or more.")


def _alike(W: torch.Tensor, statistic: type) -> torch.Tensor:
    """What inputs that are all alike and unrelated sum up to: scores are then those of magnitude."""
    return (
        torch.eye(W.shape[1], device=W.device) if statistic is InputGrams else torch.ones(W.shape[1], device=W.device)
    )


def _no_token(name: str, index: int, state: str) -> ValueError:
    return ValueError(
        f"{name} in block {index} saw no token (an expert never chosen?), so its weights cannot be scored. "
        f"{state}. Use more calibration text, or have rare experts pruned by magnitude: rare=1, or more."
    )
