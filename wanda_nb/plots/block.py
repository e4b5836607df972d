"""A LLaMA block: its seven matrices, their shapes, and the four places where their inputs are read."""

from __future__ import annotations

import matplotlib.pyplot as plt

from .look import COLORS, KEPT

LINE, PALE = "#44525a", "#8a969c"
MIDDLE = 31.0
#: Where each matrix stands in the drawing: left edge, middle.
PLACES = {
    "self_attn.q_proj": (16, 45),
    "self_attn.k_proj": (16, MIDDLE),
    "self_attn.v_proj": (16, 17),
    "self_attn.o_proj": (43, MIDDLE),
    "mlp.gate_proj": (65.5, 40),
    "mlp.up_proj": (65.5, 22),
    "mlp.down_proj": (88, MIDDLE),
}
#: The four inputs: where each stands, what it is, and which matrices read it.
INPUTS = (
    (11, "hidden states,\nnormed", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    (38, "heads of\nattention", ("self_attn.o_proj",)),
    (60.5, "hidden states,\nnormed", ("mlp.gate_proj", "mlp.up_proj")),
    (83, "SiLU(gate)\n× up", ("mlp.down_proj",)),
)


def llama_block(layers: dict, lit=()):
    """The way of the hidden states through a block, from left to right, with the shape of each matrix.

    layers: ``{name: layer}`` as ``linear_layers`` gives them for a LLaMA block. A matrix is drawn as high as it has
    outputs and as wide as it has inputs; a dot is an input, where norms are read.
    lit: names of matrices to show in colour, with the inputs that they read; all of them if empty.
    Used in notebook 00, "A real model", 01 and 03.
    """
    lit = set(lit or PLACES)
    if unknown := lit - PLACES.keys():
        raise ValueError(f"lit={sorted(unknown)}: expected names such as {', '.join(PLACES)}.")
    shapes = {name: tuple(layers[name].weight.shape) for name in PLACES}
    scale = 9.5 / max(max(shape) for shape in shapes.values())
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.set(xlim=(0, 104), ylim=(0, 62))
    axes.axis("off")

    def arrow(start, end, color=LINE):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2})

    for name, (x, y) in PLACES.items():
        out, inputs = shapes[name]
        width, height = inputs * scale, out * scale * 1.16  # so that a square matrix looks square
        color, ink = (COLORS["wanda"], "black") if name in lit else (KEPT, PALE)
        axes.add_patch(plt.Rectangle((x, y - height / 2), width, height, facecolor=color, edgecolor=LINE))
        text = f"{name.split('.')[-1]}\n{out} × {inputs}"
        below = name.endswith(("o_proj", "down_proj"))
        where = {"ha": "center", "va": "top"} if below else {"ha": "left", "va": "center"}
        at = (x + width / 2, y - height / 2 - 1.5) if below else (x + width + 0.8, y)
        axes.text(*at, text, fontsize=9, color=ink, linespacing=1.3, **where)
    for x, label, readers in INPUTS:
        on = lit & set(readers)
        width = shapes[readers[0]][1]
        axes.text(
            x, 60, f"{label}\n(tokens, {width})", ha="center", va="top", fontsize=9, color="black" if on else PALE
        )
        axes.plot([x, x], [MIDDLE, 50.5], color="#b9c3c8", linewidth=0.8, zorder=0)
        for reader in readers:
            arrow((x, MIDDLE), PLACES[reader])
        color = COLORS["2:4"] if on else KEPT
        axes.plot(x, MIDDLE, "o", color=color, markeredgecolor=LINE, markersize=10, zorder=3)
    for y in (45, MIDDLE, 17):
        arrow((32.3, y + 0.12 * (MIDDLE - y)), (37.2, MIDDLE), PALE)
    for y in (35.5, 26.5):
        arrow((76, y), (82.2, MIDDLE), PALE)
    axes.text(2.5, MIDDLE, "hidden\nstates", ha="center", va="center", fontsize=9)
    arrow((5.5, MIDDLE), (10.2, MIDDLE), PALE)
    axes.plot([2.5, 2.5, 55], [27, 5, 5], color=PALE, linewidth=1.2)
    axes.plot([47, 53, 53], [MIDDLE, MIDDLE, 8], color=PALE, linewidth=1.2)
    axes.plot([53, 103, 103], [5, 5, MIDDLE], color=PALE, linewidth=1.2)
    axes.plot([98, 103], [MIDDLE, MIDDLE], color=PALE, linewidth=1.2)
    axes.plot([57, 57], [5, MIDDLE], color=PALE, linewidth=1.2)
    arrow((57, MIDDLE), (59.7, MIDDLE), PALE)
    axes.text(53, 5, "+", ha="center", va="center", fontsize=11, bbox={"boxstyle": "circle,pad=0.15", "fc": "white"})
    axes.text(103, 5, "+", ha="center", va="center", fontsize=11, bbox={"boxstyle": "circle,pad=0.15", "fc": "white"})
    return figure
