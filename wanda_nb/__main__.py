"""python -m wanda_nb prune | evaluate | recover: what has outgrown a notebook."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import wanda_nb as wn

from . import commands
from .distributed import join_processes
from .methods import METHODS, UPDATES

MODEL = (
    "'smollm2-135m' (pinned, needs no hub), a folder with config.json and safetensors, or the id of a model on a hub"
)
TEXT = "c4, wikipedia, hub:c4, hub:wikitext2, or the path of a .txt, .jsonl or .parquet file"
SHOWN = argparse.ArgumentDefaultsHelpFormatter


def parser() -> argparse.ArgumentParser:
    """The command line, as ``--help`` shows it."""
    top = argparse.ArgumentParser("python -m wanda_nb", description=wn.__doc__)
    top.add_argument("--version", action="version", version=f"wanda-nb {wn.__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        made = subparsers.add_parser(name, help=text.split(".")[0], description=text, formatter_class=SHOWN)
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
        commands.prune,
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
        commands.evaluate,
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
        commands.recover,
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


if __name__ == "__main__":
    sys.exit(main())
