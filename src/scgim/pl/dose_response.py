"""Mean expression against dose: predicted curve, observed points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

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
from ._style import (
    Palette,
    axes_size,
    clean,
    font_size,
    format_dose,
    format_unit,
    palette,
    shorten,
    text_width,
)


def dose_response(
    adata: ad.AnnData,
    *,
    predicted: ad.AnnData | None = None,
    perturbation: str | None = None,
    genes: str | Iterable[str] | None = None,
    n_genes: int = 8,
    band: tuple[float, float] | None = (25, 75),
    n_cols: int = 4,
    unit: str | None = None,
    title: bool = True,
    legend: bool = True,
    ax: Any = None,
    key: str = "gim",
    group: str | None = None,
) -> np.ndarray:
    """Predicted and observed dose response, gene by gene.

    The line is the mean of the predicted cells at each dose, the band the range between two of their
    percentiles. Points are means of observed cells with their standard error, open where the dose was held
    out of fitting. The dashed line is the mean of the control cells.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    predicted
        Cells from `tl.sample_cells`, at several doses of the perturbation. None draws what was observed.
    perturbation
        The perturbation to show; may be left out where there is only one to choose: in `predicted`, or the
        one with a held-out dose.
    genes
        Genes to show. None takes the `n_genes` whose observed mean changes most against control, at the
        dose where it does (the predicted mean, where the perturbation was not observed).
    n_genes
        How many genes to show where `genes` is None.
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
        If there is no fit under `key`, or `predicted` lacks the columns of `tl.sample_cells`.
    ValueError
        If a gene or the perturbation is unknown, several perturbations are there to choose from, the
        perturbation has no positive doses, `band` is not a range of percentiles, or `ax` is too small.

    Examples
    --------
    >>> import numpy as np, scgim
    >>> doses = [("Dacinostat", dose) for dose in np.geomspace(10, 10_000, 13)]  # doctest: +SKIP
    >>> new = scgim.tl.sample_cells(adata, perturbations=doses)  # doctest: +SKIP
    >>> scgim.pl.dose_response(adata, predicted=new)  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    if band is not None and not 0 <= band[0] < band[1] <= 100:
        raise ValueError(f"band is a pair of increasing percentiles between 0 and 100, not {band}.")
    nodes = genes_of(adata, slots)
    if predicted is not None:
        require_genes(predicted, nodes)
    name = _one_perturbation(slots, predicted, perturbation)
    observed = _observed(adata, slots, name, nodes)
    simulated = _simulated(predicted, name, nodes, band)
    doses = sorted({*observed["dose"], *(simulated["dose"] if simulated is not None else ())})
    if not doses or doses[0] <= 0:
        raise ValueError(f"'{name}' has no positive doses: a dose response needs them (found {doses}).")
    control = expression(adata, control_cells(adata, slots), nodes).mean(axis=0)
    seen = observed if len(observed["dose"]) or simulated is None else simulated
    change = pd.Series(np.abs(seen["mean"] - control).max(axis=0), index=nodes)
    shown = choose_genes(genes, nodes, change, n_genes)

    axes, own = make_panels(len(shown), ax=ax, n_cols=n_cols, panel_size=(15, 11.5), min_width=33)
    unit = unit or slots.dose_unit
    label = f"Dose ({format_unit(unit)})" if unit else "Dose"
    for i, (panel, gene) in enumerate(zip(axes, shown, strict=True)):
        j = nodes.index(gene)
        colors = palette(panel)
        panel.axhline(control[j], color=colors.control, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1, gid="control")
        if simulated is not None:
            _draw_predicted(panel, simulated, j, colors)
        _draw_observed(panel, observed, j, colors)
        panel.set_title(shorten(gene), fontsize=font_size(), style="italic", pad=3)
        clean(panel)
        columns = min(len(axes), n_cols) if own else 1
        if i % columns == 0 or not own:
            panel.set_ylabel(expression_label(slots), fontsize=font_size(0.9))
        if i + columns >= len(axes) or not own:
            panel.set_xlabel(label, fontsize=font_size(0.9))
    held_out = bool(np.any(observed["held_out"]))
    handles = _handles(palette(axes[0]), simulated is not None, band, len(observed["dose"]) > 0, held_out)
    add_header(axes, handles, own=own, title=name if title else None, legend=legend)
    width = axes_size(axes[0])[0]
    for panel in axes:
        panel_width = width if own else axes_size(panel)[0]
        _dose_axis(panel, panel_width, doses, list(observed["dose"]) or doses)
    return axes


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


