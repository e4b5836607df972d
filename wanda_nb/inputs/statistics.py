"""What the block loop knows of the inputs of each layer: captured as blocks run, or looked up in a calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import nn

from ..blocks import block_names, decoder_blocks, in_all_experts, is_expert, linear_layers, weight_matrix
from ..calibration import Calibration
from ..capture import InputGrams
from ..reporting.progress import Clock
from .hidden_states import HiddenStates
from .refusals import never_called


class Rare(NamedTuple):
    """Of how few tokens an expert's own statistics are not trusted, and what stands in for them."""

    fewest: int = 0
    by: str = "magnitude"

    @classmethod
    def checked(cls, fewest: int, by: str) -> Rare:
        """From the arguments of ``prune``. Raises ValueError unless they are a number of tokens and a known word."""
        if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 0:
            raise ValueError(f"rare={fewest!r}: expected a number of tokens, 0 or more.")
        if by not in ("magnitude", "others"):
            raise ValueError(f"rare_by={by!r}: expected 'magnitude' or 'others'.")
        return cls(fewest, by)

    def stand_in(self, block: nn.Module, name: str, sums: Mapping[str, torch.Tensor], statistic: type) -> torch.Tensor:
        """The squares (in,) or XᵀX (in, in) of inputs that are all alike and unrelated, or of what all experts read."""
        W = weight_matrix(linear_layers(block)[name])
        alike = torch.eye if statistic is InputGrams else torch.ones
        total = alike(W.shape[1], device=W.device)
        if self.by == "others":
            read = [sums[other] for other in in_all_experts(block, name) if other in sums]
            read = [one for one in read if one.shape == total.shape]
            total = sum(read) if read else total
        return total


NONE_RARE = Rare()


class Inputs(Protocol):
    """What the block loop knows of the inputs of each layer: captured as blocks run, or looked up."""

    #: Whether blocks are run; in words, for the report; and (block, layer, tokens) of experts that saw too few.
    runs: bool
    kind: str
    rare_experts: list[tuple[int, str, int]]

    def statistics(self, index: int, block: nn.Module, device) -> Mapping[str, torch.Tensor]:
        """What each linear layer of a block reads, by its name: norm (in,) or XᵀX (in, in)."""

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Go on from the input of a block to its output, if blocks are run."""


class Captured:
    """Inputs summed up as blocks run on the hidden states of this process's windows, over all processes.

    dense: blocks are left as they are, so each runs once, to its end: the pass that is watched also propagates. Sums
    are then kept in float64. rare: what stands in for the statistics of an expert that saw too few tokens; then
    (block, layer, tokens) is noted in ``rare_experts``.
    """

    runs, kind = True, "sequential"

    def __init__(
        self, states: HiddenStates, statistic: type, clock: Clock, dense: bool = False, rare: Rare = NONE_RARE
    ):
        self.states, self.statistic, self.clock, self.dense, self.rare = states, statistic, clock, dense, rare
        self.rare_experts: list[tuple[int, str, int]] = []
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
            found = _rare(index, block, sums.tokens, self.rare)
            self.rare_experts += found
            sums.sums |= {name: self.rare.stand_in(block, name, sums.sums, self.statistic) for _, name, _ in found}
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
        self,
        calibration: Calibration,
        model,
        statistic: type,
        identity: Callable[[], dict],
        blocks=None,
        rare: Rare = NONE_RARE,
    ):
        calibration.check(identity())
        self.statistic, self.rare, self.rare_experts = statistic, rare, []
        self.names, self.gram = block_names(model, blocks), statistic is InputGrams
        self.calibration, self.kind = calibration, f"{'Grams' if self.gram else 'norms'} of the dense model"
        if self.gram and calibration.statistic != "gram":
            raise ValueError(
                "An update needs XᵀX of each layer's input, and this calibration holds norms alone: calibrate with "
                'statistic="gram", or give tokens.'
            )
        for index, block in enumerate(decoder_blocks(model, blocks)):
            tokens = {name: calibration.tokens.get(f"{self.names[index]}.{name}", 0) for name in linear_layers(block)}
            found = _rare(index, block, tokens, rare)
            self.rare_experts += found
            few = {name for _, name, _ in found}
            for name in (name for name in tokens if name not in few):
                full, width = f"{self.names[index]}.{name}", weight_matrix(linear_layers(block)[name]).shape[1]
                if not tokens[name]:
                    raise _no_token(name, index, "Nothing was changed")
                if (given := calibration.sums[full].shape[-1]) != width:
                    raise ValueError(f"The calibration has {given} input channels for {full}: expected {width}.")

    def statistics(self, index: int, block: nn.Module, device) -> dict:
        """The norm (in,) of each layer's input, or XᵀX (in, in) for an update; float32, on the device."""
        read = self.calibration.gram if self.gram else self.calibration.__getitem__
        rare = [name for place, name, _ in self.rare_experts if place == index]
        full = {name: f"{self.names[index]}.{name}" for name in linear_layers(block)}
        found = {name: read(full[name]).to(device) for name in full if name not in rare}
        if rare:
            sums = {name: self.calibration.sums[one] for name, one in full.items() if one in self.calibration}
            for name in rare:
                total = self.rare.stand_in(block, name, sums, self.statistic)
                found[name] = (total if self.gram else total.sqrt()).float().to(device)
        return found

    def advance(self, index: int, block: nn.Module, device) -> None:
        """Nothing, because no block is run."""


def looked_up(
    calibration, model, plan, tokens, attention_mask, identity: Callable[[], dict], blocks=None, rare: Rare = NONE_RARE
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


def _rare(index: int, block: nn.Module, tokens: Mapping[str, int], rare: Rare) -> list[tuple[int, str, int]]:
    """(block, layer, tokens) of the experts' layers that saw too few."""
    counts = {name: tokens.get(name, 0) for name in linear_layers(block)}
    return [(index, name, n) for name, n in counts.items() if n < rare.fewest and is_expert(block, name)]


def _no_token(name: str, index: int, state: str) -> ValueError:
    return ValueError(
        f"{name} in block {index} saw no token (an expert never chosen?), so its weights cannot be scored. "
        f"{state}. Use more calibration text, or have something stand in for what rare experts read: rare=1, or more."
    )
