"""Training as `recover` wants it: transformers' Trainer, with zeros that stay zero and one bar."""

from __future__ import annotations

import os

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from .evaluation import perplexity
from .models import decoder_blocks, linear_layers
from .progress import progress_bar


def trainer(model, tokens, settings, folder, save_every, callbacks) -> Trainer:
    """A Trainer on the windows tokens (windows, length), by the checked settings of `recover`."""
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
        disable_tqdm=True,  # one bar, ours
        report_to=[],
    )
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    made = Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
    made.remove_callback(PrinterCallback)
    return made


class KeepZeros(TrainerCallback):
    """Pruned weights stay exactly zero: no gradient, so that it counts in no norm, and back to zero after each step."""

    def __init__(self, model):
        layers = [layer for block in decoder_blocks(model) for layer in linear_layers(block).values()]
        self.masks = [(layer.weight, layer.weight.detach() == 0) for layer in layers]

    def on_train_begin(self, *_, **__):
        self.hooks = [
            weight.register_hook(lambda gradient, mask=mask: gradient.masked_fill(mask, 0))
            for weight, mask in self.masks
        ]

    @torch.no_grad()
    def on_optimizer_step(self, *_, **__):
        for weight, mask in self.masks:
            weight.masked_fill_(mask, 0)

    def on_train_end(self, *_, **__):
        for hook in self.hooks:
            hook.remove()


class Track(TrainerCallback):
    """A bar, and the perplexity on held-out windows every so many steps."""

    def __init__(self, heldout, every):
        self.heldout, self.every = heldout, every

    def on_train_begin(self, args, state, control, model=None, **_):
        self.bar = progress_bar(total=state.max_steps, initial=state.global_step, desc="recover", unit="step")
        if state.global_step == 0:
            self._measure(state, model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.bar.update()
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(state, model)

    def on_train_end(self, *_, **__):
        self.bar.close()

    def _measure(self, state, model):
        if self.heldout is not None:  # into the history that checkpoints keep
            value = perplexity(model, self.heldout)
            state.log_history.append({"step": state.global_step, "perplexity": value})