def _observed(adata: ad.AnnData, slots: Entry, name: str, genes: list[str]) -> dict[str, np.ndarray]:
    """Mean and standard error of the observed cells, (doses, genes)."""
    table = slots.conditions
    rows = table[(table["perturbation"] == name) & table["dose"].notna()].sort_values("dose")
    rows = rows[rows["n_cells"] > 0]
    mean, error = np.empty((len(rows), len(genes))), np.empty((len(rows), len(genes)))
    for i, condition in enumerate(rows["condition"]):
        values = expression(adata, cells_of(adata, slots, [condition]), genes)
        mean[i] = values.mean(axis=0)
        error[i] = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    held_out = (rows["split"] == "test").to_numpy()
    return {"dose": rows["dose"].to_numpy(dtype=float), "mean": mean, "error": error, "held_out": held_out}


def _simulated(
    predicted: ad.AnnData | None, name: str, genes: list[str], band: tuple[float, float] | None
) -> dict[str, np.ndarray] | None:
    """Mean and percentiles of the predicted cells, (doses, genes); None where there are none."""
    if predicted is None:
        return None
    of_drug = (predicted_labels(predicted, "perturbation").astype(str) == name).to_numpy()
    dose = predicted_labels(predicted, "dose").to_numpy(dtype=float)
    doses = np.unique(dose[of_drug & ~np.isnan(dose)])
    if len(doses) == 0:
        return None
    cells = [expression(predicted, of_drug & (dose == d), genes) for d in doses]
    result = {"dose": doses, "mean": np.array([c.mean(axis=0) for c in cells])}
    if band is not None:
        result["low"], result["high"] = np.array([np.percentile(c, band, axis=0) for c in cells]).swapaxes(0, 1)
    return result


def _draw_predicted(ax: Axes, simulated: dict[str, np.ndarray], j: int, colors: Palette) -> None:
    dose, one = simulated["dose"], len(simulated["dose"]) == 1
    if "low" in simulated:
        low, high = simulated["low"][:, j], simulated["high"][:, j]
        if one:
            ax.vlines(dose, low, high, color=colors.predicted, alpha=0.35, linewidth=5, zorder=2, gid="band")
        else:
            ax.fill_between(dose, low, high, color=colors.predicted, alpha=0.2, linewidth=0, zorder=2, gid="band")
    marker = "_" if one else None
    ax.plot(
        dose,
        simulated["mean"][:, j],
        color=colors.predicted,
        linewidth=1.5,
        marker=marker,
        zorder=3,
        gid="predicted",
    )


def _draw_observed(ax: Axes, observed: dict[str, np.ndarray], j: int, colors: Palette) -> None:
    for held_out in (False, True):
        rows = observed["held_out"] == held_out
        if not rows.any():
            continue
        ax.errorbar(
            observed["dose"][rows],
            observed["mean"][rows, j],
            yerr=observed["error"][rows, j],
            fmt="o",
            markersize=4.2,
            color=colors.observed,
            markerfacecolor=colors.paper if held_out else colors.observed,
            markeredgewidth=1.1,
            elinewidth=1.0,
            zorder=5 if held_out else 4,
            gid="held out" if held_out else "observed",
        )


def _dose_axis(ax: Axes, width: float, doses: list[float], ticks: list[float]) -> None:
    """Logarithmic; a tick at every observed dose, with its label where the `width` (points) has room."""
    ax.set_xscale("log")
    low, high = min(doses), max(doses)
    pad = (high / low) ** 0.07 if high > low else 2.0
    ax.set_xlim(low / pad, high * pad)
    size = font_size(0.85)
    place = {dose: np.log(dose) * width / np.log(high * pad * pad / low) for dose in ticks}
    half = {dose: text_width(format_dose(dose), size) / 2 for dose in ticks}
    labelled: list[float] = []
    for dose in sorted(ticks, key=lambda d: not float(np.log10(d)).is_integer()):  # powers of ten first
        if all(abs(place[dose] - place[d]) > half[dose] + half[d] + 0.5 * size for d in labelled):
            labelled.append(dose)
    ax.set_xticks(ticks, [format_dose(dose) if dose in labelled else "" for dose in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _handles(
    colors: Palette, predicted: bool, band: tuple[float, float] | None, observed: bool, held_out: bool
) -> list[Any]:
    handles: list[Any] = []
    if predicted:
        handles.append(Line2D([], [], color=colors.predicted, linewidth=1.5, label="predicted mean"))
        if band is not None:
            middle = f"{band[0]:g}–{band[1]:g} % of cells"
            handles.append(Patch(facecolor=colors.predicted, alpha=0.2, linewidth=0, label=middle))
    dot: dict[str, Any] = {
        "color": colors.observed,
        "marker": "o",
        "markersize": 4.2,
        "linestyle": "none",
        "markeredgewidth": 1.1,
    }
    if observed:
        handles.append(Line2D([], [], label="observed mean ± s.e.", **dot))
    if held_out:
        handles.append(Line2D([], [], label="held-out dose", **dot, markerfacecolor=colors.paper))
    return [
        *handles,
        Line2D([], [], color=colors.control, linewidth=1.0, linestyle=(0, (4, 2)), label="control mean"),
    ]
