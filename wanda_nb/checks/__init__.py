"""Immediate feedback on an exercise: a quiet line, or an AssertionError that names the mistake. One file a notebook."""

from .ablations import clear_winner, my_score
from .activations import masked_norm, outliers, streaming_norm
from .evaluation import bootstrap, perplexity_from_logits, unfair
from .loop import prune_blocks, two_pass_seconds, visited_gpu_bytes
from .paper import published_starts, reproduced
from .patterns import misfits, nm_mask_by_me, two_four_bytes
from .recovery import lora_linear, lora_share, merge_under_mask
from .scores import disagree, my_wanda_score, row_mask
from .updates import best_weights, conjugate_gradients, damped

__all__ = [
    "best_weights",
    "bootstrap",
    "clear_winner",
    "conjugate_gradients",
    "damped",
    "disagree",
    "lora_linear",
    "lora_share",
    "masked_norm",
    "merge_under_mask",
    "misfits",
    "my_score",
    "my_wanda_score",
    "nm_mask_by_me",
    "outliers",
    "perplexity_from_logits",
    "prune_blocks",
    "published_starts",
    "reproduced",
    "row_mask",
    "streaming_norm",
    "two_four_bytes",
    "two_pass_seconds",
    "unfair",
    "visited_gpu_bytes",
]
