"""Calibrating: the block loop that captures and never selects, for a model in memory or a checkpoint on disk."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import torch
from torch import nn

from .blocks import block_names, check_weights, decoder_blocks, evaluating, linear_layers, weight_matrix
from .calibration import Calibration, load_calibration
from .capture import InputGrams, InputNorms
from .checkpoint.on_disk import FromDisk
from .checkpoint.resume import in_use
from .checkpoint.skeleton import Skeleton
from .checkpoint.streaming import check_text_of_a_folder
from .device import check_dtypes, missing_operators_named, usable_device
from .distributed import from_first_rank, my_share, world
from .hardware import allocator, free_memory, windows_at_a_time
from .in_memory import InMemory, home_of
from .inputs.hidden_states import first_hidden_states, samples_and_length
from .inputs.samples import check_samples
from .inputs.statistics import Captured
from .inputs.text import begin_with_bos
from .pruning import block_loop
from .reporting.identity import model_identity, tokens_identity
from .reporting.progress import Clock, progress_bar
from .reporting.provenance import provenance
from .reporting.report import gib

STATISTICS = {"norm": InputNorms, "gram": InputGrams}


def calibrate(
    model,
    tokens: torch.Tensor | Mapping[str, torch.Tensor],
    *,
    statistic: str = "norm",
    attention_mask: torch.Tensor | None = None,
    device=None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    budget: int | None = None,
    text: dict | None = None,
    kept=None,
    blocks: str | Iterable[nn.Module] | None = None,
) -> Calibration:
    """What every linear layer of the dense model reads in a text, summed up: enough to prune it by any pattern, later.

    The model runs once, block by block, and is not changed. Norms are a few numbers for each channel, a megabyte for a
    small model: ``prune(model, calibration=...)`` then takes a second and no text.
    model: in memory, or a checkpoint folder, a few blocks of which are in memory at a time. Under ``torchrun`` the
    processes share the windows. tokens: calibration windows, LongTensor (samples, length); or, of a model in memory, a
    dict of inputs, as for ``prune``.
    statistic: ``"norm"``, or ``"gram"`` for updates (SparseGPT), which keeps XᵀX (in, in) in float64: the progress bar
    says how much memory that takes at most.
    attention_mask, device, batch_size, blocks: as for ``prune``.
    dtype, budget: as for ``prune_checkpoint``, of a folder alone.
    text: what is known of the text, such as its source and seed, in plain values.
    kept: a folder for what is finished: after a kill, the same call goes on from it.

    Raises ValueError for arguments that do not fit, unsuitable models, too little memory, and an activation that is not
    finite, whose block it names; for a kept folder of another call, too. An expert that saw no token is warned of: more
    text can be added.
    Introduced in notebook 01, "Calibrate once".
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r}: expected one of {', '.join(STATISTICS)}.")
    skeleton = Skeleton(Path(model), dtype) if isinstance(model, (str, os.PathLike)) else None
    if skeleton is None and (dtype is not None or budget is not None):
        raise ValueError("dtype and budget are for a checkpoint folder: a model in memory has its own dtype.")
    if skeleton is not None:
        check_text_of_a_folder(tokens, blocks)
    model = model if skeleton is None else skeleton.model
    blocks = decoder_blocks(model, blocks)
    if skeleton is None:
        check_weights(model, blocks)
    tokens, attention_mask = check_samples(model, tokens, attention_mask)
    at_most = _check_room(blocks, statistic)
    place = InMemory(blocks, None if device is None else usable_device(device))
    compute = usable_device(device or "cpu") if skeleton else place.device or home_of(blocks[0])
    check_dtypes({parameter.dtype for parameter in model.parameters()}, compute)
    identity = model_identity(model, blocks=blocks) if skeleton is None else skeleton.identity()
    with evaluating(model):
        shape = samples_and_length(model, tokens, blocks)
    about = _about(model, identity, statistic, compute, text, tokens, attention_mask, shape)
    share = my_share(tokens, attention_mask)
    batch_size = windows_at_a_time(batch_size, shape[1], blocks[0], compute)
    label = f"calibrate ({statistic}, at most {gib(at_most)})"
    bar = progress_bar(total=len(blocks), desc=label, unit="block", silent=world()[0] > 0)
    folder = None if kept is None else Path(kept)
    with in_use(folder) if folder else nullcontext():
        notes = _Notes(about, block_names(model, blocks), folder, place)
        if len(notes.parts) < len(blocks):
            allocate = allocator(compute, budget, folder and folder / f"hidden-states-{world()[0]}.tmp")
            with torch.no_grad(), evaluating(model), bar, missing_operators_named(compute):
                _run(
                    notes, model, skeleton, compute, (*share, batch_size, allocate, blocks), STATISTICS[statistic], bar
                )
    return notes.whole()


