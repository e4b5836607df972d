"""python -m wanda_nb prune | evaluate | recover: what has outgrown a notebook."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

import wanda_nb as wn

from .checkpoint.estimate import reading_estimate
from .checkpoint.runs import digest
from .checkpoint.skeleton import Skeleton
from .distributed import from_first_rank, join_processes, world
from .evaluation.uncertainty import FEWEST_WINDOWS
from .files import other_place, write_text
from .hardware import native_dtype
from .inputs.loading import model_folder
from .inputs.tasks import PAPER_TASKS
from .inputs.text import begin_with_bos
from .methods import METHODS, UPDATES
from .reporting.identity import identity
from .reporting.kept import same_call
from .reporting.provenance import provenance

MODEL = (
    "'smollm2-135m' (pinned, needs no hub), a folder with config.json and safetensors, or the id of a model on a hub"
)
TEXT = "c4, wikipedia, hub:c4, hub:wikitext2, or the path of a .txt, .jsonl or .parquet file"
SHOWN = argparse.ArgumentDefaultsHelpFormatter


def parser() -> argparse.ArgumentParser:
    """The command line, as ``--help`` shows it."""
    top = argparse.ArgumentParser("python -m wanda_nb", description=wn.__doc__)
    top.add_argument("--version", action="version", version=f"wanda-nb {wn.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text.split(".")[0], description=text, formatter_class=SHOWN)
        made.set_defaults(run=run)
        made.add_argument("model", help=MODEL)
        made.add_argument(
            "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1 …"
        )
        made.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="to compute in, if not the usual")
        made.add_argument("--batch-size", type=int, help="windows at a time, if not what memory allows")
        made.add_argument("--bos", action=argparse.BooleanOptionalAction, help="in every window, if not as usual")
        made.add_argument("--dry-run", action="store_true", help="check everything, print the estimate, and stop")
        return made

    one = command(
        "prune",
        prune,
        "Prune a checkpoint into a new folder. A few blocks are in memory at a time, so the model may be larger than "
        "memory. Killed and started again with the same words, it goes on where it was. Under torchrun or accelerate "
        "launch the calibration windows are shared among the processes.",
    )
    one.add_argument("destination", type=Path, help="a new folder, which plain transformers loads")
    one.add_argument("--method", choices=METHODS, default="wanda", help="how weights are scored")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--sparsity", type=float, help="fraction to remove (0.5 if nothing is said)")
    how.add_argument("--pattern", help="N:M, such as 2:4: keep 2 of every 4 weights along the input")
    one.add_argument("--group", help="output, input or layer: which weights are compared; as published if left out")
    one.add_argument("--update", choices=UPDATES[1:], help="move the kept weights to make up for the removed ones")
    one.add_argument(
        "--text", default="c4", help=f"{TEXT}; or published: of the hub's C4, what the published code draws"
    )
    one.add_argument("--samples", type=int, default=128, help="calibration windows, as published")
    one.add_argument(
        "--length", type=int, help="tokens in each window; if left out 2048, or as many as the model reads"
    )
    one.add_argument("--seed", type=int, default=0, help="draws the calibration windows")
    one.add_argument("--budget", type=float, help="GiB of CPU memory for hidden states before they are kept in a file")

    two = command(
        "evaluate",
        evaluate,
        "Measure perplexity, and accuracy on zero-shot tasks. Killed and started again with the same words, it goes on "
        "where it was.",
    )
    two.add_argument("--text", default="wikipedia", help=TEXT)
    two.add_argument("--length", type=int, default=512, help="tokens in each window (the paper: 2048)")
    two.add_argument("--windows", type=int, help="the first so many windows, if not all")
    two.add_argument("--tasks", nargs="*", metavar="TASK", help="zero-shot tasks; --tasks alone: the paper's seven")
    two.add_argument("--limit", type=int, help="items of each task, if not all")
    two.add_argument("--source", choices=("pinned", "hub"), default="pinned", help="where the tasks' items come from")
    two.add_argument("--record", type=Path, default="evaluation.json", help="the file that keeps the result")

    three = command(
        "recover",
        recover,
        "Train a pruned model on a little text; its zeros stay zero. Killed and started again with the same words, it "
        "goes on where it was. Runs on several devices under accelerate launch.",
    )
    three.add_argument("destination", type=Path, help="a new folder for the trained model and its checkpoints")
    three.add_argument("--method", choices=("lora", "masked"), default="lora", help="adapters, or all kept weights")
    three.add_argument("--text", default="c4", help=TEXT)
    three.add_argument("--length", type=int, default=1024, help="tokens in each training window")
    three.add_argument("--windows", type=int, help="training windows, if not all there are")
    three.add_argument("--steps", type=int, help="of the optimiser, if not one pass over the text")
    three.add_argument("--accumulate", type=int, default=1, help="batches to a step")
    three.add_argument("--learning-rate", type=float, help="1e-4 for lora and 2e-5 for masked if left out")
    three.add_argument("--seed", type=int, default=0, help="draws the text and the adapters")
    return top


def main(words: list[str] | None = None) -> int:
    """Run a command line; returns the exit status. What is wrong with the words or the files is said in one line."""
    asked = parser().parse_args(words)
    try:
        asked.run(asked, join_processes(asked.device), getattr(torch, asked.dtype) if asked.dtype else None)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


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
    about = {"text": asked.text, "windows": list(heldout.shape), "tokens": digest(heldout, None), "limit": asked.limit}
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
    about = {"method": asked.method, "text": asked.text, "tokens": digest(text, None), "steps": asked.steps}
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


if __name__ == "__main__":
    sys.exit(main())
