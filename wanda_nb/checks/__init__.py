"""Immediate feedback on an exercise: a quiet line, or an AssertionError that names the mistake. One file a notebook."""

from .ablations import fair_winner, my_score, reported_winner
from .activations import masked_norm, outliers, streaming_norm
from .cost import loop_seconds, visited_gpu_bytes
from .evaluation import bootstrap, perplexity_from_logits, reported_interval
from .guess import compare
from .larger import norm_of_all, prune_folder, seconds_left
from .loop import first_misjudged, prune_blocks, suspects
from .paper import published_starts, reproduced
from .patterns import misfits, nm_mask_by_me, two_four_bytes
from .recovery import lora_linear, lora_share, merge_under_mask
from .scores import disagree, my_wanda_score, row_mask
from .tasks import unfair
from .updates import best_weights, conjugate_gradients, damped

__all__ = [
    "best_weights",
    "bootstrap",
    "compare",
    "conjugate_gradients",
    "damped",
    "disagree",
    "fair_winner",
    "first_misjudged",
    "loop_seconds",
    "lora_linear",
    "lora_share",
    "masked_norm",
    "merge_under_mask",
    "misfits",
    "my_score",
    "my_wanda_score",
    "nm_mask_by_me",
    "norm_of_all",
    "outliers",
    "perplexity_from_logits",
    "prune_blocks",
    "prune_folder",
    "published_starts",
    "reported_interval",
    "reported_winner",
    "reproduced",
    "row_mask",
    "seconds_left",
    "streaming_norm",
    "suspects",
    "two_four_bytes",
    "unfair",
    "visited_gpu_bytes",
]
