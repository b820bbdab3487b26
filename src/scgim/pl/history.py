"""The course of a fit."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import scgim.get as get

from ._panels import make_panels
from ._style import clean, font_size, palette

#: Title of each panel, whether its axis is logarithmic, and the recorded quantities with their labels.
_PANELS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("Loss", False, {"loss": "training", "valid_loss": "held-out cells"}),
    ("Acyclicity", True, {"acyclicity": "acyclicity"}),
    ("Lagrangian", True, {"penalty": "penalty", "multiplier": "multiplier"}),
    ("Edges", False, {"edges": "edges"}),
    ("Targets per condition", False, {"targets_per_condition": "targets"}),
)


def history(
    adata: ad.AnnData, *, n_cols: int = 5, ax: Any = None, key: str = "gim", group: str | None = None
) -> np.ndarray:
    """What was recorded while fitting, one panel per quantity.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    n_cols
        Panels per row.
    ax
        Axes to draw into, one per panel. None makes a new figure.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

    Returns
    -------
    numpy.ndarray
        One matplotlib Axes per panel: loss (training and held-out cells), acyclicity, penalty and
        multiplier of the Lagrangian, edges, targets per condition. What was not recorded has no panel.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If nothing was recorded, the group is wrong, or `ax` is too small.

    Examples
    --------
    >>> import scgim
    >>> scgim.pl.history(adata)  # doctest: +SKIP
    """
    table = get.history(adata, key=key, group=group)
    panels = [(name, log, lines) for name, log, all_lines in _PANELS if (lines := _recorded(table, all_lines))]
    if "step" not in table or table.empty or not panels:
        raise ValueError(f"The fit '{key}' recorded no history to draw.")
    axes, own = make_panels(len(panels), ax=ax, n_cols=n_cols, panel_size=(13.5, 11.5))
    for i, (panel, (name, log, lines)) in enumerate(zip(axes, panels, strict=True)):
        for color, (column, label) in zip(_colors(panel), lines.items(), strict=False):
            filled = table[["step", column]].dropna()
            dot = "o" if len(filled) == 1 else ""  # a line needs two records
            style: dict[str, Any] = {"color": color, "linewidth": 1.2, "marker": dot, "markersize": 4}
            panel.plot(filled["step"], filled[column], label=label, gid=column, **style)
        values = table[list(lines)]
        if log and (values > 0).any(axis=None):
            panel.set_yscale("log", nonpositive="mask")
        elif name == "Loss":
            panel.set_ylim(_loss_range(values.to_numpy(dtype=float), room=0.8 if len(lines) > 1 else 0.06))
        else:
            highest = float(np.nanmax(values.to_numpy(dtype=float)))
            panel.set_ylim(0, 1.08 * highest if highest > 0 else None)
        panel.set_title(name, fontsize=font_size(), pad=3)
        if len(lines) > 1:
            place = "upper right" if name == "Loss" else "best"
            panel.legend(frameon=False, fontsize=font_size(0.8), handlelength=1.3, borderaxespad=0.1, loc=place)
        clean(panel)
        panel.locator_params(axis="x", nbins=4)
        columns = min(len(axes), n_cols) if own else 1
        if i + columns >= len(axes) or not own:
            panel.set_xlabel("Step", fontsize=font_size(0.9))
    return axes


def _recorded(table: pd.DataFrame, lines: dict[str, str]) -> dict[str, str]:
    return {column: label for column, label in lines.items() if column in table and table[column].notna().any()}


def _colors(ax: Axes) -> tuple[str, ...]:
    colors = palette(ax)
    return colors.observed, colors.predicted


def _loss_range(values: np.ndarray, *, room: float) -> tuple[float, float]:
    """The range after the first tenth of the records, whose fall would flatten the rest; `room` for the legend."""
    values = np.where(np.isfinite(values), values, np.nan)
    late = values[len(values) // 10 :]
    low, high = float(np.nanmin(values)), float(np.nanmax(values if np.isnan(late).all() else late))
    span = (high - low) or 8.0
    return low - 0.06 * span, high + room * span
