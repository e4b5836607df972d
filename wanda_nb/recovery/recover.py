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
    """What a run of ``recover`` did."""

    #: The trained model: with LoRA a peft model, whose adapters ``merge_lora`` merges.
    model: nn.Module
    #: A row a step: step, loss (training, nats a token), learning rate.
    losses: pd.DataFrame
    #: Rows of step and perplexity on held-out text, if any was given.
    heldout: pd.DataFrame
    trainable: int
    parameters: int
    seconds: float
    #: The step that an earlier, broken run had reached; 0 for a run from the start.
    resumed_at: int = 0

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of the model's own."""
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
    """Train a pruned model on a little text; its zeros stay zero.

    tokens: training windows, LongTensor (windows, length), as ``training_tokens`` gives.
    method: ``"lora"``: low-rank adapters (rank, alpha, dropout, targets) beside frozen weights, for ``merge_lora`` to
    merge. ``"masked"``: all weights, those that are pruned set back to zero after every step of the optimiser.
    steps: of ``batch_size * accumulate`` windows each (on each process, under ``accelerate launch``); by default one
    pass over tokens. learning_rate: falls linearly to 0, by default from 1e-4 for LoRA as published, 2e-5 for masked.
    heldout: windows (windows, length) whose perplexity is taken before, after, and every so many steps.
    folder: for a checkpoint every ``save_every`` steps. The same call again, with the model as it was before training,
    takes up where a broken run left off, and trains a finished one no more.
    The model is trained in place. Raises ValueError before any work for arguments that make no sense, targets that
    no layer is called, 16-bit weights for masked training, which would lose most of its steps to rounding, a folder
    of another model, text or settings, and a checkpoint that is damaged: nothing in it is run.
    Introduced in notebook 07, "LoRA with peft"; section 5 of the paper, on fine-tuning.
    """
    from .training import (  # brings the Trainer, which only training needs
        KeepZeros,
        Track,
        check_checkpoint,
        train,
        trainer,
    )

    _beside_old_torchao()
    settings = _checked(model, tokens, method, steps, batch_size, accumulate, learning_rate, targets)
    settings |= {"rank": rank, "alpha": alpha, "dropout": dropout, "seed": seed} if method == "lora" else {"seed": seed}
    if heldout is not None:
        check_tokens(model, heldout)
    parameters = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch if folder is None else folder)
        checkpoint = None if folder is None else _checkpoint(where, _run(model, settings, tokens, heldout, every))
        reached = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        if checkpoint:
            check_checkpoint(checkpoint, reached)
        if method == "lora":
            model, watchers = _with_lora(model, rank, alpha, dropout, targets, seed), []
        else:
            model.requires_grad_(True)
            watchers = [KeepZeros(model)]
        watchers.append(Track(heldout, every))
        run = trainer(model, tokens, settings, where, None if folder is None else save_every, watchers)
        start = time.perf_counter()
        history = train(run, checkpoint, watchers, finished=reached == settings["steps"])
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
    rows = [[row[column] for column in columns] for row in history if columns[1] in row]
    return pd.DataFrame(rows, columns=columns)


def _checked(model, tokens, method, steps, batch_size, accumulate, learning_rate, targets) -> dict:
    if method not in ("lora", "masked"):
        raise ValueError(f"method={method!r}: expected 'lora' or 'masked'.")
    check_tokens(model, tokens)
    for name, number in {
        "steps": 1 if steps is None else steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
    }.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r}: expected a whole number of at least 1.")
    names = {name for block in decoder_blocks(model) for name in linear_layers(block)}  # refuses adapters and quantised
    if method == "lora":
        known = sorted({name.rpartition(".")[2] for name in names})
        if missing := [target for target in targets if target not in known]:
            raise ValueError(f"targets: no layer is called {', '.join(missing)}; expected some of {', '.join(known)}.")
    short = {p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if method == "masked" and short:
        raise ValueError(
            f"masked training of {', '.join(map(str, short))} weights loses most steps to rounding: expected float32. "
            "Load with dtype=torch.float32, or train LoRA, whose adapters are kept in float32."
        )
    steps = max(1, len(tokens) // (batch_size * accumulate)) if steps is None else steps
    learning_rate = (1e-4 if method == "lora" else 2e-5) if learning_rate is None else learning_rate
    settings = {"method": method, "steps": steps, "batch_size": batch_size, "accumulate": accumulate}
    return settings | {"learning_rate": learning_rate, "targets": list(targets) if method == "lora" else None}


def _run(model, settings: dict, tokens: torch.Tensor, heldout: torch.Tensor | None, every: int) -> dict:
    """All that makes a run what it is; another in any of it is another run."""
    return {
        "model": identity(model),
        **settings,
        "tokens": tokens_identity(tokens, None),
        "heldout": None if heldout is None else tokens_identity(heldout, None),
        "every": None if heldout is None else every,
        "processes": int(os.environ.get("WORLD_SIZE", world()[1])),  # which the Trainer may not have set up yet
    }


def _checkpoint(folder: Path, mine: dict) -> Path | None:
    """The last whole checkpoint of the same run, if there is one; notes what run the folder belongs to."""
    note = folder / "run.json"
    files = {path for path in folder.iterdir() if path.suffix != ".tmp"} if folder.exists() else set()
    if note not in files:
        if files:
            raise ValueError(f"{folder} holds files of something else: choose another folder, or clear it.")
        if int(os.environ.get("RANK", world()[0])) == 0:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(note, json.dumps(mine, indent=1) + "\n")
        return None
    try:
        theirs = json.loads(note.read_text(encoding="utf-8"))
        other = [key for key in mine if theirs.get(key) != mine[key]]
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{note} is damaged: choose another folder, or clear this one.") from error
    if other:
        raise ValueError(
            f"{folder} holds a run with other {', '.join(other)}: its checkpoints cannot be continued. Use the same "
            "arguments and the model as it was before any training, or another folder."
        )
    # Its state is what a checkpoint writes last: without it, the run was killed while writing.
    whole = {
        int(path.parent.name.rpartition("-")[2]): path.parent for path in folder.glob("checkpoint-*/trainer_state.json")
    }
    return whole[max(whole)] if whole else None


def _with_lora(model, rank, alpha, dropout, targets, seed):
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA comes from peft: pip install 'wanda-nb[recovery]'.") from error
    torch.manual_seed(seed)  # adapters start at random
    how = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers, which no reader can mend
        return get_peft_model(model, how)


def _beside_old_torchao() -> None:
    """peft refuses LoRA beside a torchao older than it knows, which Colab brings. Nothing here needs torchao."""
    if find_spec("torchao") is None or find_spec("peft") is None:
        return
    import peft

    try:
        peft.import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
                vars(module)["is_torchao_available"] = lambda: False
