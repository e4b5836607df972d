"""Run by test_streaming: one run, killed ten times at random moments, and one that nobody kills."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import tiny_model

import wanda_nb as wn

folder = Path(sys.argv[1])
torch.set_num_threads(1)  # children are forked, and a pool of threads would not follow them
tiny_model(num_hidden_layers=12).save_pretrained(folder / "source", max_shard_size="50KB")
tokens = torch.randint(3, 96, (64, 32), generator=torch.Generator().manual_seed(1))


def start(name: str) -> int:
    child = os.fork()
    if child:
        return child
    wn.prune_checkpoint(folder / "source", folder / name, tokens, batch_size=2)
    os._exit(0)


begun = time.perf_counter()
os.waitpid(start("whole"), 0)
whole = time.perf_counter() - begun

draw, kills, finished = random.Random(0), 0, []
while kills < 10:
    child = start("out")
    time.sleep(draw.uniform(0.2, 1) * whole)
    if os.waitpid(child, os.WNOHANG)[0]:
        shutil.rmtree(folder / "out")  # it got through: from the start again
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
    record = folder / "out" / "run.json"
    finished.append(len(json.loads(record.read_text())["rows"]) if record.exists() else 0)
os.waitpid(start("out"), 0)
print(json.dumps({"kills": kills, "blocks finished at each kill": finished, "seconds": round(whole, 2)}))
