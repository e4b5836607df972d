"""What a little training wins back: LoRA, or all kept weights under the mask."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from ..blocks import decoder_blocks, linear_layers
from ..distributed import world
from ..files import write_text
from ..inputs.text import check_tokens
from ..reporting.identity import identity, tokens_identity


@dataclasses.dataclass
class Recovery:
    """The result of ``recover``."""

    #: The trained model. With LoRA it is a peft model, whose adapters ``merge_lora`` merges.
    model: nn.Module
    #: One row per step: step, loss (training, nats per token), learning rate.
    losses: pd.DataFrame
    #: Step and perplexity on held-out text; empty if none was given.
    heldout: pd.DataFrame
    trainable: int
    parameters: int
    seconds: float
    #: The step of the checkpoint that an earlier run left; 0 for a run from the start.
    resumed_at: int = 0

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of the model's parameters."""
        return self.trainable / self.parameters

    def __repr__(self) -> str:
        text = f"{len(self.losses)} steps in {self.seconds:.0f} s, {self.trainable:,} of {self.parameters:,} parameters"
        text += f" ({self.share:.2%}) trained"
        if len(self.heldout):
            first, last = self.heldout["perplexity"].iloc[[0, -1]]
            text += f", held-out perplexity {first:.2f} → {last:.2f}"
        return text


def recover(
    model,
    tokens: torch.Tensor,
    method: str = "lora",
    *,
    steps: int | None = None,
    batch_size: int = 4,
    accumulate: int = 1,
    learning_rate: float | None = None,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.05,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    heldout: torch.Tensor | None = None,
    every: int = 10,
    folder: str | os.PathLike | None = None,
    save_every: int = 50,
    seed: int = 0,
) -> Recovery:
    """Train a pruned model on a little text, in place, with zeros that stay zero.

    tokens: training windows, LongTensor (windows, length), as ``training_tokens`` returns them.
    method: ``"lora"`` trains low-rank adapters (rank, alpha, dropout, targets), which ``merge_lora`` merges.
    ``"masked"`` trains all weights, and sets the pruned ones back to zero after every optimiser step.
    steps: each of ``batch_size * accumulate`` windows (on each process, under ``accelerate launch``); by default one
    pass over tokens. A process trains on one device: the CPU if the model is in its memory, else the first accelerator
    or, under a launcher, its own. learning_rate: falls linearly to 0, by default from 1e-4 for LoRA, as published, and
    2e-5 for masked training. heldout: windows (windows, length) whose perplexity is measured before, after, and every
    ``every`` steps. folder: for a checkpoint every ``save_every`` steps. The same call, with the model as it was before
    training, resumes a run that was interrupted, and loads one that is finished.
    Raises ValueError, before any work, for arguments that make no sense, targets that match no layer, masked training
    of 16-bit weights, which loses most steps to rounding, several processes on mps, a folder of another model, text or
    settings, and a damaged checkpoint, of which no code is run.
    Introduced in notebook 08, "LoRA with peft"; section 5 of the paper, on fine-tuning.
    """
    from . import training  # imports the Trainer, which only training needs

    ignore_old_torchao()
    settings = _checked(model, tokens, method, steps, batch_size, accumulate, learning_rate, targets)
    settings |= {"rank": rank, "alpha": alpha, "dropout": dropout, "seed": seed} if method == "lora" else {"seed": seed}
    if heldout is not None:
        check_tokens(model, heldout)
    parameters = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch if folder is None else folder)
        checkpoint = None if folder is None else _checkpoint(output, _identity(model, settings, tokens, heldout, every))
        reached = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        if checkpoint:
            training.check_checkpoint(checkpoint, reached)
        if method == "lora":
            model, watchers = _with_lora(model, rank, alpha, dropout, targets, seed), []
        else:
            model.requires_grad_(True)
            watchers = [training.KeepZeros(model)]
        watchers.append(training.Track(heldout, every))
        trainer = training.trainer(model, tokens, settings, output, None if folder is None else save_every, watchers)
        start = time.perf_counter()
        history = training.train(trainer, checkpoint, watchers, finished=reached == settings["steps"])
    model.eval()
    return Recovery(
        model,
        _rows(history, "step", "loss", "learning_rate"),
        _rows(history, "step", "perplexity"),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters,
        time.perf_counter() - start,
        reached,
    )


