"""What `python -m wanda_nb` does: calibrate, prune, evaluate and recover, each from a model to a folder or a file."""

from __future__ import annotations

import json
import os
import time

import torch
from transformers import AutoTokenizer

import wanda_nb as wn

from .checkpoint.estimate import reading_estimate
from .checkpoint.skeleton import Skeleton
from .device import native_dtype
from .distributed import from_first_rank, world
from .evaluation.uncertainty import FEWEST_WINDOWS
from .files import other_place, write_text
from .inputs.loading import model_folder
from .inputs.tasks import PAPER_TASKS
from .inputs.text import begin_with_bos
from .methods import METHODS
from .reporting.identity import identity, tokens_identity
from .reporting.progress import duration
from .reporting.provenance import provenance
from .reporting.report import gib
from .reporting.unfinished import same_call


def say(*words) -> None:
    """Print, on the first process only."""
    if world()[0] == 0:
        print(*words, flush=True)


def prune(arguments, device, dtype) -> None:
    """Prune a checkpoint folder into a new one."""
    folder = model_folder(arguments.model, accept_terms=arguments.accept_terms)
    start = time.perf_counter()
    names = ("method", "sparsity", "pattern", "group", "update", "damping", "batch_size")
    settings = {name: getattr(arguments, name) for name in names} | {"device": device, "dtype": dtype}
    text = None
    if arguments.calibration is not None:
        settings["calibration"] = wn.load_calibration(arguments.calibration)
    elif METHODS[arguments.method].reads_inputs or arguments.update:
        settings["tokens"], text = _calibration_text(arguments, folder)
    read = time.perf_counter() - start
    say("estimate:", wn.estimate_checkpoint(folder, **settings))
    if arguments.dry_run:
        return
    budget = None if arguments.budget is None else int(arguments.budget * 2**30)
    report = wn.prune_checkpoint(folder, arguments.destination, **settings, budget=budget, text=text)
    report.seconds = ({} if text is None else {"tokenise": read}) | report.seconds
    say(report)
    say(f"saved: {arguments.destination}, with a model card and pruning.json")


