"""Mean expression against dose: predicted curve, observed points."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from scgim._errors import InvalidValue
from scgim._validation import listing
from scgim.get._cells import cells_of, expression, predicted_labels, require_genes
from scgim.get._results import check_known, genes_of
from scgim.slots import Entry, read_entry

from . import _style as st
from ._genes import choose_genes, expression_label, gene_labels

_SAMPLED = 500  # cells per dose of a curve that is sampled here
_SURE = (5, 95)  # percentiles of the members' means
_BETWEEN = 2  # doses sampled between two neighbours of the data


class _Means(NamedTuple):
    """Means of cells, (doses, genes), and a range around them: standard errors, or percentiles of predicted cells."""

    dose: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    held_out: np.ndarray  # (doses,)
    members: np.ndarray | None = None  # (2, doses, genes) range of the means of an ensemble's members


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
    genes, n_genes
        Genes to show. None takes the `n_genes` whose observed mean changes most against control, at the
        dose where it does (the predicted mean, where the perturbation was not observed).
    gene_symbols
        Column of `adata.var` to label the genes by. None labels them by their names.
    band
        Two percentiles of the predicted cells. None draws no band. Of a fit with several members a narrower, darker
        band is added: where nine in ten of their means lie.
    n_cols
        Panels per row.
    unit
        Unit of the doses. None takes the one that `pp.prepare` found (`dose_unit_key`), if any.
    title, legend
        Whether to name the perturbation above the figure, and to draw the legend.
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
        If there is no fit under `key`, no column `gene_symbols`, or `predicted` lacks the columns of `tl.sample_cells`.
    ValueError
        If a gene or the perturbation is unknown, several perturbations are there to choose from, the
        perturbation has no positive doses, `band` is not a range of percentiles, or `ax` is too small.

    Examples
    --------
    >>> scgim.pl.dose_response(adata, perturbation="Dacinostat")  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    if band is not None and not 0 <= band[0] < band[1] <= 100:
        raise InvalidValue(f"band is a pair of increasing percentiles between 0 and 100, not {band}.")
    nodes = genes_of(adata, slots)
    labels = gene_labels(adata, nodes, gene_symbols)
    if isinstance(predicted, ad.AnnData):
        require_genes(predicted, nodes)
    name = _one_perturbation(slots, predicted or None, perturbation)
    observed = _observe(adata, slots, name, nodes)
    if predicted is None and len(observed.dose) and observed.dose[0] > 0:
        predicted = _sample(adata, name, observed.dose, "member_graphs" in slots.fitted, key, group)
    curve = _summarise(predicted, name, nodes, band or (50, 50), slots.keys.member) if predicted else None
    doses = sorted({*observed.dose, *(curve.dose if curve else ())})
    if not doses or doses[0] <= 0:
        raise InvalidValue(f"'{name}' has no positive doses: a dose response needs them (found {doses}).")
    control = expression(adata, cells_of(adata, slots, [slots.control]), nodes).mean(axis=0)
    seen = observed if len(observed.dose) or curve is None else curve
    shown = choose_genes(genes, labels, np.abs(seen.mean - control).max(axis=0), n_genes)

    grid = st.make_panels(len(shown), ax=ax, n_cols=n_cols, size=(15, 11.5), min_width=33)
    for panel, gene in zip(grid.axes, shown, strict=True):
        j, colors = nodes.index(gene), st.palette(panel)
        if curve is not None:
            _draw_curve(panel, curve, j, band, observed.dose[~observed.held_out], colors)
        _draw_points(panel, observed, j, colors)
        dashed = {"color": colors.control, "linewidth": 1.0, "linestyle": (0, (4, 2))}
        panel.axhline(control[j], zorder=1, label="control mean", gid="control", **dashed)
    unit = unit or slots.dose_unit
    grid.label(labels[shown], x=f"Dose ({st.format_unit(unit)})" if unit else "Dose", y=expression_label(slots))
    grid.header(legend, title=name if title else "")
    width = st.axes_size(grid.axes[0])[0]
    for panel in grid.axes:
        _dose_axis(panel, width if grid.own else st.axes_size(panel)[0], doses, observed.dose)
    return st.finish(grid.axes, save)


def _one_perturbation(slots: Entry, predicted: ad.AnnData | None, asked: str | None) -> str:
    """The perturbation to show: the user's, or the only one there is to choose."""
    table = slots.conditions[slots.conditions["dose"].notna() & ~slots.conditions["is_control"]]
    choices = known = table["perturbation"].drop_duplicates().tolist()
    held_out = set(table.loc[table["split"] == "test", "perturbation"])
    if predicted is not None:
        sampled = predicted_labels(predicted, "perturbation").astype(str)
        choices = sampled[predicted_labels(predicted, "dose").notna()].drop_duplicates().tolist()
        known = list(dict.fromkeys([*choices, *known]))
    if not known:
        raise InvalidValue("No perturbation has doses: use scgim.pl.marginals.")
    if asked is not None:
        return check_known(asked, known, "perturbation")[0]
    for candidates in (choices, [name for name in choices if name in held_out]):
        if len(candidates) == 1:
            return candidates[0]
    raise InvalidValue(f"There are {len(choices)} perturbations: pass perturbation= one of {listing(choices)}.")