def _rows(history: list[dict], *columns: str) -> pd.DataFrame:
    """The entries of the Trainer's history that have the second of the columns."""
    rows = [[row[column] for column in columns] for row in history if columns[1] in row]
    return pd.DataFrame(rows, columns=columns)


def _checked(model, tokens, method, steps, batch_size, accumulate, learning_rate, targets) -> dict:
    """The settings with their defaults. Raises ValueError for those that make no sense."""
    if method not in ("lora", "masked"):
        raise ValueError(f"method={method!r}: expected 'lora' or 'masked'.")
    check_tokens(model, tokens)
    counts = {"steps": 1 if steps is None else steps, "batch_size": batch_size, "accumulate": accumulate}
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r}: expected a whole number of at least 1.")
    names = {name for block in decoder_blocks(model) for name in linear_layers(block)}  # refuses quantised ones
    if method == "lora":
        known = sorted({name.rpartition(".")[2] for name in names})
        if missing := [target for target in targets if target not in known]:
            raise ValueError(f"targets: no layer is called {', '.join(missing)}; expected some of {', '.join(known)}.")
    device, processes = next(model.parameters()).device, _processes()
    if device.type == "mps" and processes > 1:
        raise ValueError(
            f"{processes} processes would train {processes} models apart: nothing joins them on {device}. Start one."
        )
    dtypes = {p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if method == "masked" and dtypes:
        raise ValueError(
            f"masked training of {', '.join(map(str, dtypes))} weights loses most steps to rounding: expected float32. "
            "Load with dtype=torch.float32, or train LoRA, whose adapters are kept in float32."
        )
    steps = max(1, len(tokens) // (batch_size * accumulate)) if steps is None else steps
    learning_rate = (1e-4 if method == "lora" else 2e-5) if learning_rate is None else learning_rate
    settings = {"method": method, "steps": steps, "batch_size": batch_size, "accumulate": accumulate}
    return settings | {"learning_rate": learning_rate, "targets": list(targets) if method == "lora" else None}


def _processes() -> int:
    """How many processes train together; the Trainer may not have joined them yet."""
    return int(os.environ.get("WORLD_SIZE", world()[1]))


def _identity(model, settings: dict, tokens: torch.Tensor, heldout: torch.Tensor | None, every: int) -> dict:
    """What must be the same for a run to be continued."""
    return {
        "model": identity(model),
        **settings,
        "tokens": tokens_identity(tokens, None),
        "heldout": None if heldout is None else tokens_identity(heldout, None),
        "every": None if heldout is None else every,
        "processes": _processes(),
    }


def _checkpoint(folder: Path, run: dict) -> Path | None:
    """The last complete checkpoint of the run, or None; writes down which run a new folder belongs to."""
    note = folder / "run.json"
    files = {path for path in folder.iterdir() if path.suffix != ".tmp"} if folder.exists() else set()
    if note not in files:
        if files:
            raise ValueError(f"{folder} holds files of something else: choose another folder, or clear it.")
        if int(os.environ.get("RANK", world()[0])) == 0:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(note, json.dumps(run, indent=1) + "\n")
        return None
    try:
        earlier = json.loads(note.read_text(encoding="utf-8"))
        changed = [key for key in run if earlier.get(key) != run[key]]
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{note} is damaged: choose another folder, or clear this one.") from error
    if changed:
        raise ValueError(
            f"{folder} holds a run with other {', '.join(changed)}: its checkpoints cannot be continued. Use the same "
            "arguments and the model as it was before any training, or choose another folder."
        )
    # The state is written last: a checkpoint without it was cut short by a kill.
    complete = {
        int(path.parent.name.rpartition("-")[2]): path.parent for path in folder.glob("checkpoint-*/trainer_state.json")
    }
    return complete[max(complete)] if complete else None


def _with_lora(model, rank, alpha, dropout, targets, seed):
    """The model as a peft model with new adapters. Raises ImportError without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'wanda-nb[recovery]'.") from error
    torch.manual_seed(seed)  # adapters start at random
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's, about transformers; no user can act on it
        return get_peft_model(model, config)


def ignore_old_torchao() -> None:
    """Have peft ignore a torchao that is too old for it, as on Colab, where LoRA is refused otherwise."""
    if find_spec("torchao") is None or find_spec("peft") is None:
        return
    import peft

    try:
        peft.import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
                vars(module)["is_torchao_available"] = lambda: False
