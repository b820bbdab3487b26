"""Distribution of each gene: observed, predicted, control."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from scgim._validation import listing
from scgim.get._fit import genes_of
from scgim.get._names import check_known
from scgim.slots import read_entry

from ._cells import (
    cells_of,
    choose_genes,
    expression,
    expression_label,
    gene_labels,
    predicted_labels,
    require_genes,
)
from ._style import Palette, clean, condition_title, finish, font_size, make_panels, palette, shorten

_GRID = 400  # points of a density
_FEWEST = 5  # values of which a density is drawn; fewer are marks
_BAR = 0.055  # width of a zero bar, as a fraction of the range of the positive values
_GAP = 0.09  # between the zero bars and the positive values


def marginals(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    condition: str | None = None,
    genes: str | Iterable[str] | None = None,
    n_genes: int = 8,
    gene_symbols: str | None = None,
    n_cols: int = 4,
    title: bool = True,
    legend: bool = True,
    ax: Any = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """Compare predicted with observed cells, gene by gene.

    Zeros are a peak, not a density: their fraction stands as bars at the left of each panel, on an axis from
    0 to 1. The curves are kernel densities of the other values (Gaussian kernel, Silverman's bandwidth,
    reflected at 0), of area 1 whatever the fraction of zeros, on a scale of their own; fewer than five values are
    marks on the axis. A triangle says that more than 1 % of the cells of its colour lie beyond the right end.
    Continuous data have no bars.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`.
    condition
        Label of the condition to show; may be left out where `predicted` holds one.
    genes
        Genes to show. None takes the `n_genes` whose mean differs most between observed and control cells
        (between predicted and control, where the condition was not observed).
    n_genes
        How many genes to show where `genes` is None.
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    n_cols
        Panels per row.
    title
        Whether to name the condition above the figure.
    legend
        Whether to draw the legend.
    ax
        Axes to draw into: one per gene. None makes a new figure.
    save
        File to write the figure to.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per gene, (genes,).

    Raises
    ------
    KeyError
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` has no column `condition`.
    ValueError
        If a gene or the condition is unknown, several conditions are there to choose from, or `ax` is too
        small.

    Examples
    --------
    >>> import scgim
    >>> new = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)])  # doctest: +SKIP
    >>> scgim.pl.marginals(adata, new, genes=["ANGPTL4", "CDKN1A"])  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    condition = _one_condition(predicted, condition)
    nodes = genes_of(adata, slots)
    labels = gene_labels(adata, nodes, gene_symbols)
    of_condition = (predicted_labels(predicted).astype(str) == condition).to_numpy()
    require_genes(predicted, nodes)
    masks = {"control": cells_of(adata, slots, [slots.control]), "observed": cells_of(adata, slots, [condition])}
    cells = {name: expression(adata, mask, nodes) for name, mask in masks.items() if mask.any()}
    cells["predicted"] = expression(predicted, of_condition, nodes)
    perturbed = cells.get("observed", cells["predicted"]).mean(axis=0)
    shown = choose_genes(genes, labels, np.abs(perturbed - cells["control"].mean(axis=0)), n_genes)
    columns = [nodes.index(gene) for gene in shown]
    cells = {name: values[:, columns] for name, values in cells.items()}
    zeros = slots.arguments.get("input") != "continuous" and any((values == 0).any() for values in cells.values())

    grid = make_panels(len(shown), ax=ax, n_cols=n_cols, size=(16, 11.5))
    for j, (panel, gene) in enumerate(zip(grid.axes, shown, strict=True)):
        _draw(panel, {name: values[:, j] for name, values in cells.items()}, palette(panel), zeros)
        panel.set_title(shorten(labels[gene]), fontsize=font_size(), style="italic", pad=3)
        clean(panel)
    grid.label(x=expression_label(slots), y="Fraction of zeros" if zeros else "Density")
    name = condition_title(slots.conditions, condition, slots.dose_unit) if title else ""
    grid.header(_handles(cells, palette(grid.axes[0])) if legend else [], title=name)
    return finish(grid.axes, save)


def _one_condition(predicted: ad.AnnData, condition: str | None) -> str:
    labels = predicted_labels(predicted).astype(str).drop_duplicates().tolist()
    if condition is not None:
        return check_known(condition, labels, "condition of predicted")[0]
    if len(labels) != 1:
        raise ValueError(f"predicted holds {len(labels)} conditions: pass condition= one of {listing(labels)}.")
    return labels[0]