def _observe(adata: ad.AnnData, slots: Entry, name: str, genes: list[str]) -> _Means:
    """Means of the observed cells, with their standard errors."""
    table = slots.conditions
    rows = table[(table["perturbation"] == name) & table["dose"].notna() & (table["n_cells"] > 0)].sort_values("dose")
    cells = [expression(adata, cells_of(adata, slots, [condition]), genes) for condition in rows["condition"]]
    mean = np.array([c.mean(axis=0) for c in cells]).reshape(-1, len(genes))
    error = np.array([c.std(axis=0, ddof=min(1, len(c) - 1)) / np.sqrt(len(c)) for c in cells]).reshape(mean.shape)
    dose, held_out = rows["dose"].to_numpy(dtype=float), (rows["split"] == "test").to_numpy()
    return _Means(dose, mean, mean - error, mean + error, held_out)


def _sample(adata: ad.AnnData, name: str, doses: np.ndarray, members: bool, key: str, group: str | None) -> ad.AnnData:
    """Predicted cells at `doses` and between them."""
    from scgim.tl import sample_cells

    between = [np.geomspace(low, high, _BETWEEN + 2)[1:-1] for low, high in pairwise(doses)]
    asked = [(name, float(dose)) for dose in np.sort(np.concatenate([doses, *between]))]
    return sample_cells(adata, perturbations=asked, n=_SAMPLED, members=members, key=key, group=group)


def _summarise(
    predicted: ad.AnnData, name: str, genes: list[str], band: tuple[float, float], member: str
) -> _Means | None:
    """Means of the predicted cells of one perturbation, with percentiles; None where it has no dose.

    Of the fit to all cells, where the column `member` of `obs` says which these are.
    """
    of_drug = (predicted_labels(predicted, "perturbation").astype(str) == name).to_numpy()
    dose = predicted_labels(predicted, "dose").to_numpy(dtype=float)
    doses = np.unique(dose[of_drug & ~np.isnan(dose)])
    if len(doses) == 0:
        return None
    whose = predicted.obs[member].astype(str).to_numpy() if member in predicted.obs else np.full(len(dose), "0")
    cells = [
        [expression(predicted, of_drug & (dose == d) & (whose == one), genes) for d in doses]
        for one in pd.unique(whose)  # the fit to all cells first
    ]
    low, high = np.array([np.percentile(c, band, axis=0) for c in cells[0]]).swapaxes(0, 1)
    means = np.array([[c.mean(axis=0) for c in own] for own in cells])  # (members, doses, genes)
    sure = np.percentile(means, _SURE, axis=0) if len(means) > 1 else None
    return _Means(doses, means[0], low, high, np.zeros(len(doses), dtype=bool), sure)


