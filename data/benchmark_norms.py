"""How fast is pruning from norms that were taken once? Each time is compared with another of the same process.

python data/benchmark_norms.py memory        the pinned model, against the published way, and against selection alone
python data/benchmark_norms.py disk FOLDER   a checkpoint, such as `data/benchmark.py build` makes, against copying it
"""

import argparse
import copy
import os
import shutil
import statistics
import time
from pathlib import Path

import torch

import wanda_nb as wn
from wanda_nb.blocks import block_names
from wanda_nb.files import sync_folder
from wanda_nb.methods import Factors, make_plan
from wanda_nb.reporting.report import gib

PATTERNS = (None, "2:4")


def seconds(function, *arguments, **settings):
    """The seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*arguments, **settings)
    return time.perf_counter() - start, result


@torch.no_grad()
def published_way(model, tokens, pattern) -> None:
    """As the published code does it: window by window, each block twice, and a full sort of every row."""
    states, blocks = wn.first_hidden_states(model, tokens, batch_size=1), wn.decoder_blocks(model)
    for index, block in enumerate(blocks):
        with wn.InputNorms(block) as norms:
            outputs = [_output(states, index, block, number) for number in range(len(tokens))]
        for name, layer in wn.linear_layers(block).items():
            score = layer.weight.abs() * norms[name]
            if pattern is None:
                gone = score.sort(dim=1, stable=True).indices[:, : score.shape[1] // 2]
                layer.weight.scatter_(1, gone, 0)
            for start in range(0, score.shape[1], 4) if pattern else ():
                gone = start + score[:, start : start + 4].topk(2, dim=1, largest=False).indices
                layer.weight.scatter_(1, gone, 0)
        outputs = [_output(states, index, block, number) for number in range(len(tokens))]
        for hidden, output in zip(states.hidden, outputs, strict=True):
            hidden.copy_(output)


def _output(states, index, block, number):
    args, kwargs = states.calls[number][index]
    output = block(states.hidden[number], *args, **kwargs)
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def selection_alone(model, calibration, pattern) -> None:
    """Score and mask of every layer, and the zeros, with nothing around them."""
    plan = make_plan(len(wn.decoder_blocks(model)), "wanda", pattern=pattern)
    for index, (prefix, block) in enumerate(zip(block_names(model), wn.decoder_blocks(model), strict=True)):
        for name, layer in wn.linear_layers(block).items():
            plan.prune_layer(wn.weight_matrix(layer), calibration[f"{prefix}.{name}"], index, Factors())


def memory(arguments) -> None:
    """The pinned model: pruned from norms, by selection alone, and the published way."""
    dense, tokenizer = wn.load_model()
    tokens = wn.calibration_tokens(tokenizer, samples=arguments.samples, length=arguments.length)
    took, calibration = seconds(wn.calibrate, dense, tokens)
    print(f"calibrate {tuple(tokens.shape)}: {took:.2f} s, {gib(calibration.nbytes)}", flush=True)
    for pattern in PATTERNS:
        ratios = []
        for _ in range(arguments.repeat):
            models = [copy.deepcopy(dense) for _ in range(2)]
            ours, _ = seconds(wn.prune, models[0], calibration=calibration, pattern=pattern)
            alone, _ = seconds(selection_alone, models[1], calibration, pattern)
            assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
            ratios.append(ours / alone)
        published, _ = seconds(published_way, copy.deepcopy(dense), tokens, pattern)
        print(
            f"{pattern or '50%'}: from norms {ours:.2f} s, {statistics.median(ratios):.2f} × selection alone "
            f"(wanted: 1.5), {ours / published:.3f} of the published way's {published:.1f} s (wanted: 0.06)",
            flush=True,
        )


def disk(arguments) -> None:
    """A checkpoint: pruned from norms, from disk to disk, and copied."""
    source, scratch = arguments.folder, arguments.folder.with_name(arguments.folder.name + "-scratch")
    tokens = torch.randint(1000, (1, 32), generator=torch.Generator().manual_seed(0))
    calibration = wn.calibrate(source, tokens, dtype=torch.float32)
    for pattern in PATTERNS:
        for _ in range(arguments.repeat):
            shutil.rmtree(scratch, ignore_errors=True)
            copied, _ = seconds(lambda: (shutil.copytree(source, scratch), sync_folder(scratch)))
            shutil.rmtree(scratch)
            ours, report = seconds(wn.prune_checkpoint, source, scratch, calibration=calibration, pattern=pattern)
            weights = sum(rows * columns for rows, columns in report.layers["shape"])
            limit = 1.5 * copied + 6e-9 * weights
            select = report.seconds["select"] / weights * 1e9
            print(
                f"{pattern or '50%'}: {ours:.1f} s, {ours / limit:.2f} of the wanted 1.5 × {copied:.1f} s of copying "
                f"+ 6 ns a weight = {limit:.1f} s; selection {select:.1f} ns a weight; {gib(report.peak_memory)}",
                flush=True,
            )
    shutil.rmtree(scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    in_memory, on_disk = commands.add_parser("memory"), commands.add_parser("disk")
    in_memory.add_argument("--samples", type=int, default=32)
    in_memory.add_argument("--length", type=int, default=256)
    on_disk.add_argument("folder", type=Path)
    for command in (in_memory, on_disk):
        command.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    (memory if arguments.command == "memory" else disk)(arguments)


if __name__ == "__main__":
    main()
