"""What `python -m wanda_nb` does: prune, evaluate, recover, each from a folder to a folder or a record."""

from __future__ import annotations

import json
import os
import time

import torch
from transformers import AutoTokenizer

import wanda_nb as wn

from .checkpoint.estimate import reading_estimate
from .checkpoint.skeleton import Skeleton
from .distributed import from_first_rank, world
from .evaluation.uncertainty import FEWEST_WINDOWS
from .files import other_place, write_text
from .hardware import native_dtype
from .inputs.loading import model_folder
from .inputs.tasks import PAPER_TASKS
from .inputs.text import begin_with_bos
from .methods import METHODS
from .reporting.identity import identity, tokens_identity
from .reporting.kept import same_call
from .reporting.provenance import provenance


def say(*words) -> None:
    if world()[0] == 0:
        print(*words, flush=True)


def prune(asked, device, dtype) -> None:
    folder = model_folder(asked.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    start = time.perf_counter()
    calibration = {"source": asked.text, "samples": asked.samples, "length": asked.length, "seed": asked.seed}
    calibration |= {} if asked.bos is None else {"bos": asked.bos}
    if asked.length is None:
        calibration["length"] = min(2048, getattr(Skeleton(folder).model.config, "max_position_embeddings", 2048))
    reads = METHODS[asked.method].reads_inputs or asked.update
    draw = wn.calibration_tokens
    if asked.text == "published":
        draw, calibration["source"] = wn.published_windows, "hub:c4"
    tokens = draw(tokenizer, **calibration) if reads else None
    tokenised = time.perf_counter() - start
    how = {"method": asked.method, "sparsity": asked.sparsity, "pattern": asked.pattern, "group": asked.group}
    how |= {"update": asked.update, "device": device, "batch_size": asked.batch_size, "dtype": dtype}
    say("estimate:", wn.estimate_checkpoint(folder, tokens, **how))
    if asked.dry_run:
        return
    budget = None if asked.budget is None else int(asked.budget * 2**30)
    report = wn.prune_checkpoint(folder, asked.destination, tokens, **how, budget=budget, calibration=calibration)
    report.seconds = {"tokenise": tokenised, **report.seconds}
    say(report)
    say(f"saved: {asked.destination}, with a model card and pruning.json")


def evaluate(asked, device, dtype) -> None:
    folder = model_folder(asked.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    heldout = wn.evaluation_tokens(tokenizer, asked.text, length=asked.length, windows=asked.windows, bos=asked.bos)
    if len(heldout) < FEWEST_WINDOWS:
        raise ValueError(f"{len(heldout)} windows: expected {FEWEST_WINDOWS} or more for an interval, or shorter ones.")
    about = {
        "text": asked.text,
        "windows": list(heldout.shape),
        "tokens": tokens_identity(heldout, None),
        "limit": asked.limit,
    }
    about |= {"tasks": asked.tasks if asked.tasks != [] else list(PAPER_TASKS), "source": asked.source}
    same_call(asked.record, about)  # what needs no model is checked before it is read
    say("estimate:", reading_estimate(folder, heldout, device, dtype or native_dtype(device), passes=1, weights=1))
    if asked.tasks is not None:
        say("The zero-shot tasks come on top: their progress bar says how long once they are read.")
    if asked.dry_run:
        return
    model, _ = wn.load_model(os.fspath(folder), device=device, dtype=dtype)
    about["model"] = identity(model)
    if same_call(asked.record, about):
        say(f"finished before: {asked.record} holds what these arguments give. Remove it to measure again.")
        return
    start = time.perf_counter()
    kept = [asked.record.with_suffix(f".{what}.tmp") for what in ("losses", "answers")]
    losses = wn.window_losses(model, heldout, asked.batch_size, kept=kept[0])
    found = wn.perplexity_interval(losses)
    record = {
        "command": "evaluate",
        "asked": about,
        "text": asked.text,
        "length": asked.length,
        "windows": len(heldout),
        "windows begin with BOS": begin_with_bos(model, heldout),
        "perplexity": found.value,
        "interval": [found.low, found.high],
        "sparsity": wn.sparsity(model),
        "losses": losses.tolist(),
    }
    say(f"perplexity {found.value:.3f}, 95% interval {found.low:.3f} to {found.high:.3f}, {len(heldout)} windows")
    if asked.tasks is not None:
        how = {"limit": asked.limit, "batch_size": asked.batch_size, "source": asked.source, "kept": kept[1]}
        answers = wn.zero_shot(model, tokenizer, asked.tasks or PAPER_TASKS, **how)
        say(answers)
        record |= {"limit": asked.limit, "tasks": answers.table.to_dict("index"), "mean": answers.mean}
    record |= {**provenance(model), "seconds": round(time.perf_counter() - start, 1)}
    write_text(asked.record, json.dumps(record, indent=1) + "\n")
    for path in kept:
        path.unlink(missing_ok=True)
    say(f"saved: {asked.record}")


def recover(asked, device, dtype) -> None:
    folder = model_folder(asked.model)
    note = other_place(asked.destination, folder) / "recovery.json"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    drawn = {"windows": asked.windows, "length": asked.length, "seed": asked.seed, "bos": asked.bos}
    text = wn.training_tokens(tokenizer, asked.text, **drawn)
    batch = asked.batch_size or 4
    about = {"method": asked.method, "text": asked.text, "tokens": tokens_identity(text, None), "steps": asked.steps}
    about |= {name: getattr(asked, name) for name in ("accumulate", "learning_rate", "seed")}
    about |= {"batch_size": batch, "processes": world()[1]}
    same_call(note, about, alone=True)
    read = text if asked.steps is None else text[:1].expand(asked.steps * batch * asked.accumulate, -1)
    weights = 1 if asked.method == "lora" else 4  # gradients, and two moments
    say("estimate:", reading_estimate(folder, read, device, dtype or torch.float32, passes=3, weights=weights))
    if asked.dry_run:
        return
    model, _ = wn.load_model(os.fspath(folder), device=device, dtype=dtype or torch.float32)
    about["model"] = identity(model)
    if (from_first_rank(same_call(note, about)) or {}).get("sparsity") is not None:
        say(f"finished before: {asked.destination} holds what these arguments give. Clear it to train again.")
        return
    if world()[0] == 0:
        asked.destination.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps({"command": "recover", "asked": about}) + "\n")
    run = wn.recover(
        model, text, asked.method, steps=asked.steps, batch_size=batch, accumulate=asked.accumulate,
        learning_rate=asked.learning_rate, folder=asked.destination / "checkpoints", seed=asked.seed,
    )  # fmt: skip
    say(run)
    trained = wn.merge_lora(run.model, keep_zeros=True)[0] if asked.method == "lora" else run.model
    if world()[0] > 0:
        return
    trained.save_pretrained(asked.destination)
    tokenizer.save_pretrained(asked.destination)
    record = {
        "command": "recover",
        "asked": about,
        "method": asked.method,
        "text": {"source": asked.text, "windows": len(text), "length": asked.length, "seed": asked.seed},
        "windows begin with BOS": begin_with_bos(trained, text),
        "steps": len(run.losses),
        "loss": run.losses["loss"].tolist(),
        "trainable": run.trainable,
        "sparsity": wn.sparsity(trained),
        **provenance(trained),
        "seconds": round(run.seconds, 1),
    }
    write_text(note, json.dumps(record, indent=1) + "\n")  # last: it says that the model is whole
    say(f"{record['sparsity']:.2%} zeros · saved: {asked.destination}, with recovery.json")