def _draw_curve(
    ax: Axes, curve: _Means, j: int, band: tuple[float, float] | None, fitted: np.ndarray, colors: st.Palette
) -> None:
    """Band and mean; the mean is dotted below and above the `fitted` doses."""
    dose, mean, one = curve.dose, curve.mean[:, j], len(curve.dose) == 1
    line: dict[str, Any] = {"color": colors.predicted, "linewidth": 1.5, "zorder": 3}
    inside = np.ones(len(dose), dtype=bool)
    if len(fitted) and not one:
        inside = (dose >= fitted.min()) & (dose <= fitted.max())
    if inside.any():
        marker = "_" if one else None
        ax.plot(dose[inside], mean[inside], marker=marker, label="predicted mean", gid="predicted", **line)
    if not inside.all():
        label = "beyond the fitted doses" if inside.any() else "predicted mean, beyond the fitted doses"
        first, last = np.flatnonzero(inside)[[0, -1]] if inside.any() else (len(dose), len(dose))
        for part in (slice(0, first + 1), slice(last, None)):
            ax.plot(dose[part], mean[part], linestyle=":", label=label, gid="extrapolated", **line)
            label = ""
    if curve.members is not None:
        ends: dict[str, Any] = {"color": colors.predicted, "alpha": 0.35, "zorder": 2.5, "gid": "members"}
        ends["label"] = "90 % of members"
        if one:
            ax.vlines(dose, *curve.members[:, :, j], linewidth=9, **ends)
        else:
            ax.fill_between(dose, *curve.members[:, :, j], linewidth=0, **ends)
    if band is not None:
        area: dict[str, Any] = {"color": colors.predicted, "zorder": 2, "gid": "band"}
        area["label"] = f"{band[0]:g}–{band[1]:g} % of cells"
        if one:
            ax.vlines(dose, curve.low[:, j], curve.high[:, j], alpha=0.35, linewidth=5, **area)
        else:
            ax.fill_between(dose, curve.low[:, j], curve.high[:, j], alpha=0.2, linewidth=0, **area)


def _draw_points(ax: Axes, observed: _Means, j: int, colors: st.Palette) -> None:
    looks = {"observed mean ± s.e.": ("observed", colors.observed), "held-out dose": ("held out", colors.paper)}
    for held_out, (label, (gid, face)) in enumerate(looks.items()):
        rows = observed.held_out == bool(held_out)
        if rows.any():
            mean = observed.mean[rows, j]
            error = observed.high[rows, j] - mean
            dot: dict[str, Any] = {"color": colors.observed, "markerfacecolor": face, "markersize": 4.2}
            dot |= {"markeredgewidth": 1.1, "elinewidth": 1.0, "zorder": 4 + held_out}
            ax.errorbar(observed.dose[rows], mean, yerr=error, fmt="o", label=label, gid=gid, **dot)


def _dose_axis(ax: Axes, width: float, doses: list[float], observed: np.ndarray) -> None:
    """Logarithmic; a tick at every observed dose and at the ends of the curve, labelled where `width` has room."""
    ax.set_xscale("log")
    low, high = doses[0], doses[-1]
    pad = (high / low) ** 0.07 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    size = st.font_size(0.85)
    ticks = sorted({low, high, *observed})
    place = {dose: np.log(dose) * width / np.log(high * pad * pad / low) for dose in ticks}
    half = {dose: st.text_width(st.format_dose(dose), size) / 2 for dose in ticks}
    labelled: list[float] = []
    # the ends of the axis first, then powers of ten
    for dose in sorted(ticks, key=lambda d: (d not in (low, high), not float(np.log10(d)).is_integer())):
        if all(abs(place[dose] - place[d]) > half[dose] + half[d] + size for d in labelled):
            labelled.append(dose)
    ax.set_xticks(ticks, [st.format_dose(dose) if dose in labelled else "" for dose in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
