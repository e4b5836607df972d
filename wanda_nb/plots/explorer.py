"""The explorer of notebook 02: turn a knob, and see which weights magnitude and Wanda remove."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
from IPython.display import display

from ..masks import nm_mask, parse_pattern, prune_mask
from ..scores import magnitude_score, wanda_score
from .scores import masks_side_by_side

FREE = "unstructured"
PATTERNS = (FREE, "2:4", "4:8", "1:4", "3:4")


def explored(W, norm, pattern=FREE, sparsity=0.5):
    """The masks of magnitude and Wanda in one layer, and where they differ: W (out, in), norm (in,) -> Figure.

    Compared by output. pattern: N:M, or ``"unstructured"`` for the sparsity. Used in notebook 02, "Masks side by side".
    """

    def mask_of(score):  # (out, in)
        return prune_mask(score, sparsity) if pattern == FREE else nm_mask(score, *parse_pattern(pattern))

    masks = {"magnitude": mask_of(magnitude_score(W)), "Wanda": mask_of(wanda_score(W, norm))}
    figure = masks_side_by_side(masks, norm, rows=40, columns=96)
    removed = float(masks["Wanda"].float().mean())
    differ = float((masks["magnitude"] != masks["Wanda"]).float().mean())
    figure.axes[0].set_title(f"{removed:.1%} of the layer removed, the two masks differ at {differ:.1%}")
    return figure


class Explorer:
    """Knobs for layer, pattern and sparsity: which weights go, and on which do magnitude and Wanda differ?

    layers: {name: (W (out, in), norm (in,))}. In JupyterLab, Colab and VS Code the knobs work; elsewhere it is a
    picture of the first layer at 50%. Introduced in notebook 02, "Masks side by side".
    """

    def __init__(self, layers: dict):
        self.layers = layers
        self.picture = self._drawn(next(iter(layers)))
        try:
            import ipywidgets
        except ImportError:
            self.widget = None
            return
        self.image = ipywidgets.Image(value=self.picture, format="png", layout={"max_width": "720px"})
        wide = {"style": {"description_width": "70px"}, "layout": {"width": "230px"}}
        self.knobs = {
            "layer": ipywidgets.Dropdown(options=list(layers), description="layer", **wide),
            "pattern": ipywidgets.Dropdown(options=PATTERNS, description="pattern", **wide),
            "sparsity": ipywidgets.FloatSlider(
                value=0.5, min=0.1, max=0.9, step=0.1, description="sparsity", readout_format=".0%",
                continuous_update=False, **wide,
            ),
        }  # fmt: skip
        for knob in self.knobs.values():
            knob.observe(self._redraw, names="value")
        self.widget = ipywidgets.VBox([ipywidgets.HBox(list(self.knobs.values())), self.image])

    def _drawn(self, layer: str, **settings) -> bytes:
        return drawn(explored(*self.layers[layer], **settings))

    def _redraw(self, _) -> None:
        settings = {name: knob.value for name, knob in self.knobs.items()}
        self.knobs["sparsity"].disabled = settings["pattern"] != FREE
        self.image.value = self._drawn(**settings)

    def _ipython_display_(self) -> None:
        show(self.picture, self.widget, f"an explorer of {len(self.layers)} layers")


def drawn(figure) -> bytes:
    """A Figure as PNG, closed."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    plt.close(figure)
    return file.getvalue()


def show(picture: bytes, widget, words: str) -> None:
    """One output in two forms: whoever reads it takes the widget if it can, else the picture. widget: or None."""
    shown: dict[str, object] = {"image/png": picture, "text/plain": words}
    if widget is not None:
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        shown["application/vnd.jupyter.widget-view+json"] = view
    display(shown, raw=True)
