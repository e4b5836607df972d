"""How fast is pruning, on a checkpoint of a large model's shape? Speed does not depend on the weights' values.

python data/benchmark.py build FOLDER --shape llama-7b     random weights in bfloat16, 13.5 GB
python data/benchmark.py run FOLDER                        prunes it, prints a table, writes data/results/speed.json

`run` takes --device, --samples and --length (128 windows of 2048, as in the paper, take hours on a CPU; give fewer
there), and --published with a copy of the code published with the paper: both then run in turn, --repeat times, and
their masks are compared. The published code needs the whole model on the device, and a LLaMA architecture.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import time
import types
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
    """Write a random checkpoint with a shard for each block, so that only one block is in memory."""
    config = LlamaConfig(**SHAPES[shape], vocab_size=32000, max_position_embeddings=2048, dtype=torch.bfloat16)
    config.architectures = ["LlamaForCausalLM"]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    width, inner = config.hidden_size, config.intermediate_size

    def weights(out: int, into: int) -> torch.Tensor:
        return torch.randn(out, into, generator=draw).mul_(0.02).bfloat16()

    attention = {f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
    mlp = {"mlp.gate_proj.weight": (inner, width), "mlp.up_proj.weight": (inner, width)}
    mlp["mlp.down_proj.weight"] = (width, inner)
    ones = torch.ones(width, dtype=torch.bfloat16)
    shards, total = {}, 0
    for index in range(config.num_hidden_layers + 1):
        if index < config.num_hidden_layers:
            block = f"model.layers.{index}."
            tensors = {block + name: weights(*shape) for name, shape in (attention | mlp).items()}
            tensors |= {f"{block}{name}_layernorm.weight": ones.clone() for name in ("input", "post_attention")}
        else:
            tensors = {name: weights(32000, width) for name in ("model.embed_tokens.weight", "lm_head.weight")}
            tensors["model.norm.weight"] = ones
        name = f"model-{index + 1:05}-of-{config.num_hidden_layers + 1:05}.safetensors"
        total += write_shard(folder / name, tensors)
        shards[name] = list(tensors)
        print(f"{name}: {gib(total)} so far", flush=True)
    write_index(folder, shards, total)


def ours(folder: Path, scratch: Path, tokens, pattern, device, batch_size) -> dict:
    """Prune a checkpoint from disk to disk; return what it took: seconds, bytes and floating-point operations."""
    estimate = wn.estimate_checkpoint(folder, tokens, pattern=pattern, device=device, batch_size=batch_size)
    shutil.rmtree(scratch, ignore_errors=True)
    start = time.perf_counter()
    report = wn.prune_checkpoint(folder, scratch, tokens, pattern=pattern, device=device, batch_size=batch_size)
    seconds = time.perf_counter() - start
    print(report.headline(), report.timing(), sep="\n", flush=True)
    return {
        "seconds": round(seconds, 2),
        "phases": {phase: round(s, 2) for phase, s in report.seconds.items()},
        "floor": round(report.flops / report.rate, 5),
        "GFLOP/s": round(report.rate / 1e9),
        "peak memory": report.peak_memory,
        "predicted memory": estimate.memory,
        "read": report.read,
        "written": report.written,
        "zeros": round(report.reached, 6),
    }


def published(repository: Path, folder: Path, tokens, pattern, device) -> tuple[dict, dict]:
    """Prune with the published code, adapted here to what transformers has changed since 2023.

    Returns what it took, and the weights by name.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).to(device)
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
    return measured, {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def agreement(weights: dict, scratch: Path) -> float:
    """The fraction of mask elements on which two results agree."""
    skeleton = Skeleton(scratch)
    same = total = 0
    for names in skeleton.names:
        layers = {stored for name, stored in names.items() if name.endswith("proj.weight")}
        for name, tensor in skeleton.shards.read(layers).items():
            same += int(((tensor == 0) == (weights[name] == 0)).sum())
            total += tensor.numel()
    return same / total


def run(arguments) -> None:
    """Prune by every pattern --repeat times, write the record and print a table."""
    device = torch.device(arguments.device)
    config = Skeleton(arguments.folder).model.config
    size = (arguments.samples, arguments.length)
    tokens = torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    scratch = arguments.folder.with_name(arguments.folder.name + "-pruned")
    rows = []
    for pattern in (None, "2:4"):
        for number in range(arguments.repeat):
            row = {"pattern": pattern or "50%", "repeat": number, "run": 0}
            row["ours"] = ours(arguments.folder, scratch, tokens, pattern, device, arguments.batch_size)
            if arguments.published:
                row["published"], weights = published(arguments.published, arguments.folder, tokens, pattern, device)
                row["masks equal"] = agreement(weights, scratch)
                del weights
            rows.append(row)
    shutil.rmtree(scratch)
    origin = {"script": code_identity([Path(__file__)]), **provenance(Skeleton(arguments.folder).model, device)}
    origin["model"] = "random weights"  # by `build`, always the same
    record = {
        "command": f"python data/benchmark.py run FOLDER --samples {arguments.samples} --length {arguments.length}",
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
            "ours s": row["ours"]["seconds"],
            "× floor": round(row["ours"]["seconds"] / row["ours"]["floor"], 2),
            "peak memory": gib(row["ours"]["peak memory"]),
            "predicted": gib(row["ours"]["predicted memory"]),
            "published s": row.get("published", {}).get("seconds"),
            "masks equal": row.get("masks equal"),
        }
        for row in rows
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
