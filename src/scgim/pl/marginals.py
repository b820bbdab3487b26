"""Distribution of each gene: observed, predicted, control."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from scgim._validation import listing
from scgim.get._results import check_known, genes_of
from scgim.slots import Entry, read_entry

from ._cells import (
    cells_of,
    choose_genes,
    control_cells,
    expression,
    expression_label,
    predicted_labels,
    require_genes,
)
from ._panels import add_header, make_panels
from ._style import Palette, clean, condition_title, font_size, palette, shorten

_GRID = 400  # points of a density
_BAR = 0.055  # width of a zero bar, as a fraction of the range of the positive values
_GAP = 0.09  # between the zero bars and the positive values


class _Sample(NamedTuple):
    """Cells of one group (observed, predicted, control) for the genes shown."""

    label: str
    values: np.ndarray  # (cells, genes)


def marginals(
    adata: ad.AnnData,
    predicted: ad.AnnData,
    *,
    condition: str | None = None,
    genes: str | Iterable[str] | None = None,
    n_genes: int = 8,
    n_cols: int = 4,
    title: bool = True,
    legend: bool = True,
    ax: Any = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """Compare predicted with observed cells, gene by gene.

    Zeros are a peak, not a density: their fraction stands as bars at the left of each panel, on an axis from
    0 to 1. The curves are kernel densities of the positive values (Gaussian kernel, Silverman's bandwidth,
    reflected at 0), scaled so that equal areas are equal fractions of cells. Continuous data have no bars.

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
    n_cols
        Panels per row.
    title
        Whether to name the condition above the figure.
    legend
        Whether to draw the legend.
    ax
        Axes to draw into: one per gene. None makes a new figure.
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
        If there is no fit under `key`, or `predicted` has no column `condition`.
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
    of_condition = (predicted_labels(predicted).astype(str) == condition).to_numpy()
    observed = cells_of(adata, slots, [condition])
    control = control_cells(adata, slots)
    require_genes(predicted, nodes)
    perturbed, cells = (adata, observed) if observed.any() else (predicted, of_condition)
    change = pd.Series(
        np.abs(expression(perturbed, cells, nodes).mean(axis=0) - expression(adata, control, nodes).mean(axis=0)),
        index=nodes,
    )
    shown = choose_genes(genes, nodes, change, n_genes)

    samples = [_Sample("control", expression(adata, control, shown))]
    if observed.any():
        samples.append(_Sample("observed", expression(adata, observed, shown)))
    samples.append(_Sample("predicted", expression(predicted, of_condition, shown)))
    with_zeros = slots.arguments.get("input") != "continuous" and any((s.values == 0).any() for s in samples)

    axes, own = make_panels(len(shown), ax=ax, n_cols=n_cols, panel_size=(16, 11.5))
    for j, (panel, gene) in enumerate(zip(axes, shown, strict=True)):
        _draw(panel, [_Sample(s.label, s.values[:, j]) for s in samples], palette(panel), with_zeros)
        panel.set_title(shorten(gene), fontsize=font_size(), style="italic", pad=3)
    _label(axes, slots, with_zeros, own, n_cols)
    name = condition_title(slots.conditions, condition, slots.dose_unit) if title else None
    add_header(axes, _handles(samples, palette(axes[0])), own=own, title=name, legend=legend)
    return axes


def _one_condition(predicted: ad.AnnData, condition: str | None) -> str:
    labels = predicted_labels(predicted).astype(str).drop_duplicates().tolist()
    if condition is not None:
        return check_known(condition, labels, "condition of predicted")[0]
    if len(labels) != 1:
        raise ValueError(f"predicted holds {len(labels)} conditions: pass condition= one of {listing(labels)}.")
    return labels[0]


def _draw(ax: Axes, samples: list[_Sample], colors: Palette, with_zeros: bool) -> None:
    """One gene: bars for the zeros, curves for the rest."""
    rest = {s.label: s.values[s.values > 0] if with_zeros else s.values for s in samples}
    low, high = _view(list(rest.values()), 0.0 if with_zeros else None)
    curves = {}
    for s in samples:
        curves[s.label] = _density(rest[s.label], len(s.values), low, high, reflect=with_zeros)
    top = max((density.max() for _, density in curves.values()), default=0.0) or 1.0
    for label, (x, density) in curves.items():
        _curve(ax, x, 0.94 * density / top, label, getattr(colors, label))

    width = high - low
    if with_zeros:
        center = -(_GAP + 1.5 * _BAR) * width
        for i, s in enumerate(samples):
            place = center + (i - (len(samples) - 1) / 2) * _BAR * width
            style = _fill(s.label, getattr(colors, s.label))
            ax.bar(place, float((s.values == 0).mean()), 0.8 * _BAR * width, label=s.label, zorder=2, **style)
        ax.set_xlim(center - 2.4 * _BAR * width, high)
        _axis_break(ax, center, 2 * _BAR * width, colors)
        _positive_ticks(ax, center, high)
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    else:
        ax.set_xlim(low, high)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.locator_params(axis="x", nbins=5)
    ax.set_ylim(0, 1.02)