def _calibration_text(arguments, folder) -> tuple[torch.Tensor, dict]:
    """Calibration windows (samples, length), and what is known of them."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    text = {"source": arguments.text}
    text |= {name: getattr(arguments, name) for name in ("samples", "length", "seed")}
    text |= {} if arguments.bos is None else {"bos": arguments.bos}
    if arguments.length is None:
        text["length"] = min(2048, getattr(Skeleton(folder).model.config, "max_position_embeddings", 2048))
    draw = wn.calibration_tokens
    if arguments.text == "published":
        draw, text["source"] = wn.published_windows, "hub:c4"
    return draw(tokenizer, **text), text


def calibrate(arguments, device, dtype) -> None:
    """Sum up what the layers of a dense checkpoint read in a text, into a small file."""
    path, folder = arguments.file, model_folder(arguments.model, accept_terms=arguments.accept_terms)
    if path.exists() or not path.absolute().parent.is_dir():
        problem = "is there already" if path.exists() else "is in no folder that exists"
        raise FileExistsError(f"{path} {problem}: choose another file.")
    tokens, text = _calibration_text(arguments, folder)
    settings = {"dtype": dtype, "device": device, "batch_size": arguments.batch_size}
    estimate = wn.estimate_checkpoint(folder, tokens, **settings)  # of pruning, which passes twice
    say(f"estimate: memory {gib(estimate.memory)}, at least {duration(estimate.seconds / 2)} here")
    if arguments.dry_run:
        return
    kept = path.with_name(path.name + ".unfinished")
    budget = None if arguments.budget is None else int(arguments.budget * 2**30)
    settings |= {"statistic": arguments.statistic, "budget": budget, "text": text, "kept": kept}
    calibration = wn.calibrate(folder, tokens, **settings)
    if world()[0] == 0:
        calibration.save(path)
        for part in kept.glob("block-*.safetensors"):
            part.unlink()
        kept.rmdir()
        say(calibration)
        say(f"saved: {path}, {gib(path.stat().st_size)}")


def evaluate(arguments, device, dtype) -> None:
    """Measure perplexity, and accuracy on zero-shot tasks, into a record."""
    folder = model_folder(arguments.model, accept_terms=arguments.accept_terms)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    windows = {"length": arguments.length, "windows": arguments.windows, "bos": arguments.bos}
    heldout = wn.evaluation_tokens(tokenizer, arguments.text, **windows)
    if len(heldout) < FEWEST_WINDOWS:
        raise ValueError(
            f"{len(heldout)} windows: expected {FEWEST_WINDOWS} or more for an interval. Read more, or shorter ones."
        )
    request = {
        "text": arguments.text,
        "windows": list(heldout.shape),
        "tokens": tokens_identity(heldout, None),
        "limit": arguments.limit,
        "tasks": arguments.tasks if arguments.tasks != [] else list(PAPER_TASKS),
        "source": arguments.source,
    }
    same_call(arguments.record, request)  # what needs no model is checked before the model is read
    say("estimate:", reading_estimate(folder, heldout, device, dtype or native_dtype(device), passes=1, weights=1))
    if arguments.tasks is not None:
        say("The zero-shot tasks come on top: once they are read, their progress bar says how long they take.")
    if arguments.dry_run:
        return
    model, _ = wn.load_model(os.fspath(folder), device=device, dtype=dtype)
    request["model"] = identity(model)
    if same_call(arguments.record, request):
        say(f"finished before: {arguments.record} holds what these arguments give. Remove it to measure again.")
        return
    _measure(arguments, request, model, tokenizer, heldout)


def _measure(arguments, request: dict, model, tokenizer, heldout: torch.Tensor) -> None:
    """Evaluate the model and write the record; finished batches survive a kill in two files of their own."""
    start = time.perf_counter()
    losses_file, answers_file = (arguments.record.with_suffix(f".{name}.tmp") for name in ("losses", "answers"))
    losses = wn.window_losses(model, heldout, arguments.batch_size, kept=losses_file)
    value, low, high = wn.perplexity_interval(losses)
    record = {
        "command": "evaluate",
        "asked": request,
        "text": arguments.text,
        "length": arguments.length,
        "windows": len(heldout),
        "windows begin with BOS": begin_with_bos(model, heldout),
        "perplexity": value,
        "interval": [low, high],
        "sparsity": wn.sparsity(model),
        "losses": losses.tolist(),
    }
    say(f"perplexity {value:.3f}, 95% interval {low:.3f} to {high:.3f}, {len(heldout)} windows")
    if arguments.tasks is not None:
        settings = {"limit": arguments.limit, "batch_size": arguments.batch_size, "source": arguments.source}
        scores = wn.zero_shot(model, tokenizer, arguments.tasks or PAPER_TASKS, **settings, kept=answers_file)
        say(scores)
        record |= {"limit": arguments.limit, "tasks": scores.table.to_dict("index"), "mean": scores.mean}
    record |= {**provenance(model), "seconds": round(time.perf_counter() - start, 1)}
    write_text(arguments.record, json.dumps(record, indent=1) + "\n")
    for path in (losses_file, answers_file):
        path.unlink(missing_ok=True)
    say(f"saved: {arguments.record}")


def recover(arguments, device, dtype) -> None:
    """Train a pruned model and save it in a new folder, with a record."""
    folder = model_folder(arguments.model, accept_terms=arguments.accept_terms)
    record_path = other_place(arguments.destination, folder) / "recovery.json"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    windows = {name: getattr(arguments, name) for name in ("windows", "length", "seed", "bos")}
    text = wn.training_tokens(tokenizer, arguments.text, **windows)
    batch_size = arguments.batch_size or 4
    request = {"method": arguments.method, "text": arguments.text, "tokens": tokens_identity(text, None)}
    request |= {name: getattr(arguments, name) for name in ("steps", "accumulate", "learning_rate", "seed")}
    request |= {"batch_size": batch_size, "processes": world()[1]}
    same_call(record_path, request, alone=True)
    steps = arguments.steps
    trained_on = text if steps is None else text[:1].expand(steps * batch_size * arguments.accumulate, -1)
    weights = 1 if arguments.method == "lora" else 4  # with gradients and the optimiser's two moments
    say("estimate:", reading_estimate(folder, trained_on, device, dtype or torch.float32, passes=3, weights=weights))
    if arguments.dry_run:
        return
    model, _ = wn.load_model(os.fspath(folder), device=device, dtype=dtype or torch.float32)
    request["model"] = identity(model)
    if (from_first_rank(same_call(record_path, request)) or {}).get("sparsity") is not None:
        say(f"finished before: {arguments.destination} holds what these arguments give. Clear it to train again.")
        return
    _train(arguments, request, model, tokenizer, text, record_path)


def _train(arguments, request: dict, model, tokenizer, text: torch.Tensor, record_path) -> None:
    """Train, merge adapters under the mask, and save the model and then the record, which says that it is complete."""
    destination = arguments.destination
    if world()[0] == 0:
        destination.mkdir(parents=True, exist_ok=True)
        write_text(record_path, json.dumps({"command": "recover", "asked": request}) + "\n")
    settings = {
        name: request[name] for name in ("method", "steps", "batch_size", "accumulate", "learning_rate", "seed")
    }
    run = wn.recover(model, text, **settings, folder=destination / "checkpoints")
    say(run)
    trained = wn.merge_lora(run.model, keep_zeros=True)[0] if arguments.method == "lora" else run.model
    if world()[0] > 0:
        return
    trained.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    record = {
        "command": "recover",
        "asked": request,
        "method": arguments.method,
        "text": {"source": arguments.text, "windows": len(text), "length": arguments.length, "seed": arguments.seed},
        "windows begin with BOS": begin_with_bos(trained, text),
        "steps": len(run.losses),
        "loss": run.losses["loss"].tolist(),
        "trainable": run.trainable,
        "sparsity": wn.sparsity(trained),
        **provenance(trained),
        "seconds": round(run.seconds, 1),
    }
    write_text(record_path, json.dumps(record, indent=1) + "\n")
    say(f"{record['sparsity']:.2%} zeros · saved: {destination}, with recovery.json")
