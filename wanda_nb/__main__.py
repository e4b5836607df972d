"""python -m wanda_nb calibrate | prune | evaluate | recover: what has outgrown a notebook."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import wanda_nb as wn

from . import commands
from .device import best_device
from .distributed import join_processes
from .methods import METHODS, UPDATES
from .updates import DAMPING

MODEL = (
    "'smollm2-135m' (pinned, needs no hub), a folder with config.json and safetensors, or the id of a model on a hub"
)
TEXT = "c4, wikipedia, hub:c4, hub:wikitext2, or the path of a .txt, .jsonl or .parquet file"
RESUMES = "A killed run goes on where it was if the same command is run again."


def parser() -> argparse.ArgumentParser:
    """The command line, as ``--help`` shows it."""
    top = argparse.ArgumentParser("python -m wanda_nb", description=wn.__doc__)
    top.add_argument("--version", action="version", version=f"wanda-nb {wn.__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="command")
    for add_command in (_add_calibrate, _add_prune, _add_evaluate, _add_recover):
        add_command(subparsers)
    return top


def _add_command(subparsers, run, text: str) -> argparse.ArgumentParser:
    """A command named like the function that it runs, with the arguments that all commands take."""
    shown = {"help": text.split(".")[0], "description": text}
    command = subparsers.add_parser(run.__name__, **shown, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    command.set_defaults(run=run)
    command.add_argument("model", help=MODEL)
    command.add_argument(
        "--device", default=best_device().type, help="cpu, cuda, cuda:1, xpu, mps …, or auto: the best there is"
    )
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="to compute in, if not the usual")
    command.add_argument("--batch-size", type=int, help="windows at a time, if not what memory allows")
    command.add_argument(
        "--bos",
        action=argparse.BooleanOptionalAction,
        help="begin every window with BOS, or none; by default as the model's family needs it",
    )
    command.add_argument("--accept-terms", action="store_true", help="you accept the terms that the model comes under")
    command.add_argument("--dry-run", action="store_true", help="check everything, print the estimate, and stop")
    return command


def _add_calibrate(subparsers) -> None:
    command = _add_command(
        subparsers,
        commands.calibrate,
        "Sum up what the layers of a dense checkpoint read in a text, into a small file, by which prune --calibration "
        f"then needs no text. {RESUMES} Under torchrun, the processes share the calibration windows.",
    )
    command.add_argument("file", type=Path, help="a new file, such as norms.safetensors")
    command.add_argument("--statistic", choices=("norm", "gram"), default="norm", help="gram: for updates; it is large")
    _add_text(command, command)


def _add_text(command, text) -> None:
    """The arguments that say which calibration windows are drawn. text: the command or a group of it."""
    text.add_argument("--text", default="c4", help=f"{TEXT}; or published: what the published code draws of C4")
    command.add_argument("--samples", type=int, default=128, help="calibration windows, as published")
    command.add_argument("--length", type=int, help="tokens in each window; by default 2048, or the model's limit")
    command.add_argument("--seed", type=int, default=0, help="of the draw of calibration windows")
    command.add_argument("--budget", type=float, help="GiB of CPU memory for hidden states before they go to a file")


def _add_prune(subparsers) -> None:
    command = _add_command(
        subparsers,
        commands.prune,
        "Prune a checkpoint into a new folder. A few blocks are in memory at a time, so the model may be larger than "
        f"memory. {RESUMES} Under torchrun or accelerate launch, the processes share the calibration windows.",
    )
    command.add_argument("destination", type=Path, help="a new folder, which plain transformers loads")
    command.add_argument("--method", choices=METHODS, default="wanda", help="how weights are scored")
    target = command.add_mutually_exclusive_group()
    target.add_argument("--sparsity", type=float, help="fraction to remove (0.5 if left out)")
    target.add_argument("--pattern", help="N:M, such as 2:4: keep 2 of every 4 weights along the input")
    command.add_argument("--group", help="output, input or layer: which weights are compared; by default as published")
    command.add_argument("--update", choices=UPDATES[1:], help="move the kept weights to make up for the removed ones")
    command.add_argument("--damping", type=float, help=f"of an update; by default {DAMPING}, more with little text")
    text = command.add_mutually_exclusive_group()
    text.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what calibrate wrote of this model, and no text; smollm2-135m: its norms, which the package brings",
    )
    _add_text(command, text)


def _add_evaluate(subparsers) -> None:
    text = f"Measure perplexity, and accuracy on zero-shot tasks. {RESUMES}"
    command = _add_command(subparsers, commands.evaluate, text)
    command.add_argument("--text", default="wikipedia", help=TEXT)
    command.add_argument("--length", type=int, default=512, help="tokens in each window (the paper: 2048)")
    command.add_argument("--windows", type=int, help="how many windows, from the first; by default all")
    command.add_argument("--tasks", nargs="*", metavar="TASK", help="zero-shot tasks; --tasks alone: the paper's seven")
    command.add_argument("--limit", type=int, help="items of each task; by default all")
    command.add_argument(
        "--source", choices=("pinned", "hub"), default="pinned", help="where the tasks' items come from"
    )
    command.add_argument("--record", type=Path, default="evaluation.json", help="the file that keeps the result")


def _add_recover(subparsers) -> None:
    command = _add_command(
        subparsers,
        commands.recover,
        f"Train a pruned model on a little text; its zeros stay zero. {RESUMES} Runs on several devices under "
        "accelerate launch.",
    )
    command.add_argument("destination", type=Path, help="a new folder for the trained model and its checkpoints")
    command.add_argument("--method", choices=("lora", "masked"), default="lora", help="adapters, or all kept weights")
    command.add_argument("--text", default="c4", help=TEXT)
    command.add_argument("--length", type=int, default=1024, help="tokens in each training window")
    command.add_argument("--windows", type=int, help="training windows; by default all there are")
    command.add_argument("--steps", type=int, help="optimiser steps; by default one pass over the text")
    command.add_argument("--accumulate", type=int, default=1, help="batches in each step")
    command.add_argument("--learning-rate", type=float, help="by default 1e-4 for lora and 2e-5 for masked")
    command.add_argument("--seed", type=int, default=0, help="of the draw of text and adapters")


def main(words: list[str] | None = None) -> int:
    """Run a command line and return its exit status. An error in the arguments or the files is one line on stderr."""
    arguments = parser().parse_args(words)
    try:
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        arguments.run(arguments, join_processes(arguments.device), dtype)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
