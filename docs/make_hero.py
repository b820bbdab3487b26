"""The pictures of the README (light and dark), from what `scgim demo` wrote: python docs/make_hero.py scgim-demo

Every panel shows SIMULATED data, and the picture says so. Sizes are chosen for README width and for a phone.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from PIL import Image

import scgim
from scgim.demo import DOSE, DRUG
from scgim.metrics.table import OWN_CONTROL

HERE = Path(__file__).resolve().parent
WIDTH = 1660  # pixels: twice the width of a README
SIZE = (8.3, 10.3)  # inches
HEIGHTS = (3.0, 2.7, 2.8, 2.3)  # of the rows
FONT = 18  # points: labels of about 9 pixels on a phone of 360
STYLES = {"light": "default", "dark": "dark_background"}
METRICS = ["mean_distance", "wasserstein", "e_distance"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `scgim demo --out FOLDER` wrote")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for hero_light.png and hero_dark.png")
    args = parser.parse_args()
    draw_both(args.folder, args.out)


def draw_both(folder: Path, out: Path) -> None:
    """The picture on a light and on a dark background."""
    for name, style in STYLES.items():
        with plt.style.context([style, {"font.size": FONT}]):
            draw(folder, out / f"hero_{name}.png")


def draw(folder: Path, out: Path) -> None:
    adata = ad.read_h5ad(folder / "fit.h5ad")
    adata.var["number"] = adata.var_names.str.removeprefix("SIM")  # shorter names are larger ones
    cells = ad.read_h5ad(folder / "cells.h5ad")
    held_out = cells[cells.obs["dose"] == DOSE].copy()
    condition = str(held_out.obs["condition"].iloc[0])
    shown: dict[str, Any] = {"gene_symbols": "number", "legend": False, "title": False}
    figure = plt.figure(figsize=SIZE, layout="constrained")
    top, middle, below, bottom = figure.subfigures(4, 1, height_ratios=HEIGHTS)

    ax = scgim.pl.graph(adata, condition=condition, isolated=False, ax=top.subplots(), **shown)
    right, turned, drawn = mark_wrong(ax, adata)
    heading(top, f"Learned graph: {right} of {drawn} arrows right (solid), {turned} reversed")
    top.supxlabel(f"Orange raises, blue lowers. Filled: targets of {DRUG}.", size=0.65 * FONT)
    genes = strongest(adata, condition, 3)
    axes = scgim.pl.marginals(adata, held_out, genes=genes, ax=middle.subplots(1, 3), **shown)
    heading(middle, f"Cells at a dose left out of the fit: {DRUG}, {DOSE:,.0f} nM")
    tidy(middle, axes, "Zeros", columns=3)
    axes = scgim.pl.dose_response(adata, predicted=cells, genes=genes, ax=below.subplots(1, 3), band=None, **shown)
    heading(below, "Dose response")
    tidy(below, axes, "Expression", columns=3)
    table = pd.read_csv(folder / "evaluation.csv")
    table = table[table["method"] != OWN_CONTROL]  # a longer picture otherwise
    axes = scgim.pl.metrics(table, metrics=METRICS, legend=False, ax=bottom.subplots(1, 3))
    heading(bottom, "Error at the dose left out (dashed: two halves of its cells)")
    for panel in axes[1:]:
        panel.set_yticklabels([])
    for panel in axes:
        panel.set_xlabel("")
    figure.suptitle("SIMULATED DATA: what `scgim demo` fits", x=0.99, ha="right", size=0.75 * FONT)

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=WIDTH / SIZE[0])
    plt.close(figure)
    page = Image.open(buffer).convert("RGB")
    page.quantize(colors=256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")


def mark_wrong(ax: Axes, adata: ad.AnnData) -> tuple[int, int, int]:
    """Dash the arrows that the true network has not; how many are right, how many reversed, how many there are."""
    edges = list(scgim.get.graph(adata).edges)
    cause, effect = (adata.var_names.get_indexer(names) for names in zip(*edges, strict=True))
    truth = adata.varp["true_graph"].toarray() > 0
    right = truth[cause, effect]
    wrong = {f"edge:{u}->{v}" for (u, v), is_true in zip(edges, right, strict=True) if not is_true}
    for patch in ax.patches:
        if patch.get_gid() in wrong:
            patch.set_linestyle((0, (2.5, 1.5)))
    return int(right.sum()), int((truth[effect, cause] & ~right).sum()), len(edges)


def heading(part: SubFigure, words: str) -> None:
    part.suptitle(words, x=0.01, ha="left", size=0.85 * FONT, weight="bold")


def tidy(part: SubFigure, axes: np.ndarray, y: str, *, columns: int) -> None:
    """A short label of the y axis on the left, stronger lines, and one legend below the row."""
    for panel in axes:
        panel.set_ylabel(y if panel is axes[0] else "")
        for line in panel.lines:
            line.set(linewidth=1.7 * line.get_linewidth(), markersize=1.6 * line.get_markersize())
    handles, labels = axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 0.65 * FONT, "columnspacing": 1.2, "handlelength": 1.3}
    part.legend(handles, labels, loc="outside lower center", ncols=columns, borderaxespad=0.1, **style)


def strongest(adata: ad.AnnData, condition: str, n: int) -> list[str]:
    """The genes whose observed mean changes most under a condition."""
    genes = adata.var_names[adata.var["gim"]]
    x = adata[:, genes].X.toarray()
    label = adata.obs["gim_condition"].astype(str).to_numpy()
    change = np.abs(x[label == condition].mean(axis=0) - x[label == "control"].mean(axis=0))
    return genes[np.argsort(-change)[:n]].tolist()


if __name__ == "__main__":
    main()
