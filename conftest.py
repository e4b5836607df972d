"""Make plain ``pytest --nbval`` right from any folder."""

import os
from pathlib import Path

for bars in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(bars, "1")  # the kernels inherit it: no progress bars among the outputs
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
collect_ignore = ["notebooks/student"]  # nothing is answered there


def pytest_configure(config):
    if not getattr(config.option, "nbval", False):
        return
    config.option.nbval_current_env = not config.option.nbval_kernel_name
    config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 600)
    if not config.option.nbval_sanitize_with:
        config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval_sanitize.cfg")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook; warnings and rich forms differ between machines
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "output_timeout"):  # nbval waits a fixed 5 s for a busy kernel to say something
            item.output_timeout = 120
