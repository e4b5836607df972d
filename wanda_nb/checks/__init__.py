"""Immediate feedback on an exercise: a quiet line, or an AssertionError that names the mistake. One file a notebook."""

from .ablations import fair_winner, my_score, reported_winner
from .activations import masked_norm, outliers, streaming_norm
from .budget import allocated
from .cost import faulty_step, logs, loop_seconds
from .damping import chosen_damping
from .evaluation import bootstrap, perplexity_from_logits, reported_interval
from .guess import compare
from .larger import prune_folder, save_every
from .loop import first_misjudged, prune_blocks, suspects
from .paper import published_starts, reproduced
from .patterns import column_order, misfits, one_order, survive_by_chance, survivors
from .recovery import lora_linear, lora_share
from .scores import disagree, mended_mask, rescaled
from .shares import shared_runs, times_counted
from .tasks import power_of_test
from .training import masked_training, under_the_mask
from .updates import conjugate_gradients, walk
from .vision import fidelity, mask_changes

__all__ = [
    "allocated",
    "bootstrap",
    "chosen_damping",
    "column_order",
    "compare",
    "conjugate_gradients",
    "disagree",
    "fair_winner",
    "faulty_step",
    "fidelity",
    "first_misjudged",
    "logs",
    "loop_seconds",
    "lora_linear",
    "lora_share",
    "mask_changes",
    "masked_norm",
    "masked_training",
    "mended_mask",
    "misfits",
    "my_score",
    "one_order",
    "outliers",
    "perplexity_from_logits",
    "power_of_test",
    "prune_blocks",
    "prune_folder",
    "published_starts",
    "reported_interval",
    "reported_winner",
    "reproduced",
    "rescaled",
    "save_every",
    "shared_runs",
    "streaming_norm",
    "survive_by_chance",
    "survivors",
    "suspects",
    "times_counted",
    "under_the_mask",
    "walk",
]