def _run(notes: _Notes, model, skeleton, compute, first, statistic: type, bar) -> None:
    """The block loop. first: the arguments of ``first_hidden_states`` after the model."""
    blocks, clock = first[-1], Clock(compute)
    with ExitStack() as stack:
        outside: AbstractContextManager = nullcontext()
        if skeleton is not None:
            disk = stack.enter_context(FromDisk(skeleton, compute, clock, list(range(len(blocks)))))
            notes.place, outside = disk, disk.beginning()
        with outside:
            states = first_hidden_states(model, *first)
        block_loop(blocks, Captured(states, statistic, clock, dense=True), _note, notes, bar)


def _check_room(blocks, statistic: str) -> int:
    """The most bytes that the sums take, if no two layers read the same. Raises ValueError for more than is free."""
    widths = [weight_matrix(layer).shape[1] for block in blocks for layer in linear_layers(block).values()]
    size = sum(8 * width ** (2 if statistic == "gram" else 1) for width in widths)
    free = free_memory(torch.device("cpu"))
    if size > free:
        raise ValueError(
            f"statistic={statistic!r} takes up to {gib(size)} for this model, and {gib(free)} of memory is free. Norms "
            "take little; an update from tokens needs the sums of one block at a time."
        )
    return size


def _about(model, identity: dict, statistic: str, compute, text, tokens, attention_mask, shape) -> dict:
    """What the file says of the sums. Raises ValueError for a description of the text that JSON cannot hold."""
    shape = dict(zip(("samples", "length"), shape, strict=True))
    bos = {"windows begin with BOS": begin_with_bos(model, tokens, attention_mask)}
    text = {**(text or {}), **shape, **bos, "sha256": tokens_identity(tokens, attention_mask)}
    made = provenance(model, compute)
    about = {"name": made.pop("model"), "revision": made.pop("revision"), "model": identity, "statistic": statistic}
    about["texts"] = [{"text": text, "made": made}]
    try:
        return json.loads(json.dumps(about))
    except TypeError as error:
        raise ValueError(f"text={text}: expected plain values, as JSON holds them ({error}).") from error


def _note(index: int, block, sums) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Of each layer of a block, a row with the number of its tokens; and what was summed up over them."""
    rows = [{"name": name, "tokens": sums.tokens.get(name, 0)} for name in linear_layers(block)]
    return rows, {name: tensor.cpu() for name, tensor in sums.sums.items()}


def _asked(about: dict) -> list:
    """What must be the same for a calibration to go on."""
    return [about["model"], about["statistic"], [(text["text"], text["made"]["dtype"]) for text in about["texts"]]]


class _Notes:
    """A `Place` that keeps the sums of each block, in memory and in a folder. Blocks come from another place."""

    def __init__(self, about: dict, names: list[str], folder: Path | None, place):
        self.about, self.names, self.folder, self.place = about, names, folder, place
        self.parts: dict[int, Calibration] = {}
        finished = [index for index in range(len(names)) if folder is not None and self._file(index).exists()]
        for index in from_first_rank(finished):
            self.parts[index] = load_calibration(self._file(index))
            if _asked(self.parts[index].about) != _asked(about):
                raise FileExistsError(
                    f"{folder} holds part of a calibration of another model, text, dtype or statistic: give the same "
                    "arguments to go on with it, or choose another folder."
                )

    def _file(self, index: int) -> Path:
        return self.folder / f"block-{index:05}.safetensors"

    def finished(self, index: int) -> list[dict] | None:
        """No rows, but that the block is finished, if an earlier run kept its sums."""
        return [] if index in self.parts else None

    def visit(self, index: int):
        """The other place's."""
        return self.place.visit(index)

    def keep(self, index: int, rows: list[dict], results: dict) -> None:
        """Store the sums of a block. results: sums by layer, as ``_note`` gives them."""
        prefix = self.names[index]
        sums = {f"{prefix}.{name}": tensor for name, tensor in results.items()}
        part = Calibration(self.about, sums, {f"{prefix}.{row['name']}": row["tokens"] for row in rows})
        self.parts[index] = part
        if self.folder is not None and world()[0] == 0:
            part.save(self._file(index))

    def whole(self) -> Calibration:
        """All blocks' sums together. Warns of experts that saw no token."""
        sums = {name: part.sums[name] for _, part in sorted(self.parts.items()) for name in part}
        tokens = {name: count for _, part in sorted(self.parts.items()) for name, count in part.tokens.items()}
        if unseen := [name for name, count in tokens.items() if not count]:
            warnings.warn(
                f"{unseen[0]} saw no token (an expert never chosen?), nor did {len(unseen) - 1} other layers: pruning "
                "needs more text. Calibrate on another text and add the two.",
                stacklevel=3,
            )
        return Calibration(self.about, sums, tokens)
