"""A drawing of the model, features -> interventions -> graph -> cells: python docs/make_model_drawing.py

Writes model_light.svg and model_dark.svg, which the README and the user guide show. Nothing in it is data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 10.4, 4.05  # inches; all positions below are in inches, too
TOP, BOTTOM = 3.35, 1.05  # of the pictures, between titles and captions
LEFT = (0.1, 2.68, 5.58, 8.12)  # of the four columns
SPAN = (2.06, 2.4, 2.1, 2.2)
TITLE, LABEL, SMALL = 14.5, 12, 11  # points

#: The example: genes and their places, edges, and the probability and effect of each gene's intervention.
PLACES = {
    "A": (0.55, 2.05),
    "B": (0.25, 1.15),
    "C": (1.35, 1.45),
    "D": (0.45, 0.2),
    "E": (1.85, 0.75),
    "F": (1.35, 0.0),
}
EDGES = ("AB", "AC", "BD", "CE", "DF", "EF")
TARGETS = {"A": 0.04, "B": 0.97, "C": 0.07, "D": 0.10, "E": 0.91, "F": 0.03}
EFFECTS = {"B": 0.5, "E": -0.45}


class Colors(NamedTuple):
    ink: str
    soft: str
    faint: str
    paper: str  # text on a filled shape; the background is transparent
    gene: str
    acted: str


COLORS = {
    "light": Colors("#1A1A1A", "#5F5F5F", "#D5D5D5", "#FFFFFF", "#0072B2", "#D55E00"),
    "dark": Colors("#F2F2F2", "#B4B4B4", "#4A4A4A", "#121212", "#56B4E9", "#E69F00"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: that of this file)")
    parser.add_argument("--kind", choices=("svg", "png"), default="svg")
    args = parser.parse_args()
    for name, colors in COLORS.items():
        path = args.out / f"model_{name}.{args.kind}"
        # The same bytes on every run: no date, and no random ids of clips and gradients.
        with mpl.rc_context({"svg.hashsalt": "scgim", "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):
            figure = draw(colors)
            about = {"Date": None} if args.kind == "svg" else None
            figure.savefig(path, dpi=160, transparent=True, metadata=about)
            plt.close(figure)
        print(f"wrote {path.name} ({path.stat().st_size / 1000:.0f} kB)")


def draw(colors: Colors) -> plt.Figure:
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    ax.axis("off")
    titles = (r"Features  $\gamma$", "Interventions", "Causal graph", "Cells")
    captions = (
        "drug and dose, structure,\nor your own numbers",
        "networks $g$ and $h$ say which\ngenes are acted on, and how",
        "a targeted gene no longer\nlistens to its causes",
        "drawn from causes to\neffects, zeros included",
    )
    for number, (left, span, title, caption) in enumerate(zip(LEFT, SPAN, titles, captions, strict=True), 1):
        ax.text(left, HEIGHT - 0.32, str(number), size=TITLE, color=colors.gene, weight="bold", va="center")
        ax.text(left + 0.24, HEIGHT - 0.32, title, size=TITLE, color=colors.ink, weight="bold", va="center")
        for row, line in enumerate(caption.split("\n")):
            ax.text(left, BOTTOM - 0.45 - 0.23 * row, line, size=SMALL, color=colors.soft, va="baseline")
        if number < len(LEFT):
            middle = (left + span + LEFT[number]) / 2
            arrow(ax, (middle - 0.17, 2.42), (middle + 0.17, 2.42), colors.soft, width=1.8, head=16)
    features(ax, colors)
    interventions(ax, colors)
    graph(ax, colors)
    cells(ax, colors)
    return figure


def features(ax: Axes, colors: Colors) -> None:
    """One perturbation as one-hot drug, one-hot dose and rescaled dose."""
    left = LEFT[0]
    box = FancyBboxPatch(
        (left + 0.04, 3.0), 1.98, 0.34, boxstyle="round,pad=0.02,rounding_size=0.1", fc="none", ec=colors.acted, lw=1.3
    )
    ax.add_patch(box)
    ax.text(left + 1.03, 3.17, "drug 2, 10,000 nM", size=LABEL - 1, color=colors.ink, ha="center", va="center")
    arrow(ax, (left + 1.03, 2.94), (left + 1.03, 2.68), colors.soft, width=1.2, head=10)
    for y, name, code in ((2.2, "drug", (0, 1, 0, 0)), (1.68, "dose", (0, 0, 0, 1))):
        ax.text(left, y + 0.17, name, size=SMALL, color=colors.soft, va="center")
        for i, value in enumerate(code):
            fill = colors.gene if value else "none"
            ax.add_patch(Rectangle((left + 0.74 + 0.33 * i, y), 0.31, 0.34, fc=fill, ec=colors.soft, lw=0.8))
            text_color = colors.paper if value else colors.soft
            ax.text(
                left + 0.895 + 0.33 * i, y + 0.165, str(value), size=SMALL, color=text_color, ha="center", va="center"
            )
    ax.text(left, 1.33, "log dose", size=SMALL, color=colors.soft, va="center")
    ax.add_patch(Rectangle((left + 0.74, 1.25), 1.3, 0.16, fc=colors.gene, ec="none"))


def interventions(ax: Axes, colors: Colors) -> None:
    """Per gene: the probability of being a target, and the distribution of what replaces its mechanism."""
    left = LEFT[1]
    ax.text(left + 0.38, TOP, r"target?  $t$", size=LABEL, color=colors.ink, va="center")
    ax.text(left + 1.5, TOP, r"effect  $\psi$", size=LABEL, color=colors.ink, va="center")
    grid = np.linspace(-1, 1, 80)
    for row, (gene, probability) in enumerate(TARGETS.items()):
        y = TOP - 0.42 - 0.36 * row
        acted = probability > 0.5
        color = colors.acted if acted else colors.soft
        ax.text(left + 0.1, y, gene, size=LABEL, color=colors.ink, style="italic", va="center")
        ax.add_patch(Rectangle((left + 0.38, y - 0.08), 0.85, 0.16, fc=colors.faint, ec="none"))
        ax.add_patch(Rectangle((left + 0.38, y - 0.08), 0.85 * probability, 0.16, fc=color, ec="none"))
        ax.plot([left + 1.5, left + 2.4], [y - 0.12] * 2, color=colors.faint, lw=0.8)
        if acted:
            bell = np.exp(-0.5 * ((grid - EFFECTS[gene]) / 0.14) ** 2)
            x = left + 1.95 + 0.45 * grid
            ax.fill_between(x, y - 0.12, y - 0.12 + 0.3 * bell, color=color, lw=0, alpha=0.85)
    ax.plot([left + 1.95] * 2, [TOP - 0.2, TOP - 0.42 - 0.36 * 5 - 0.12], color=colors.faint, lw=0.8, zorder=0)


def graph(ax: Axes, colors: Colors) -> None:
    """The graph with its targeted genes cut from their causes."""
    left, low, radius = LEFT[2] + 0.03, BOTTOM + 0.1, 0.2
    for cause, effect in EDGES:
        start, end = (np.add(PLACES[gene], (left, low)) for gene in (cause, effect))
        step = (end - start) / np.linalg.norm(end - start)
        start, end = start + (radius + 0.03) * step, end - (radius + 0.04) * step
        cut = TARGETS[effect] > 0.5
        arrow(ax, start, end, colors.soft if cut else colors.gene, width=1.2 if cut else 1.7, head=12, dashed=cut)
        if cut:
            middle, across = (start + end) / 2, np.array([-step[1], step[0]])
            for sign in (1, -1):
                stroke = 0.09 * (step + sign * across) / np.sqrt(2)
                ax.plot(*zip(middle - stroke, middle + stroke, strict=True), color=colors.acted, lw=2.2, zorder=4)
    for gene, (x, y) in PLACES.items():
        acted = TARGETS[gene] > 0.5
        edge = colors.acted if acted else colors.gene
        fill = colors.acted if acted else "none"
        ax.add_patch(Circle((x + left, y + low), radius, fc=fill, ec=edge, lw=1.6, zorder=3))
        ink = colors.paper if acted else colors.ink
        ax.text(
            x + left, y + low - 0.01, gene, size=LABEL, color=ink, style="italic", ha="center", va="center", zorder=5
        )


def cells(ax: Axes, colors: Colors) -> None:
    """Marginals of three genes, control and treated: elsewhere, targeted, downstream."""
    left = LEFT[3]
    grid = np.linspace(0, 1, 120)
    shapes = (  # gene, where, mode (control, treated), fraction of zeros (control, treated)
        ("A", "elsewhere", 0.36, 0.36, 0.35, 0.35),
        ("B", "target", 0.25, 0.56, 0.5, 0.06),
        ("D", "downstream", 0.3, 0.44, 0.4, 0.2),
    )
    for row, (gene, where, control, treated, zero_control, zero_treated) in enumerate(shapes):
        base = 2.58 - 0.72 * row
        ax.plot([left + 0.42, left + 2.15], [base] * 2, color=colors.soft, lw=0.9)
        ax.text(left + 0.16, base + 0.2, gene, size=LABEL, color=colors.ink, style="italic", ha="center", va="center")
        ax.text(left + 2.15, base + 0.5, where, size=SMALL, color=colors.soft, ha="right", va="center")
        ax.add_patch(Rectangle((left + 0.46, base), 0.1, 0.6 * zero_control, fc=colors.faint, ec="none"))
        bar = Rectangle((left + 0.58, base), 0.1, 0.6 * zero_treated, fc=colors.acted, ec="none")
        ax.add_patch(bar)
        x = left + 0.8 + 1.35 * grid
        height = 0.37
        ax.fill_between(x, base, base + height * bell(grid, control), color=colors.faint, lw=0)
        ax.plot(x, base + height * bell(grid, treated), color=colors.acted, lw=1.7)
    ax.add_patch(Rectangle((left + 0.42, TOP - 0.05), 0.14, 0.14, fc=colors.faint, ec="none"))
    ax.text(left + 0.63, TOP + 0.015, "control", size=SMALL, color=colors.soft, va="center")
    ax.plot([left + 1.3, left + 1.46], [TOP + 0.02] * 2, color=colors.acted, lw=2)
    ax.text(left + 1.53, TOP + 0.015, "treated", size=SMALL, color=colors.soft, va="center")


def bell(grid: np.ndarray, centre: float) -> np.ndarray:
    """A skewed hump, as log-normal values have."""
    return np.exp(-0.5 * ((grid - centre) / np.where(grid < centre, 0.11, 0.16)) ** 2)


def arrow(ax: Axes, start, end, color: str, *, width: float, head: float, dashed: bool = False) -> None:
    patch = FancyArrowPatch(
        tuple(start), tuple(end), arrowstyle="-|>", mutation_scale=head, lw=width, color=color,
        linestyle=(0, (3, 2)) if dashed else "solid", shrinkA=0, shrinkB=0, zorder=2,
    )  # fmt: skip
    ax.add_patch(patch)


if __name__ == "__main__":
    main()
