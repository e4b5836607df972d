"""One function a figure, one style, one file a notebook. Each draws, names its axes and returns the Figure."""

from .ablations import (
    calibration_curves,
    leaderboard,
    norm_power,
    perplexity_by_sparsity,
    perplexity_by_windows,
    score_by_group,
)
from .activations import channel_norms, loudness_by_depth, massive_activations, outlier_channels
from .block import llama_block
from .evaluation import one_text_many_perplexities, pairing, pattern_perplexities, perplexity_intervals
from .explorer import Explorer, explored
from .larger import formats, pipeline, streamed_memory
from .look import COLORS, KEPT, REMOVED, style
from .loop import RESIDENTS, block_loop, by_kind, input_drift, order_differences, phase_seconds, residency
from .paper import moved_by, published_accuracy, published_beside_ours, published_ratios
from .patterns import bytes_by_sparsity, groups_of_four, two_four_format, two_four_product
from .quickstart import perplexity_sweep, removed_weights, times_dense
from .recovery import lost_shares, merged_corners, recovery_curves, shares_closed
from .scores import comparison_groups, error_ratios, masks_side_by_side, row_sparsity, score_plane, worked_example
from .slider import Slider
from .tasks import accuracy_differences, task_accuracies
from .updates import correlations, error_by_steps, error_valley, updates_of_masks
from .vision import accuracy_by_sparsity, feature_cosines, image_rows, loudness_of_models, patch_norms

__all__ = [
    "COLORS",
    "KEPT",
    "REMOVED",
    "RESIDENTS",
    "Explorer",
    "Slider",
    "accuracy_by_sparsity",
    "accuracy_differences",
    "block_loop",
    "by_kind",
    "bytes_by_sparsity",
    "calibration_curves",
    "channel_norms",
    "comparison_groups",
    "correlations",
    "error_by_steps",
    "error_ratios",
    "error_valley",
    "explored",
    "feature_cosines",
    "formats",
    "groups_of_four",
    "image_rows",
    "input_drift",
    "leaderboard",
    "llama_block",
    "lost_shares",
    "loudness_by_depth",
    "loudness_of_models",
    "masks_side_by_side",
    "massive_activations",
    "merged_corners",
    "moved_by",
    "norm_power",
    "one_text_many_perplexities",
    "order_differences",
    "outlier_channels",
    "pairing",
    "patch_norms",
    "pattern_perplexities",
    "perplexity_by_sparsity",
    "perplexity_by_windows",
    "perplexity_intervals",
    "perplexity_sweep",
    "phase_seconds",
    "pipeline",
    "published_accuracy",
    "published_beside_ours",
    "published_ratios",
    "recovery_curves",
    "removed_weights",
    "residency",
    "row_sparsity",
    "score_by_group",
    "score_plane",
    "shares_closed",
    "streamed_memory",
    "style",
    "task_accuracies",
    "times_dense",
    "two_four_format",
    "two_four_product",
    "updates_of_masks",
    "worked_example",
]
