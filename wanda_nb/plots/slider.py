"""The slider of notebook 00: prune a real model again at each move, and see what is left of it."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from .explorer import drawn, show
from .quickstart import perplexity_sweep

FREE = "none"


class Slider:
    """Sparsity and pattern to move: each move prunes a model again, shows its perplexity and prints what it writes.

    attempt: ``attempt(sparsity=0.3)`` or ``attempt(pattern="2:4")`` prunes a copy and gives a dict of pattern
    (``"none"`` for free choice), zeros, perplexity and writes. sweep: a DataFrame of what was tried before, with these
    columns. In JupyterLab, Colab and VS Code the knobs work; elsewhere it is a picture of the sweep.
    Introduced in notebook 00, "Move the slider".
    """

    def __init__(self, attempt: Callable[..., dict], sweep: pd.DataFrame):
        self.attempt, self.sweep = attempt, sweep
        self.picture = drawn(perplexity_sweep(sweep))
        try:
            import ipywidgets
        except ImportError:
            self.widget = None
            return
        self.image = ipywidgets.Image(value=self.picture, format="png", layout={"max_width": "720px"})
        self.printed = ipywidgets.Output()  # progress bars and errors, too
        patterns = [FREE, *(pattern for pattern in sweep["pattern"].unique() if pattern != FREE)]
        self.sparsity = ipywidgets.FloatSlider(
            value=0.5, min=0, max=0.7, step=0.05, description="sparsity", readout_format=".0%", continuous_update=False
        )
        self.pattern = ipywidgets.Dropdown(options=patterns, description="pattern")
        for knob in (self.sparsity, self.pattern):
            knob.observe(self._move, names="value")
        self.widget = ipywidgets.VBox([ipywidgets.HBox([self.sparsity, self.pattern]), self.image, self.printed])

    def _move(self, _) -> None:
        free = self.pattern.value == FREE
        self.sparsity.disabled = not free  # N:M says how much goes
        self.printed.clear_output(wait=True)
        with self.printed:
            found = self.attempt(**({"sparsity": self.sparsity.value} if free else {"pattern": self.pattern.value}))
            self.image.value = drawn(perplexity_sweep(self.sweep, found))
            print(f"{found['zeros']:.0%} zeros, perplexity {found['perplexity']:.1f}: {found['writes']!r}")

    def _ipython_display_(self) -> None:
        show(self.picture, self.widget, f"a slider over {len(self.sweep)} settings")
