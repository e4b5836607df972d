"""Training for `recover`: transformers' Trainer, with zeros that stay zero and one progress bar."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerState
from transformers.trainer_pt_utils import safe_globals

from ..blocks import decoder_blocks, linear_layers
from ..evaluation.perplexity import perplexity
from ..files import sync_folder
from ..reporting.progress import progress_bar

STATE = "trainer_state.json"


def trainer(model, tokens, settings, folder, save_every, callbacks) -> Trainer:
    """A Trainer on tokens (windows, length), with the checked settings of `recover`."""
    arguments = TrainingArguments(
        output_dir=os.fspath(folder),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulate"],
        learning_rate=settings["learning_rate"],
        logging_steps=1,
        save_strategy="no" if save_every is None else "steps",
        save_steps=save_every or 500,
        save_total_limit=2,
        seed=settings["seed"],
        use_cpu=next(model.parameters()).device.type == "cpu",
        bf16=next(model.parameters()).dtype == torch.bfloat16,
        dataloader_pin_memory=False,
        disable_tqdm=True,  # Track has a bar
        report_to=[],
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process trains on one device: no DataParallel, no larger batches
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(trainer: Trainer, checkpoint: Path | None, watchers: list, finished: bool) -> list[dict]:
    """Train to the end, from a checkpoint if there is one, and return the history. A finished run is only loaded."""
    if finished:
        trainer._load_from_checkpoint(os.fspath(checkpoint))
        return TrainerState.load_from_json(os.fspath(checkpoint / STATE)).log_history
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else os.fspath(checkpoint))
    finally:  # the Trainer itself does not call it after an exception
        for watcher in watchers:
            watcher.on_train_end(trainer.args, trainer.state, trainer.control)
    return trainer.state.log_history


def check_checkpoint(folder: Path, step: int) -> None:
    """Raise ValueError, naming the file, unless the Trainer can read a checkpoint without running code from it.

    Reads headers only. The Trainer reads with ``weights_only=True`` and never reads training_args.bin.
    """
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix in (".pt", ".pth"):
                with safe_globals():  # numpy's, for the state of its generator
                    torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.name == STATE and TrainerState.load_from_json(os.fspath(path)).global_step != step:
                raise ValueError("it is the state of another step")
            elif path.suffix == ".bin" and path.name != "training_args.bin":
                raise ValueError("recover writes no such file")
        except Exception as error:  # readers raise anything for strange bytes
            raise ValueError(
                f"{path} is damaged, or was not written by recover: remove {folder} to go on from the one before it, "
                "or choose another folder."
            ) from error


class KeepZeros(TrainerCallback):
    """Keeps pruned weights at exactly zero: masks their gradients, so that no norm counts them, and resets them."""

    def __init__(self, model):
        self.layers = [layer for block in decoder_blocks(model) for layer in linear_layers(block).values()]
        self.masks = [layer.weight.detach() == 0 for layer in self.layers]
        self.hooks = []

    def on_train_begin(self, *_, **__):
        # Only now are the weights where they are trained; some backends made new parameters of them on the way there.
        self.masks = [mask.to(layer.weight.device) for layer, mask in zip(self.layers, self.masks, strict=True)]
        self.hooks = [
            layer.weight.register_hook(lambda gradient, mask=mask: gradient.masked_fill(mask, 0))
            for layer, mask in zip(self.layers, self.masks, strict=True)
        ]

    @torch.no_grad()
    def on_optimizer_step(self, *_, **__):
        for layer, mask in zip(self.layers, self.masks, strict=True):
            layer.weight.masked_fill_(mask, 0)

    def on_train_end(self, *_, **__):
        for hook in self.hooks:
            hook.remove()


class Track(TrainerCallback):
    """A progress bar, the perplexity on held-out windows every ``every`` steps, and checkpoints that are synced."""

    def __init__(self, heldout, every):
        self.heldout, self.every, self.bar = heldout, every, None

    def on_train_begin(self, args, state, control, model=None, **_):
        self.bar = progress_bar(total=state.max_steps, initial=state.global_step, desc="recover", unit="step")
        if state.global_step == 0:
            self._measure(state, model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.bar.update()
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(state, model)

    def on_save(self, args, state, control, **_):
        sync_folder(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, *_, **__):
        if self.bar is not None:
            self.bar.close()

    def _measure(self, state, model):
        if self.heldout is not None:  # into the history, which checkpoints store
            value = perplexity(model, self.heldout)
            state.log_history.append({"step": state.global_step, "perplexity": value})
