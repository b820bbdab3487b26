"""The pictures of the README (light and dark), from what `scgim demo` wrote: python docs/make_hero.py scgim-demo

Every panel shows SIMULATED data, and the picture says so.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from PIL import Image

import scgim
from scgim.demo import DOSE, DRUG

HERE = Path(__file__).resolve().parent
DPI = 200
WIDTH = 1600  # pixels of the page
GAP = 56  # pixels between panels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `scgim demo --out FOLDER` wrote")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for hero_light.png and hero_dark.png")
    args = parser.parse_args()
    draw_both(args.folder, args.out)


def draw_both(folder: Path, out: Path) -> None:
    """The picture on a light and on a dark background."""
    for name, style in (("light", "default"), ("dark", "dark_background")):
        with plt.style.context(style):
            draw(folder, out / f"hero_{name}.png")


def draw(folder: Path, out: Path) -> None:
    adata = ad.read_h5ad(folder / "fit.h5ad")
    cells = ad.read_h5ad(folder / "cells.h5ad")
    held_out = cells[cells.obs["dose"] == DOSE].copy()
    condition = str(held_out.obs["condition"].iloc[0])
    genes = strongest(adata, condition, 6)

    graph = picture(scgim.pl.graph(adata, condition=condition, title=False, isolated=False))
    marginals = picture(scgim.pl.marginals(adata, held_out, genes=genes, n_cols=6, title=False)[0])
    doses = picture(
        scgim.pl.dose_response(adata, predicted=cells, perturbation=DRUG, genes=genes, n_cols=6, title=False)[0]
    )
    shown = ["mean_distance", "wasserstein", "e_distance"]
    errors = picture(scgim.pl.metrics(pd.read_csv(folder / "evaluation.csv"), metrics=shown)[0])
    dose = f"{DRUG} {DOSE:,.0f} nM"
    wide = max(marginals.width, doses.width)
    titled_errors = titled(errors, f"Error on {dose}, held out")
    titled_graph = titled(graph, f"Learned graph, targets of {dose}")
    page = below(
        beside(titled_graph, titled_errors, first=wide - titled_errors.width - GAP),
        titled(marginals, f"Predicted cells, {dose}"),
        titled(doses, "Predicted dose response"),
        text("Simulated data (scgim demo).", size=10, weight="normal"),
    )
    height = round(page.height * WIDTH / page.width)
    page = page.resize((WIDTH, height), Image.Resampling.LANCZOS)
    page.quantize(colors=256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")


def strongest(adata: ad.AnnData, condition: str, n: int) -> list[str]:
    """The genes whose observed mean changes most under a condition."""
    genes = adata.var_names[adata.var["gim"]]
    x = adata[:, genes].X.toarray()
    label = adata.obs["gim_condition"].astype(str).to_numpy()
    change = np.abs(x[label == condition].mean(axis=0) - x[label == "control"].mean(axis=0))
    return genes[np.argsort(-change)[:n]].tolist()


def picture(ax: plt.Axes) -> Image.Image:
    """The figure of an axes as an image, as large as it was made."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, dpi=DPI, bbox_inches="tight")
    plt.close(ax.figure)
    return Image.open(buffer).convert("RGB")


def text(words: str, *, size: float, weight: str) -> Image.Image:
    _, ax = plt.subplots(figsize=(0.1, 0.1))
    ax.axis("off")
    ax.text(0, 0, words, size=size, weight=weight)
    return picture(ax)


def titled(image: Image.Image, words: str) -> Image.Image:
    return below(text(words, size=12, weight="bold"), image, gap=GAP // 3)


def below(*images: Image.Image, gap: int = GAP) -> Image.Image:
    page = blank(max(i.width for i in images), sum(i.height for i in images) + gap * (len(images) - 1))
    y = 0
    for image in images:
        page.paste(image, (0, y))
        y += image.height + gap
    return page


def beside(left: Image.Image, right: Image.Image, *, first: int) -> Image.Image:
    """Two images, the left one in a column of `first` pixels."""
    page = blank(first + GAP + right.width, max(left.height, right.height))
    page.paste(left, (0, 0))
    page.paste(right, (first + GAP, 0))
    return page


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), to_hex(plt.rcParams["figure.facecolor"]))


if __name__ == "__main__":
    main()
