"""Mean expression against dose: predicted curve, observed points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from scgim._validation import listing
from scgim.get._fit import genes_of
from scgim.get._names import check_known
from scgim.slots import Entry, read_entry

from ._cells import (
    cells_of,
    choose_genes,
    expression,
    expression_label,
    gene_labels,
    predicted_labels,
    require_genes,
)
from ._style import (
    Palette,
    axes_size,
    clean,
    finish,
    font_size,
    format_dose,
    format_unit,
    make_panels,
    palette,
    shorten,
    text_width,
)

_SAMPLED = 500  # cells per dose of a curve that is sampled here
_BETWEEN = 2  # doses sampled between two neighbours of the data
_DASHES = (0, (4, 2))


class _Observed(NamedTuple):
    """Mean and standard error of the observed cells, (doses, genes)."""

    dose: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    held_out: np.ndarray


class _Curve(NamedTuple):
    """Mean and percentiles of the predicted cells, (doses, genes)."""

    dose: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def dose_response(
    adata: ad.AnnData,
    *,
    predicted: ad.AnnData | Literal[False] | None = None,
    perturbation: str | None = None,
    genes: str | Iterable[str] | None = None,
    n_genes: int = 8,
    gene_symbols: str | None = None,
    band: tuple[float, float] | None = (25, 75),
    n_cols: int = 4,
    unit: str | None = None,
    title: bool = True,
    legend: bool = True,
    ax: Any = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """Predicted and observed dose response, gene by gene.

    The line is the mean of the predicted cells at each dose, dotted below and above the doses of the fit; the band is
    the range between two of their percentiles. Points are means of observed cells with their standard error, open where
    the dose was held out of fitting. The dashed line is the mean of the control cells.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, at several doses of the perturbation. None samples them here, at the doses of the
        data and between them (seed 0); False draws only what was observed.
    perturbation
        The perturbation to show; may be left out where there is only one to choose: in `predicted`, or the
        one with a held-out dose.
    genes
        Genes to show. None takes the `n_genes` whose observed mean changes most against control, at the
        dose where it does (the predicted mean, where the perturbation was not observed).
    n_genes
        How many genes to show where `genes` is None.
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    band
        Two percentiles of the predicted cells. None draws no band.
    n_cols
        Panels per row.
    unit
        Unit of the doses. None takes the one that `pp.prepare` found (`dose_unit_key`), if any.
    title
        Whether to name the perturbation above the figure.
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
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` lacks the columns of `tl.sample_cells`.
    ValueError
        If a gene or the perturbation is unknown, several perturbations are there to choose from, the
        perturbation has no positive doses, `band` is not a range of percentiles, or `ax` is too small.

    Examples
    --------
    >>> import scgim
    >>> scgim.pl.dose_response(adata, perturbation="Dacinostat")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    if band is not None and not 0 <= band[0] < band[1] <= 100:
        raise ValueError(f"band is a pair of increasing percentiles between 0 and 100, not {band}.")
    nodes = genes_of(adata, slots)
    labels = gene_labels(adata, nodes, gene_symbols)
    if isinstance(predicted, ad.AnnData):
        require_genes(predicted, nodes)
    name = _one_perturbation(slots, predicted or None, perturbation)
    observed = _observe(adata, slots, name, nodes)
    if predicted is None:
        predicted = _sample(adata, name, observed.dose, key, group)
    curve = _summarise(predicted, name, nodes, band) if predicted else None
    doses = sorted({*observed.dose, *(curve.dose if curve else ())})
    if not doses or doses[0] <= 0:
        raise ValueError(f"'{name}' has no positive doses: a dose response needs them (found {doses}).")
    control = expression(adata, cells_of(adata, slots, [slots.control]), nodes).mean(axis=0)
    seen = observed if len(observed.dose) or curve is None else curve
    shown = choose_genes(genes, labels, np.abs(seen.mean - control).max(axis=0), n_genes)

    grid = make_panels(len(shown), ax=ax, n_cols=n_cols, size=(15, 11.5), min_width=33)
    for panel, gene in zip(grid.axes, shown, strict=True):
        j, colors = nodes.index(gene), palette(panel)
        panel.axhline(control[j], color=colors.control, linewidth=1.0, linestyle=_DASHES, zorder=1, gid="control")
        if curve is not None:
            _draw_curve(panel, curve, j, observed.dose[~observed.held_out], colors)
        _draw_points(panel, observed, j, colors)
        panel.set_title(shorten(labels[gene]), fontsize=font_size(), style="italic", pad=3)
        clean(panel)
    unit = unit or slots.dose_unit
    grid.label(x=f"Dose ({format_unit(unit)})" if unit else "Dose", y=expression_label(slots))
    handles = _handles(palette(grid.axes[0]), curve, band, observed)
    grid.header(handles if legend else [], title=name if title else "")
    width = axes_size(grid.axes[0])[0]
    for panel in grid.axes:
        _dose_axis(panel, width if grid.own else axes_size(panel)[0], doses, list(observed.dose) or doses)
    return finish(grid.axes, save)


def _one_perturbation(slots: Entry, predicted: ad.AnnData | None, asked: str | None) -> str:
    """The perturbation to show: the user's, or the only one there is to choose."""
    table = slots.conditions[~slots.conditions["is_control"]]
    dosed = table[table["dose"].notna()]
    known = dosed["perturbation"].drop_duplicates().tolist()
    held_out = set(dosed.loc[dosed["split"] == "test", "perturbation"])
    choices = known
    if predicted is not None:
        sampled = predicted_labels(predicted, "perturbation").astype(str)
        choices = sampled[predicted_labels(predicted, "dose").notna()].drop_duplicates().tolist()
        known = list(dict.fromkeys([*choices, *known]))
    if not known:
        raise ValueError("No perturbation has doses: use scgim.pl.marginals.")
    if asked is not None:
        return check_known(asked, known, "perturbation")[0]
    for candidates in (choices, [name for name in choices if name in held_out]):
        if len(candidates) == 1:
            return candidates[0]
    raise ValueError(f"There are {len(choices)} perturbations: pass perturbation= one of {listing(choices)}.")


def _observe(adata: ad.AnnData, slots: Entry, name: str, genes: list[str]) -> _Observed:
    table = slots.conditions
    rows = table[(table["perturbation"] == name) & table["dose"].notna()].sort_values("dose")
    rows = rows[rows["n_cells"] > 0]
    mean, error = np.empty((len(rows), len(genes))), np.empty((len(rows), len(genes)))
    for i, condition in enumerate(rows["condition"]):
        values = expression(adata, cells_of(adata, slots, [condition]), genes)
        mean[i] = values.mean(axis=0)
        error[i] = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return _Observed(rows["dose"].to_numpy(dtype=float), mean, error, (rows["split"] == "test").to_numpy())


def _sample(adata: ad.AnnData, name: str, doses: np.ndarray, key: str, group: str | None) -> ad.AnnData | None:
    """Predicted cells at the positive `doses` and between them."""
    from scgim.tl import sample_cells

    positive = doses[doses > 0]
    if len(positive) < len(doses) or len(doses) == 0:
        return None  # refused by the caller
    between = [np.geomspace(a, b, _BETWEEN + 2)[1:-1] for a, b in itertools.pairwise(positive)]
    asked = [(name, float(dose)) for dose in np.sort(np.concatenate([positive, *between]))]
    return sample_cells(adata, perturbations=asked, n=_SAMPLED, key=key, group=group)


def _summarise(predicted: ad.AnnData, name: str, genes: list[str], band: tuple[float, float] | None) -> _Curve | None:
    """The curve of one perturbation; None where `predicted` has no dose of it."""
    of_drug = (predicted_labels(predicted, "perturbation").astype(str) == name).to_numpy()
    dose = predicted_labels(predicted, "dose").to_numpy(dtype=float)
    doses = np.unique(dose[of_drug & ~np.isnan(dose)])
    if len(doses) == 0:
        return None
    cells = [expression(predicted, of_drug & (dose == d), genes) for d in doses]
    mean = np.array([c.mean(axis=0) for c in cells])
    if band is None:
        return _Curve(doses, mean, None, None)
    low, high = np.array([np.percentile(c, band, axis=0) for c in cells]).swapaxes(0, 1)
    return _Curve(doses, mean, low, high)


def _draw_curve(ax: Axes, curve: _Curve, j: int, fitted: np.ndarray, colors: Palette) -> None:
    """Band and mean; the mean is dotted beyond the doses of the fit."""
    dose, mean, one = curve.dose, curve.mean[:, j], len(curve.dose) == 1
    if curve.low is not None and curve.high is not None:
        low, high = curve.low[:, j], curve.high[:, j]
        if one:
            ax.vlines(dose, low, high, color=colors.predicted, alpha=0.35, linewidth=5, zorder=2, gid="band")
        else:
            ax.fill_between(dose, low, high, color=colors.predicted, alpha=0.2, linewidth=0, zorder=2, gid="band")
    style: dict[str, Any] = {"color": colors.predicted, "linewidth": 1.5, "marker": "_" if one else None, "zorder": 3}
    ends = (fitted.min(), fitted.max()) if len(fitted) else (0.0, np.inf)
    inside = (dose >= ends[0]) & (dose <= ends[1])
    if one or inside.all():
        ax.plot(dose, mean, gid="predicted", **style)
        return
    ax.plot(dose[inside], mean[inside], gid="predicted", **style)
    first, last = (np.flatnonzero(inside)[[0, -1]]) if inside.any() else (len(dose), len(dose))
    for part in (slice(0, first + 1), slice(last, None)):
        ax.plot(dose[part], mean[part], linestyle=":", gid="extrapolated", **style)


def _draw_points(ax: Axes, observed: _Observed, j: int, colors: Palette) -> None:
    for held_out in (False, True):
        rows = observed.held_out == held_out
        if not rows.any():
            continue
        ax.errorbar(
            observed.dose[rows],
            observed.mean[rows, j],
            yerr=observed.error[rows, j],
            fmt="o",
            markersize=4.2,
            color=colors.observed,
            markerfacecolor=colors.paper if held_out else colors.observed,
            markeredgewidth=1.1,
            elinewidth=1.0,
            zorder=5 if held_out else 4,
            gid="held out" if held_out else "observed",
        )


def _dose_axis(ax: Axes, width: float, doses: list[float], observed: list[float]) -> None:
    """Logarithmic; a tick at every observed dose and at the ends of the curve, labelled where `width` has room."""
    ax.set_xscale("log")
    low, high = min(doses), max(doses)
    pad = (high / low) ** 0.07 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    size = font_size(0.85)
    ticks = sorted({low, high, *observed})
    place = {dose: np.log(dose) * width / np.log(high * pad * pad / low) for dose in ticks}
    half = {dose: text_width(format_dose(dose), size) / 2 for dose in ticks}
    labelled: list[float] = []
    # the ends of the axis first, then powers of ten
    for dose in sorted(ticks, key=lambda d: (d not in (low, high), not float(np.log10(d)).is_integer())):
        if all(abs(place[dose] - place[d]) > half[dose] + half[d] + size for d in labelled):
            labelled.append(dose)
    ax.set_xticks(ticks, [format_dose(dose) if dose in labelled else "" for dose in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _handles(
    colors: Palette, curve: _Curve | None, band: tuple[float, float] | None, observed: _Observed
) -> list[Line2D | Patch]:
    dot: dict[str, Any] = {"color": colors.observed, "marker": "o", "markersize": 4.2, "linestyle": "none"}
    dot["markeredgewidth"] = 1.1
    handles: list[Line2D | Patch] = []
    if curve is not None:
        handles.append(Line2D([], [], color=colors.predicted, linewidth=1.5, label="predicted mean"))
        if band is not None:
            middle = f"{band[0]:g}–{band[1]:g} % of cells"
            handles.append(Patch(facecolor=colors.predicted, alpha=0.2, linewidth=0, label=middle))
        fitted = observed.dose[~observed.held_out]
        if len(fitted) and (curve.dose.min() < fitted.min() or curve.dose.max() > fitted.max()):
            line: dict[str, Any] = {"color": colors.predicted, "linewidth": 1.5, "linestyle": ":"}
            handles.append(Line2D([], [], label="beyond the fitted doses", **line))
    if len(observed.dose):
        handles.append(Line2D([], [], label="observed mean ± s.e.", **dot))
    if observed.held_out.any():
        handles.append(Line2D([], [], label="held-out dose", **dot, markerfacecolor=colors.paper))
    control: dict[str, Any] = {"color": colors.control, "linewidth": 1.0, "linestyle": _DASHES}
    return [*handles, Line2D([], [], label="control mean", **control)]
