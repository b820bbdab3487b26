"""Effect against evidence, gene by gene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import scgim.get as get
from scgim._errors import InvalidValue
from scgim._validation import check_int, listing
from scgim.get._results import check_known, genes_of
from scgim.slots import read_entry

from . import _style as st
from ._genes import gene_labels
from ._names import name_points
from ._targets import effects


def volcano(
    adata: ad.AnnData,
    *,
    condition: str,
    n_named: int = 10,
    gene_symbols: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    key: str = "gim",
    group: str | None = None,
) -> Axes:
    """Volcano plot of one condition: what the intervention makes of each gene, against the evidence that it does.

    The effect is that of the replaced mechanism itself, without what reaches the gene through the graph. The evidence
    (`tl.target_evidence`, in nats) is what the gene's parents do not explain; above the dashed line it exceeds the
    price of a target. Called targets are coloured. The evidence comes from the cells that the model was fitted to: a
    high point is a strong hypothesis, not a test.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    condition
        Label of the condition, one that was trained on.
    n_named
        How many genes to name: those with most evidence, if it is for a target. Without room, fewer are named.
    gene_symbols
        Column of `adata.var` to name the genes by. None takes their names.
    legend
        Whether to draw the legend.
    ax, save
        Axes to draw into (None makes a new figure), and a file to write the figure to.
    key, group
        Which fit.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. The tables behind it are `scgim.get.targets` and `scgim.tl.target_evidence`.

    Raises
    ------
    KeyError
        If there is no fit under `key`, or no column `gene_symbols`.
    ValueError
        If the condition is unknown, the control, or was held out, and so has no evidence.

    Examples
    --------
    >>> scgim.pl.volcano(adata, condition="Dacinostat_1000")  # doctest: +SKIP
    """
    from scgim.tl import target_evidence

    n_named = check_int(n_named, "n_named", least=0)
    slots = read_entry(adata, key, group, fitted=True)
    table = slots.conditions
    condition = check_known(condition, table["condition"].tolist(), "condition")[0]
    labels = gene_labels(adata, genes_of(adata, slots), gene_symbols).map(st.shorten)
    trained = table.loc[(table["split"] == "train") & ~table["is_control"], "condition"]
    if condition not in set(trained):
        reason = "is the control" if condition == slots.control else "was held out of the fit"
        raise InvalidValue(f"'{condition}' {reason}, so there is no evidence of its targets: take {listing(trained)}.")
    targets = get.targets(adata, conditions=condition, key=key, group=group)
    effect, effect_label = effects(slots, targets)
    evidence = target_evidence(adata, key=key, group=group)
    evidence = evidence[evidence["condition"] == condition].set_index("gene")["evidence"]
    x, y = effect.to_numpy(dtype=float), evidence.loc[targets["gene"]].to_numpy()
    sign = np.where(targets["is_target"], np.sign(x), 0).astype(int)
    price = float(slots.fitted["settings"]["target_sparsity"])

    grid = st.make_panels(1, ax=ax, n_cols=1, size=(30, 24), min_width=30)
    ax = grid.axes[0]
    colors = st.palette(ax)
    st.clean(ax)
    ax.set_yscale("function", functions=(_root, _square))
    thin: dict[str, Any] = {"color": colors.muted, "linewidth": 0.8, "zorder": 1}
    ax.axvline(0, linestyle=":", gid="zero", **thin)
    ax.axhline(price, linestyle=(0, (4, 2)), gid="price", **(thin | {"color": colors.ink}))
    kinds = {0: ("not called", colors.control), -1: ("called, lowered", colors.observed)}
    kinds[1] = ("called, raised", colors.predicted)
    for kind, (label, color) in kinds.items():
        rows = sign == kind
        ax.scatter(x[rows], y[rows], s=16, color=color, linewidths=0, label=label, gid=label, zorder=3 + abs(kind))
    reach = 1.12 * float(np.abs(x).max(initial=0.0)) or 1.0
    ax.set_xlim(-reach, reach)
    low, high = min(float(y.min()), 0.0), max(float(y.max()), price)
    ax.set_ylim(_square(_root(low) - 0.06 * _root(high)), _square(1.08 * _root(high)))
    ticks = _ticks(low, high)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlabel(effect_label, fontsize=st.font_size(0.9))
    ax.set_ylabel("Evidence (nats)", fontsize=st.font_size(0.9))
    dashed = Line2D([], [], linestyle=(0, (4, 2)), color=colors.ink, linewidth=0.8, label="price of a target")
    handles = [*ax.get_legend_handles_labels()[0], dashed] if legend else False
    grid.header(handles, title=st.condition_title(table, condition, slots.dose_unit))
    first = [i for i in np.argsort(-y, kind="stable")[:n_named] if y[i] > 0 or sign[i]]
    points = np.column_stack([x, y])
    name_points(ax, points[first], labels[targets["gene"].iloc[first]].tolist(), points, size=st.font_size(0.85))
    return st.finish(ax, save)


def _root(value: Any) -> Any:
    """Square root with the sign: about the change in standard errors, and strong genes flatten no weak ones."""
    return np.sign(value) * np.sqrt(np.abs(value))


def _square(value: Any) -> Any:
    return np.sign(value) * np.square(value)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about evenly spaced after the root."""
    nice = [c * 10.0**k for k in range(-1, 8) for c in (1, 2, 5)]
    step = _root(high) / 6
    ticks = [0.0]
    for value in nice:
        if value <= high and _root(value) - _root(ticks[-1]) >= step:
            ticks.append(value)
    below = [value for value in nice if value <= -low and _root(value) >= step]
    return [-below[-1], *ticks] if below else ticks