def _view(values: list[np.ndarray], floor: float | None) -> tuple[float, float]:
    """Range shown: all values, unless a few outliers beyond the central 98 % would flatten the rest."""
    filled = [v for v in values if len(v)]
    if not filled:
        return 0.0, 1.0
    inner = np.array([np.quantile(v, [0.01, 0.99]) for v in filled])
    first = float(inner[:, 0].min()) if floor is None else floor
    last = float(inner[:, 1].max())
    beyond = 0.35 * (last - first)
    high = min(max(float(v.max()) for v in filled), last + beyond)
    low = max(min(float(v.min()) for v in filled), first - beyond) if floor is None else floor
    margin = 0.08 * (high - low) or 0.5
    return (low - margin if floor is None else floor), high + margin


def _density(
    values: np.ndarray, cells: int, low: float, high: float, *, reflect: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel density of `values` on a grid, integrating to `len(values) / cells`.

    The values are binned first, so that the cost does not grow with cells x grid.
    """
    step = (high - low) / _GRID
    margin = 0 if reflect else _GRID  # values beyond the view still spread into it
    n_bins = 2 * _GRID + margin
    count, _ = np.histogram(values, bins=n_bins, range=(low - margin * step, low + (n_bins - margin) * step))
    middle = low + (np.arange(n_bins) - margin + 0.5) * step
    spread = min(np.std(values), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34) if len(values) else 0.0
    spread = spread or (np.std(values) if len(values) else 0.0)
    bandwidth = max(0.9 * spread * max(len(values), 1) ** -0.2 / step, 0.01 * _GRID)
    smooth = gaussian_filter1d(count.astype(float), bandwidth, mode="reflect" if reflect else "constant")
    inside = slice(margin, margin + _GRID)
    return middle[inside], smooth[inside] / (step * max(cells, 1))


def _curve(ax: Axes, x: np.ndarray, y: np.ndarray, label: str, color: str) -> None:
    if label == "predicted":
        ax.plot(x, y, color=color, linewidth=1.5, label=label, zorder=4, solid_capstyle="round")
        return
    alpha, line = (0.35, 0.0) if label == "control" else (0.30, 1.1)
    ax.fill_between(x, y, color=color, alpha=alpha, linewidth=0, zorder=2)
    ax.plot(x, y, color=color, linewidth=line, label=label, zorder=3)


def _fill(label: str, color: str) -> dict[str, Any]:
    """Bars look like their curves: predicted is an outline, the others are filled."""
    if label == "predicted":
        return {"facecolor": "none", "edgecolor": color, "linewidth": 1.2}
    return {"facecolor": color, "alpha": 0.55 if label == "control" else 0.75, "linewidth": 0}


def _axis_break(ax: Axes, center: float, half: float, colors: Palette) -> None:
    """The horizontal axis in two pieces: under the zero bars, and from 0 on."""
    ax.spines["bottom"].set_visible(False)
    for start, stop in ((center - half, center + half), (0.0, ax.get_xlim()[1])):
        ax.plot([start, stop], [0, 0], color=colors.ink, linewidth=0.6, clip_on=False, zorder=5, gid="axis")


def _positive_ticks(ax: Axes, center: float, high: float) -> None:
    """Ticks at positive values; the bars' tick is the only 0."""
    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, high) if 0.12 * high < tick <= high]
    ax.set_xticks([center, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])


def _label(axes: np.ndarray, slots: Entry, with_zeros: bool, own: bool, n_cols: int) -> None:
    """Axis labels on the outer panels only."""
    columns = min(len(axes), n_cols) if own else 1
    for i, ax in enumerate(axes):
        clean(ax)
        if i % columns == 0 or not own:
            ax.set_ylabel("Fraction of zeros" if with_zeros else "Density", fontsize=font_size(0.9))
        if i + columns >= len(axes) or not own:
            ax.set_xlabel(expression_label(slots), fontsize=font_size(0.9))


def _handles(samples: list[_Sample], colors: Palette) -> list[Any]:
    handles: list[Any] = []
    for s in samples:
        color, label = getattr(colors, s.label), f"{s.label} (n = {len(s.values):,})"
        if s.label == "predicted":
            handles.append(Line2D([], [], color=color, linewidth=1.5, label=label))
        else:
            handles.append(Patch(label=label, **_fill(s.label, color)))
    return handles
