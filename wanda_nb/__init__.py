"""Wanda: prune language models by |weight| × ‖activation‖, with no retraining (arXiv 2306.11695)."""

from importlib.metadata import PackageNotFoundError, version

from .capture import InputNorms, first_hidden_states
from .evaluation import complete, perplexity, window_losses
from .masks import nm_mask, prune_mask
from .models import decoder_blocks, linear_layers, load_model, sparsity, weight_matrix
from .pruning import prune
from .results import Report
from .scores import magnitude_score, wanda_score
from .text import calibration_tokens, documents, evaluation_tokens

try:
    __version__ = version("wanda-nb")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "unknown"

__all__ = [
    "InputNorms",
    "Report",
    "calibration_tokens",
    "complete",
    "decoder_blocks",
    "documents",
    "evaluation_tokens",
    "first_hidden_states",
    "linear_layers",
    "load_model",
    "magnitude_score",
    "nm_mask",
    "perplexity",
    "prune",
    "prune_mask",
    "sparsity",
    "wanda_score",
    "weight_matrix",
    "window_losses",
]
