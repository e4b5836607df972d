"""Wanda: prune language models by |weight| × ‖activation‖, with no retraining (arXiv 2306.11695)."""

from importlib.metadata import PackageNotFoundError, version

from .allocation import owl_sparsity
from .capture import InputGrams, InputNorms, first_hidden_states
from .evaluation import complete, perplexity, window_losses
from .masks import nm_mask, prune_mask
from .models import decoder_blocks, linear_layers, load_model, sparsity, weight_matrix
from .pruning import prune
from .results import Report
from .scores import magnitude_score, ria_score, wanda_score
from .sparsegpt import inverse_factor, obs_prune
from .text import calibration_tokens, documents, evaluation_tokens

try:
    __version__ = version("wanda-nb")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "unknown"

__all__ = [
    "InputGrams",
    "InputNorms",
    "Report",
    "calibration_tokens",
    "complete",
    "decoder_blocks",
    "documents",
    "evaluation_tokens",
    "first_hidden_states",
    "inverse_factor",
    "linear_layers",
    "load_model",
    "magnitude_score",
    "nm_mask",
    "obs_prune",
    "owl_sparsity",
    "perplexity",
    "prune",
    "prune_mask",
    "ria_score",
    "sparsity",
    "wanda_score",
    "weight_matrix",
    "window_losses",
]
