"""How fast is pruning, on a checkpoint of a large model's shape? Speed does not depend on the weights' values.

python data/benchmark.py build FOLDER --shape llama-7b     random weights in bfloat16, 13.5 GB
python data/benchmark.py run FOLDER                        prunes it, prints a table, writes data/results/speed.json

`run` takes --device, --samples and --length (128 windows of 2048, as in the paper, take hours on a CPU; give fewer
there). It prunes from disk to disk; with a GPU also the model in its memory, and the model in CPU memory whose blocks
visit it. With --published and a copy of the code published with the paper, that runs too, in turn, --repeat times. All
masks are compared. The published code needs the whole model on the device, and a LLaMA architecture.
"""

import argparse
import contextlib
import copy
import gc
import io
import json
import shutil
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from experiments.record import code_identity
from transformers import AutoModelForCausalLM, LlamaConfig

import wanda_nb as wn
from wanda_nb.checkpoint.shards import write_index, write_shard
from wanda_nb.checkpoint.skeleton import Skeleton
from wanda_nb.reporting.provenance import provenance
from wanda_nb.reporting.report import gib

RESULTS = Path(__file__).parent / "results"
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4},
    "llama-160m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    "llama-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}


def build(folder: Path, shape: str) -> None:
    """Write a random checkpoint, a shard for each block, each drawn from a seed of its own."""
    config = LlamaConfig(**SHAPES[shape], vocab_size=32000, max_position_embeddings=2048, dtype=torch.bfloat16)
    config.architectures = ["LlamaForCausalLM"]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    width, inner = config.hidden_size, config.intermediate_size
    attention = {f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
    mlp = {"mlp.gate_proj.weight": (inner, width), "mlp.up_proj.weight": (inner, width)}
    mlp["mlp.down_proj.weight"] = (width, inner)
    ones = torch.ones(width, dtype=torch.bfloat16)
    count = config.num_hidden_layers + 1

    def shard(index: int) -> tuple[str, list[str], int]:
        draw = torch.Generator().manual_seed(index)

        def weights(out: int, into: int) -> torch.Tensor:
            return torch.randn(out, into, generator=draw).mul_(0.02).bfloat16()

        if index < config.num_hidden_layers:
            block = f"model.layers.{index}."
            tensors = {block + name: weights(*shape) for name, shape in (attention | mlp).items()}
            tensors |= {f"{block}{name}_layernorm.weight": ones.clone() for name in ("input", "post_attention")}
        else:
            tensors = {name: weights(32000, width) for name in ("model.embed_tokens.weight", "lm_head.weight")}
            tensors["model.norm.weight"] = ones
        name = f"model-{index + 1:05}-of-{count:05}.safetensors"
        return name, list(tensors), write_shard(folder / name, tensors)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        written = list(pool.map(shard, range(count)))
    total = sum(size for *_, size in written)
    write_index(folder, {name: tensors for name, tensors, _ in written}, total)
    print(f"{folder.name}: {gib(total)}", flush=True)


def streaming(folder: Path, scratch: Path, tokens, how: dict) -> dict:
    """Prune a checkpoint from disk to disk; return what it took."""
    shutil.rmtree(scratch, ignore_errors=True)
    estimate = wn.estimate_checkpoint(folder, tokens, **how)
    start = time.perf_counter()
    report = wn.prune_checkpoint(folder, scratch, tokens, **how)
    return {
        **taken(report, time.perf_counter() - start),
        "predicted memory": estimate.memory if torch.device(how["device"]).type == "cpu" else estimate.device,
        "read": report.read,
        "written": report.written,
    }


def in_memory(model, tokens, how: dict) -> dict:
    """Prune a model where it is, on the device or visiting it; return what it took."""
    start = time.perf_counter()
    return taken(wn.prune(model, tokens, **how), time.perf_counter() - start)


def taken(report, seconds: float) -> dict:
    """What a run took: seconds, by phase too; the least that its arithmetic takes; bytes."""
    print(report.headline(), report.timing(), sep="\n", flush=True)
    return {
        "seconds": round(seconds, 2),
        "phases": {phase: round(s, 2) for phase, s in report.seconds.items()},
        "arithmetic": round(report.flops / report.rate, 5),
        "GFLOP/s": round(report.rate / 1e9),
        "peak memory": report.peak_memory,
        "zeros": round(report.reached, 6),
    }


def published(repository: Path, model, tokens, pattern, device) -> dict:
    """Prune a model with the published code, adapted here to what transformers has changed since 2023."""
    data = types.ModuleType("lib.data")
    data.get_loaders = lambda *names, **settings: ([(window[None], None) for window in tokens], None)
    sys.modules["lib.data"] = data
    sys.path.insert(0, str(repository))
    from lib.prune import prune_wanda

    model.hf_device_map, model.seqlen = {}, tokens.shape[1]
    rotary = model.model.rotary_emb
    for block in model.model.layers:

        def forward(hidden, attention_mask=None, position_ids=None, inner=block.forward, **settings):
            settings["position_embeddings"] = rotary(hidden, position_ids)
            return (inner(hidden, attention_mask=attention_mask, position_ids=position_ids, **settings),)

        block.forward = forward
    settings = types.SimpleNamespace(nsamples=len(tokens), seed=0, sparsity_ratio=0.5, use_variant=False)
    n, m = (0, 0) if pattern is None else (int(part) for part in pattern.split(":"))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        torch.Tensor.cuda = lambda tensor, *where, **settings: tensor
        torch.cuda.synchronize = lambda *where: None
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        prune_wanda(settings, model, None, device, prune_n=m - n, prune_m=m)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    measured = {"seconds": round(time.perf_counter() - start, 2)}
    if device.type == "cuda":
        measured["peak memory"] = torch.cuda.max_memory_allocated(device)
    return measured


def agreement(model, scratch: Path) -> float:
    """The fraction of mask elements on which a model and a checkpoint agree, in every fourth block."""
    weights = model.state_dict()
    skeleton = Skeleton(scratch)
    same = total = 0
    for names in skeleton.names[::4]:
        layers = {stored for name, stored in names.items() if name.endswith("proj.weight")}
        for name, tensor in skeleton.shards.read(layers).items():
            there = weights[name]
            same += int(((tensor.to(there.device) == 0) == (there == 0)).sum())
            total += tensor.numel()
    return same / total


def measured(arguments, tokens, pattern, dense) -> dict:
    """One pattern, pruned in every way that this machine and the arguments allow, and whether the masks agree."""
    device = torch.device(arguments.device)
    how = {"pattern": pattern, "device": device, "batch_size": arguments.batch_size}
    scratch = arguments.folder.with_name(arguments.folder.name + "-pruned")
    row = {"ours": streaming(arguments.folder, scratch, tokens, how), "masks equal": {}}
    ways = {"published": lambda model: published(arguments.published, model, tokens, pattern, device)}
    if device.type != "cpu":
        ours = {name: lambda model: in_memory(model, tokens, how) for name in ("in memory", "visiting")}
        ways = ours | ways
    for name, way in ways.items():
        if name != "published" or arguments.published:
            model = copy.deepcopy(dense)
            row[name] = way(model if name == "visiting" else model.to(device))
            row["masks equal"][name] = agreement(model, scratch)
            del model
            gc.collect()  # the published code's blocks refer to themselves
    shutil.rmtree(scratch)
    return row


def run(arguments) -> None:
    """Prune by every pattern --repeat times, write the record and print a table."""
    device = torch.device(arguments.device)
    skeleton = Skeleton(arguments.folder)
    config = skeleton.model.config
    size = (arguments.samples, arguments.length)
    tokens = torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    in_memory_too = device.type != "cpu" or arguments.published
    dense = AutoModelForCausalLM.from_pretrained(arguments.folder) if in_memory_too else None
    origin = {"script": code_identity([Path(__file__)]), **provenance(skeleton.model, device)}
    origin["model"] = "random weights"  # by `build`, always the same
    rows = []
    for pattern in (None, "2:4"):
        for number in range(arguments.repeat):
            row = {"pattern": pattern or "50%", "repeat": number, "run": 0}
            rows.append(row | measured(arguments, tokens, pattern, dense))
            record = {
                "command": f"python data/benchmark.py run FOLDER --samples {arguments.samples} "
                f"--length {arguments.length}" + " --published REPOSITORY" * bool(arguments.published),
                "shape": {key: getattr(config, key) for key in SHAPES["tiny"]},
                "samples": arguments.samples,
                "length": arguments.length,
                "runs": [origin],
                "rows": rows,
            }
            arguments.results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = pd.DataFrame(
        {
            "pattern": row["pattern"],
            "way": way,
            "seconds": row[way]["seconds"],
            "peak memory": gib(bytes_) if (bytes_ := row[way].get("peak memory")) else None,
            "masks equal": row["masks equal"].get(way),
        }
        for row in rows
        for way in row
        if isinstance(row[way], dict) and "seconds" in row[way]
    )
    print(table.to_string(index=False, na_rep="–"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    build_command = commands.add_parser("build")
    build_command.add_argument("folder", type=Path)
    build_command.add_argument("--shape", choices=SHAPES, default="llama-7b")
    run_command = commands.add_parser("run")
    run_command.add_argument("folder", type=Path)
    run_command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    run_command.add_argument("--samples", type=int, default=128)
    run_command.add_argument("--length", type=int, default=2048)
    run_command.add_argument("--batch-size", type=int)
    run_command.add_argument("--published", type=Path, metavar="REPOSITORY")
    run_command.add_argument("--repeat", type=int, default=1)
    run_command.add_argument("--results", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()
    if arguments.command == "build":
        build(arguments.folder, arguments.shape)
    else:
        run(arguments)


if __name__ == "__main__":
    main()
