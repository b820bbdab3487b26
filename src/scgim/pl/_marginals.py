"""Distribution of each gene: observed, predicted, control."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from scgim.get._cells import cells_of, expression, one_condition, predicted_labels, require_genes
from scgim.get._results import genes_of
from scgim.slots import read_entry

from . import _style as st
from ._genes import choose_genes, expression_label, gene_labels

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

    Bars at the left are the fractions of zeros (continuous data have none). Curves are kernel densities of the other
    values (Gaussian kernel, Silverman's bandwidth, reflected at 0), on a scale of their own: of area 1, whatever the
    fraction of zeros. Fewer than five values are marks on the axis. A triangle says that more than 1 % of the values
    of its colour lie beyond the right end.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`.
    condition
        Label of the condition to show; may be left out where `predicted` holds one.
    genes, n_genes
        Genes to show. None takes the `n_genes` whose mean differs most between observed and control cells
        (between predicted and control, where the condition was not observed).
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    n_cols
        Panels per row.
    title, legend
        Whether to name the condition above the figure, and to draw the legend.
    ax, save
        Axes to draw into: one per gene (None makes a new figure), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per gene, (genes,).

    Raises
    ------
    KeyError
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` has no column `condition`.
    ValueError
        If a gene or the condition is unknown, there are several conditions to choose from, or `ax` is too small.

    Examples
    --------
    >>> new = scgim.tl.sample_cells(adata, perturbations=[("Dacinostat", 10_000)])  # doctest: +SKIP
    >>> scgim.pl.marginals(adata, new, genes=["ANGPTL4", "CDKN1A"])  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    condition = one_condition(predicted, condition)
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

    grid = st.make_panels(len(shown), ax=ax, n_cols=n_cols, size=(16, 11.5))
    for j, panel in enumerate(grid.axes):
        _draw(panel, {name: values[:, j] for name, values in cells.items()}, st.palette(panel), zeros)
    grid.label(labels[shown], x=expression_label(slots), y="Fraction of zeros" if zeros else "Density")
    name = st.condition_title(slots.conditions, condition, slots.dose_unit) if title else ""
    grid.header(legend, title=name)
    return st.finish(grid.axes, save)


def _draw(ax: Axes, cells: dict[str, np.ndarray], colors: st.Palette, zeros: bool) -> None:
    """One gene: bars for the zeros, curves for the rest."""
    rest = {name: values[values > 0] if zeros else values for name, values in cells.items()}
    low, high = _view(list(rest.values()), 0.0 if zeros else None)
    curves = {name: density(v, low, high, reflect=zeros) for name, v in rest.items() if len(v) >= _FEWEST}
    peaks = sorted(curve.max() for curve in curves.values())
    top = min(peaks[-1], 2 * peaks[-2]) if len(peaks) > 1 else max(peaks, default=1.0)  # one spike flattens none
    for i, (name, values) in enumerate(rest.items()):
        color, label = getattr(colors, name), f"{name} (n = {len(cells[name]):,})"
        if name in curves:
            _curve(
                ax, low + (np.arange(_GRID) + 0.5) * (high - low) / _GRID, 0.94 * curves[name] / top, name, color, label
            )
        else:
            ax.plot(values, np.full(len(values), 0.03), "|", color=color, markersize=6, label=label, gid=name, zorder=4)
        if (values > high).sum() > 0.01 * len(values):
            ax.plot(high, 0.05 + 0.08 * i, ">", color=color, markersize=3.5, clip_on=False, gid="beyond")
    ax.set_ylim(0, 1.02)
    if zeros:
        _zero_bars(ax, cells, high, colors)
        return
    ax.set_xlim(low, high)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)


def _zero_bars(ax: Axes, cells: dict[str, np.ndarray], high: float, colors: st.Palette) -> None:
    """The fraction of zeros left of 0, and an axis in two pieces: under the bars, and from 0 to `high`."""
    bar = _BAR * high
    center = -_GAP * high - 1.5 * bar
    for i, (name, values) in enumerate(cells.items()):
        filled = {"facecolor": getattr(colors, name), "alpha": 0.55 if name == "control" else 0.75, "linewidth": 0}
        outline = {"facecolor": "none", "edgecolor": getattr(colors, name), "linewidth": 1.2}
        place = center + (i - (len(cells) - 1) / 2) * bar
        look = outline if name == "predicted" else filled
        ax.bar(place, float((values == 0).mean()), 0.8 * bar, zorder=2, gid=f"zeros:{name}", **look)
    ax.set_xlim(center - 2.4 * bar, high)
    ax.spines["bottom"].set_visible(False)
    for start, stop in ((center - 2 * bar, center + 2 * bar), (0.0, high)):
        ax.plot([start, stop], [0, 0], color=colors.ink, linewidth=0.6, clip_on=False, zorder=5, gid="axis")
    ticks = [t for t in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, high) if 0.12 * high < t <= high]
    ax.set_xticks([center, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _view(samples: list[np.ndarray], floor: float | None) -> tuple[float, float]:
    """Range shown: all values, but of a long tail only what takes half as much room again as the central 90 %."""
    filled = [values for values in samples if len(values)]
    if not filled:
        return 0.0, 1.0
    low, inner_low, inner_high, high = np.array([np.quantile(values, [0, 0.05, 0.95, 1]) for values in filled]).T
    first = float(inner_low.min()) if floor is None else floor
    last = float(inner_high.max())
    room = 0.5 * (last - first)
    low, high = max(low.min(), first - room), min(high.max(), last + room)
    margin = 0.06 * (high - low) or 0.5
    return (float(low - margin) if floor is None else floor), float(high + margin)


def density(values: np.ndarray, low: float, high: float, *, reflect: bool) -> np.ndarray:
    """Kernel density of `values` on a grid from `low` to `high`; binned first, so that many cells cost little."""
    step = (high - low) / _GRID
    margin = 0 if reflect else _GRID  # values beyond the view still spread into it
    n_bins = 2 * _GRID + margin
    count, _ = np.histogram(values, bins=n_bins, range=(low - margin * step, low + (n_bins - margin) * step))
    spread = min(np.std(values), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34) or np.std(values)
    bandwidth = max(0.9 * spread * len(values) ** -0.2 / step, 0.01 * _GRID)
    smooth = gaussian_filter1d(count.astype(float), bandwidth, mode="reflect" if reflect else "constant")
    return smooth[margin : margin + _GRID] / (step * len(values))


def _curve(ax: Axes, x: np.ndarray, y: np.ndarray, name: str, color: str, label: str) -> None:
    if name == "predicted":
        ax.plot(x, y, color=color, linewidth=1.5, label=label, gid=name, zorder=4)
        return
    alpha, line = (0.35, 0.0) if name == "control" else (0.30, 1.1)
    ax.fill_between(x, y, color=color, alpha=alpha, linewidth=0, label=label, zorder=2)
    ax.plot(x, y, color=color, linewidth=line, gid=name, zorder=3)
