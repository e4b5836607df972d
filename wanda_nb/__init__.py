"""Wanda: prune language models by |weight| × ‖activation‖, with no retraining (arXiv 2306.11695)."""

from importlib.metadata import PackageNotFoundError, version

from .allocation import owl_sparsity
from .blocks import decoder_blocks, linear_layers, sparsity, weight_matrix
from .calibrating import calibrate
from .calibration import Calibration, load_calibration
from .capture import InputGrams, InputNorms
from .checkpoint.compressed import load_compressed, save_compressed
from .checkpoint.gguf import save_gguf
from .checkpoint.quantise import quantised, stored_bytes
from .checkpoint.save import save_pruned
from .checkpoint.streaming import estimate_checkpoint, prune_checkpoint
from .evaluation.generation import complete
from .evaluation.perplexity import perplexity, window_losses
from .evaluation.scorecard import scorecard
from .evaluation.uncertainty import mean_interval, paired_difference, perplexity_interval
from .evaluation.zero_shot import ZeroShot, zero_shot
from .experts import separate_experts
from .inputs.documents import documents
from .inputs.hidden_states import first_hidden_states
from .inputs.loading import load_model, model_folder
from .inputs.text import calibration_tokens, evaluation_tokens, published_windows, training_tokens
from .inputs.vision import load_vision_model
from .masks import nm_mask, prune_mask
from .pruning import prune
from .recovery.merge import merge_lora
from .recovery.recover import Recovery, recover
from .reporting.records import measured, published
from .reporting.report import Report
from .scores import magnitude_score, ria_score, wanda_score
from .updates import inverse_factor, least_squares, obs_prune, output_error

try:
    __version__ = version("wanda-nb")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "unknown"

__all__ = [
    "Calibration",
    "InputGrams",
    "InputNorms",
    "Recovery",
    "Report",
    "ZeroShot",
    "calibrate",
    "calibration_tokens",
    "complete",
    "decoder_blocks",
    "documents",
    "estimate_checkpoint",
    "evaluation_tokens",
    "first_hidden_states",
    "inverse_factor",
    "least_squares",
    "linear_layers",
    "load_calibration",
    "load_compressed",
    "load_model",
    "load_vision_model",
    "magnitude_score",
    "mean_interval",
    "measured",
    "merge_lora",
    "model_folder",
    "nm_mask",
    "obs_prune",
    "output_error",
    "owl_sparsity",
    "paired_difference",
    "perplexity",
    "perplexity_interval",
    "prune",
    "prune_checkpoint",
    "prune_mask",
    "published",
    "published_windows",
    "quantised",
    "recover",
    "ria_score",
    "save_compressed",
    "save_gguf",
    "save_pruned",
    "scorecard",
    "separate_experts",
    "sparsity",
    "stored_bytes",
    "training_tokens",
    "wanda_score",
    "weight_matrix",
    "window_losses",
    "zero_shot",
]