def _draw(ax: Axes, cells: dict[str, np.ndarray], colors: Palette, zeros: bool) -> None:
    """One gene: bars for the zeros, curves for the rest."""
    rest = {name: values[values > 0] if zeros else values for name, values in cells.items()}
    low, high = _view(list(rest.values()), 0.0 if zeros else None)
    x = low + (np.arange(_GRID) + 0.5) * (high - low) / _GRID
    curves = {n: density(v, low, high, reflect=zeros) for n, v in rest.items() if len(v) >= _FEWEST}
    peaks = sorted(curve.max() for curve in curves.values())
    top = min(peaks[-1], 2 * peaks[-2]) if len(peaks) > 1 else max(peaks, default=1.0)  # one spike flattens none
    for name, values in rest.items():
        color = getattr(colors, name)
        if name in curves:
            _curve(ax, x, 0.94 * curves[name] / top, name, color)
        else:
            ax.plot(values, np.full(len(values), 0.03), "|", color=color, markersize=6, label=name, zorder=4)
        if np.mean(values > high) > 0.01:
            ax.plot(
                high,
                0.04 + 0.08 * list(rest).index(name),
                ">",
                color=color,
                markersize=3.5,
                clip_on=False,
                gid="beyond",
            )

    if not zeros:
        ax.set_xlim(low, high)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.locator_params(axis="x", nbins=5)
    else:
        width = high - low
        center, half = -(_GAP + 1.5 * _BAR) * width, 2 * _BAR * width
        for i, (name, values) in enumerate(cells.items()):
            place = center + (i - (len(cells) - 1) / 2) * _BAR * width
            style = _fill(name, getattr(colors, name))
            ax.bar(place, float((values == 0).mean()), 0.8 * _BAR * width, label=name, zorder=2, **style)
        ax.set_xlim(center - 2.4 * _BAR * width, high)
        ax.spines["bottom"].set_visible(False)  # in two pieces: under the zero bars, and from 0 on
        for start, stop in ((center - half, center + half), (0.0, high)):
            ax.plot([start, stop], [0, 0], color=colors.ink, linewidth=0.6, clip_on=False, zorder=5, gid="axis")
        ticks = [t for t in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, high) if 0.12 * high < t <= high]
        ax.set_xticks([center, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_ylim(0, 1.02)


def _view(values: list[np.ndarray], floor: float | None) -> tuple[float, float]:
    """Range shown: the central 98 % of each sample, and all of it where that takes little more room."""
    filled = [v for v in values if len(v)]
    if not filled:
        return 0.0, 1.0
    inner = np.array([np.quantile(v, [0.01, 0.99]) for v in filled])
    typical = np.array([np.quantile(v, [0.05, 0.95]) for v in filled])  # a long tail is no reason to flatten the rest
    first = float(min(inner[:, 0].min(), typical[:, 0].min())) if floor is None else floor
    spread = float(typical[:, 1].max()) - float(typical[:, 0].min() if floor is None else floor)
    last = min(float(inner[:, 1].max()), float(typical[:, 1].max()) + 0.3 * spread)
    first = first if floor is not None else max(first, float(typical[:, 0].min()) - 0.3 * spread)
    beyond = 0.1 * (last - first)
    high = min(max(float(v.max()) for v in filled), last + beyond)
    low = max(min(float(v.min()) for v in filled), first - beyond) if floor is None else floor
    margin = 0.06 * (high - low) or 0.5
    return (low - margin if floor is None else floor), high + margin


def density(values: np.ndarray, low: float, high: float, *, reflect: bool) -> np.ndarray:
    """Kernel density of `values` on a grid of equal steps from `low` to `high`.

    The values are binned first, so that the cost does not grow with cells x grid.
    """
    step = (high - low) / _GRID
    margin = 0 if reflect else _GRID  # values beyond the view still spread into it
    n_bins = 2 * _GRID + margin
    count, _ = np.histogram(values, bins=n_bins, range=(low - margin * step, low + (n_bins - margin) * step))
    spread = min(np.std(values), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34) or np.std(values)
    bandwidth = max(0.9 * spread * len(values) ** -0.2 / step, 0.01 * _GRID)
    smooth = gaussian_filter1d(count.astype(float), bandwidth, mode="reflect" if reflect else "constant")
    return smooth[margin : margin + _GRID] / (step * len(values))


def _curve(ax: Axes, x: np.ndarray, y: np.ndarray, name: str, color: str) -> None:
    if name == "predicted":
        ax.plot(x, y, color=color, linewidth=1.5, label=name, zorder=4, solid_capstyle="round")
        return
    alpha, line = (0.35, 0.0) if name == "control" else (0.30, 1.1)
    ax.fill_between(x, y, color=color, alpha=alpha, linewidth=0, zorder=2)
    ax.plot(x, y, color=color, linewidth=line, label=name, zorder=3)


def _fill(name: str, color: str) -> dict[str, Any]:
    """Bars look like their curves: predicted is an outline, the others are filled."""
    if name == "predicted":
        return {"facecolor": "none", "edgecolor": color, "linewidth": 1.2}
    return {"facecolor": color, "alpha": 0.55 if name == "control" else 0.75, "linewidth": 0}


def _handles(cells: dict[str, np.ndarray], colors: Palette) -> list[Any]:
    handles: list[Any] = []
    for name, values in cells.items():
        color, label = getattr(colors, name), f"{name} (n = {len(values):,})"
        if name == "predicted":
            handles.append(Line2D([], [], color=color, linewidth=1.5, label=label))
        else:
            handles.append(Patch(label=label, **_fill(name, color)))
    return handles
