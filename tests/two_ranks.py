"""Run by test_ranks under torchrun: what each rank sees and makes."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import calibrating, pruning
from wanda_nb.checkpoint import streaming
from wanda_nb.distributed import join_processes, world

what, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
join_processes("cpu")
rank, ranks = world()
tokens = torch.load(folder / "tokens.pt")
seen = []


def watched(model, tokens, *settings, **named):
    seen.append(len(tokens))
    return first(model, tokens, *settings, **named)


first = pruning.first_hidden_states
pruning.first_hidden_states = streaming.first_hidden_states = calibrating.first_hidden_states = watched

if what == "memory":
    model = tiny_model()
    wn.prune(model, tokens)
    torch.save(model.state_dict(), folder / f"rank{rank}.pt")
elif what == "disk":
    wn.prune_checkpoint(folder / "source", folder / "out", tokens)
elif what == "calibrate":
    for name, source in (("memory", tiny_model()), ("disk", folder / "source")):
        found = wn.calibrate(source, tokens, kept=folder / f"{name}-kept")
        found.save(folder / f"{name}{rank}.safetensors")
elif what == "dies":
    if rank == 1:
        tokens[:] = 10**6  # another text than the first rank's, which no model knows
    wn.prune_checkpoint(folder / "source", folder / "out", tokens)
elif what == "recover":
    model = tiny_model()
    wn.prune(model, None, method="magnitude")
    wn.recover(model, tokens, "masked", steps=3, batch_size=1, learning_rate=1e-2)
    torch.save(model.state_dict(), folder / f"rank{rank}.pt")
    seen.append(0)
(folder / f"seen{rank}.json").write_text(json.dumps({"windows": seen[-1], "ranks": ranks}))
torch.distributed.destroy_process_group()
