"""Heat maps with a row per condition: the order and the labels of the rows, genes side by side, the colour bar."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.transforms import offset_copy
from scipy.cluster.hierarchy import leaves_list, linkage

from . import _style as st

_COLUMN = 1.65  # width of a gene's column, in multiples of the label's font size
_ROW = 1.9  # height of a condition's row


def sort_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of conditions, by perturbation (first seen first) and dose."""
    rank = table["perturbation"].map({name: i for i, name in enumerate(table["perturbation"].unique())})
    order = np.lexsort((table["dose"].fillna(-np.inf), rank))
    return table.iloc[order].reset_index(drop=True)


def cluster(values: pd.DataFrame) -> list[str]:
    """Columns with similar values side by side, those of the first rows first."""
    n = values.shape[1]
    if n > 2:
        tree = linkage(values.to_numpy().T, method="average", optimal_ordering=True)
        values = values.iloc[:, leaves_list(tree)]
    if n > 1:
        weight = values.abs().to_numpy()
        row = np.arange(len(values)) @ weight / np.maximum(weight.sum(axis=0), 1e-12)
        if np.polyfit(np.arange(n), row, 1)[0] < 0:
            values = values.iloc[:, ::-1]
    return values.columns.tolist()


def label_columns(ax: Axes, names: list[str], note: str, em: float, ink: str) -> None:
    """Genes below the columns, and a note below them."""
    ax.set_xticks(np.arange(len(names)) + 0.5, names, style="italic")
    ax.tick_params(axis="x", labelrotation=90, labelsize=em, length=0, pad=2)
    if note:
        ax.set_xlabel(note, fontsize=em, color=ink, loc="right" if len(names) > 12 else "center")


def color_bar(ax: Axes, mesh: QuadMesh, em: float, ink: str, label: str, **options: Any) -> Any:
    """A small colour bar right of the heat map."""
    width, height = st.axes_size(ax)
    shrink, pad = min(1.0, 14 * em / height), min(1.2 * em / width, 0.3)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=shrink, aspect=12, pad=pad, **options)
    bar.ax.tick_params(labelsize=em, length=2, width=0.6)
    bar.outline.set_linewidth(0.6)
    bar.set_label(label, fontsize=em, color=ink)
    return bar


def _row_text(rows: pd.DataFrame, unit: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Labels of the rows; name, first row and last row + 1 of each block of doses of one perturbation."""
    runs = (rows["perturbation"] != rows["perturbation"].shift()).cumsum()
    labels, blocks = [""] * len(rows), []
    for _, run in rows.groupby(runs):
        if run["dose"].isna().any():
            names = run["condition"].map(st.shorten).tolist()
        else:
            names = [st.format_dose(dose, unit) for dose in run["dose"]]
            blocks.append((st.shorten(run["perturbation"].iloc[0]), int(run.index[0]), int(run.index[-1]) + 1))
        for i, name, out in zip(run.index, names, run["split"] == "test", strict=True):
            labels[i] = f"{name} (held out)" if out else name
    return labels, blocks


def label_rows(ax: Axes, rows: pd.DataFrame, unit: str, em: float, ink: str) -> None:
    """Doses next to the rows, perturbations outside them, next to a line that spans their rows."""
    labels, blocks = _row_text(rows, unit)
    ax.set_yticks(np.arange(len(rows)) + 0.5, labels)
    size = min(em, st.axes_size(ax)[1] / len(rows) / 1.25)
    ax.tick_params(axis="y", labelsize=size, length=0, pad=3)
    offset = max(st.text_width(label, size) for label in labels) + 3 + 0.8 * em
    for name, start, stop in blocks:
        if start > 0:
            ax.axhline(start, color=ink, linewidth=0.6, gid="separator")
        beside = offset_copy(ax.get_yaxis_transform(), ax.figure.canvas.figure, x=-offset, units="points")
        ends = (start + 0.15, stop - 0.15)
        ax.plot([0, 0], ends, color=ink, linewidth=0.8, clip_on=False, gid="block", transform=beside)
        look: dict[str, Any] = {"ha": "right", "va": "center", "size": 1.08 * size, "color": ink}
        ax.text(0, (start + stop) / 2, f"{name} ", gid="perturbation", transform=beside, **look)


def new_axes(shape: tuple[int, int], rows: pd.DataFrame, names: list[str], unit: str, em: float) -> tuple[Axes, float]:
    """A figure in which every row and column has room for its label; the width of a text below its middle."""
    labels, blocks = _row_text(rows, unit)
    left = max(st.text_width(label, em) for label in labels)
    left += max((st.text_width(name, 1.08 * em) for name, *_ in blocks), default=0.0) + 2 * em
    label_height = max(st.text_width(name, em) for name in names)
    inner = max(shape[1] * _COLUMN, 6) * em
    width, height = left + inner + 11 * em, label_height + max(shape[0] * _ROW, 10) * em + 3.7 * em
    ax = plt.subplots(figsize=(width / 72, height / 72), layout="constrained")[1]
    return ax, inner + 2 * min(left, 9 * em)
