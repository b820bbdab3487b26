"""Are GIM's marginals calibrated where it was trained, and where it extrapolates? Zeros and ranges, gene by gene.

Half of the cells of every trained condition are set apart before preparation; the fit is judged on them, and on the
dose that is held out altogether.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

FILE = "sciplex3_standin.h5ad"
#: One drug per line, as in the figures of the experiment.
SETTINGS = (("A549", "Belinostat"), ("K562", "Dacinostat"), ("MCF7", "Givinostat"))
WHERE = ("trained conditions, cells set apart", "held-out dose")


def set_apart(label: np.ndarray, seed: int) -> np.ndarray:
    """(cells,) bool: half of the cells of every condition."""
    rng = np.random.default_rng([seed, 5])
    apart = np.zeros(len(label), dtype=bool)
    for name in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == name))
        apart[rows[: len(rows) // 2]] = True
    return apart


def sampling_error(share: np.ndarray, n: int) -> np.ndarray:
    """Mean absolute deviation of a share of zeros among `n` cells from its expectation."""
    return np.sqrt(2 / np.pi) * np.sqrt(share * (1 - share) / n)


def one_setting(file: str, drug: str, dose: float, seed: int, args: Any) -> list[pd.DataFrame]:
    """Per condition and gene: zeros true and predicted, coverage."""
    import anndata as ad

    import scgim
    from scgim import metrics as mt

    whole = ad.read_h5ad(file)
    label = whole.obs["perturbation"].astype(str) + "_" + whole.obs["dose_value"].astype(float).map("{:g}".format)
    held_out = f"{drug}_{dose:g}"
    apart = set_apart(label.to_numpy(), seed) & (label != held_out).to_numpy()
    adata = whole[~apart].copy()
    scgim.pp.prepare(
        adata, dose_key="dose_value", dose_unit_key="dose_unit", hold_out={drug: dose}, features=args.features,
        n_genes=args.n_genes, small_conditions="drop", rng=seed,
    )  # fmt: skip
    scgim.tl.fit_gim(adata, rng=seed, **fit_settings(args))
    genes = adata.var_names[adata.var["gim"].to_numpy(dtype=bool)]
    # The cells set apart, in the units of the preparation.
    rest = whole[apart].copy()
    total = float(adata.uns["gim"]["params"]["target_sum"])
    counts = rest.X.toarray()
    depth = counts.sum(axis=1, keepdims=True)
    other = pd.DataFrame(np.log1p(counts / depth * total), columns=whole.var_names)[genes]
    deep = depth.ravel() >= 200  # as prepare does
    table = adata.uns["gim"]["conditions"]
    out = []
    for name in table.loc[~table["is_control"], "condition"].astype(str):
        if name == held_out:
            rows = np.flatnonzero((adata.obs["gim_condition"].astype(str) == name).to_numpy())
            true = np.asarray(adata[rows, genes].X.toarray())
        else:
            true = other[deep & (label[apart] == name).to_numpy()].to_numpy()
        if len(true) < 10:
            continue
        part, at = name.rsplit("_", 1)
        drawn = scgim.tl.sample_cells(adata, perturbations=[(part, float(at))], n=args.samples, rng=seed)
        predicted = np.asarray(drawn[:, genes].X)
        zeros = mt.zero_fraction(predicted)
        out.append(
            pd.DataFrame(
                {
                    "condition": name, "where": WHERE[name == held_out], "gene": genes, "cells": len(true),
                    "zeros": mt.zero_fraction(true), "predicted zeros": zeros,
                    "from sampling alone": sampling_error(zeros, len(true)),
                    "coverage": mt.coverage_per_gene(true, predicted),
                }
            )
        )  # fmt: skip
    return out


def per_condition(table: pd.DataFrame) -> pd.DataFrame:
    """Means over genes."""
    table = table.assign(error=(table["zeros"] - table["predicted zeros"]).abs())
    by = ["cell line", "drug", "seed", "where", "condition", "cells"]
    return table.groupby(by, sort=False)[["error", "from sampling alone", "coverage"]].mean().reset_index()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over genes and conditions, mean and spread over seeds."""
    rows = []
    for (line, where), part in table.groupby(["cell line", "where"], sort=False):
        by_seed = part.assign(error=(part["zeros"] - part["predicted zeros"]).abs()).groupby("seed")
        rows.append(
            {
                "cell line": line, "judged on": where, "conditions": part["condition"].nunique(),
                "zero-fraction error": mean_and_spread(by_seed["error"].mean(), 3),
                "from sampling alone": mean_and_spread(by_seed["from sampling alone"].mean(), 3),
                "coverage of 5-95 %": mean_and_spread(by_seed["coverage"].mean(), 3),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Any:
    """Predicted against true shares of zeros, trained conditions and held-out dose."""
    from matplotlib import pyplot as plt

    first = table[table["seed"] == table["seed"].min()]
    lines = list(first["cell line"].unique())
    fig, axes = plt.subplots(1, len(lines), figsize=(3.1 * len(lines), 3.5), layout="constrained", squeeze=False)
    for ax, line in zip(axes[0], lines, strict=True):
        for where, style in zip(WHERE, ({"s": 5, "alpha": 0.4}, {"s": 14, "marker": "D"}), strict=True):
            own = first[(first["cell line"] == line) & (first["where"] == where)]
            ax.scatter(own["zeros"], own["predicted zeros"], label=where, linewidth=0, **style)
        ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="share of zeros, true")
        ax.set_title(f"{line}, {first.loc[first['cell line'] == line, 'drug'].iloc[0]} held out", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("predicted")
    named = axes[0, 0].get_legend_handles_labels()
    fig.legend(*named, fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    return axes


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--features", default="potency")
    parser.add_argument("--n-genes", type=int, default=50)
    parser.add_argument("--samples", type=int, default=2000, help="predicted cells per condition")
    parser.add_argument("--dose", type=float, default=10_000.0, help="held out, nM")
    args = parser.parse_args(argv)

    import matplotlib as mpl

    mpl.use("Agg")
    from scgim.benchmark import extract

    use_threads(args.threads)
    path = data_file(args.data, FILE)
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        found = {e.cell_line: e for e in extract(path, folder) if not e.problem}
        source = next((e.source for e in found.values()), "")
        made_up = "synthetic" in source.lower() or "simulated" in source.lower()
        note = Note(
            "SciPlex3: calibration where GIM was trained and where it extrapolates" + (" (stand-in)" * made_up),
            data="**semi-synthetic stand-in**: no number below is a number on SciPlex3" if made_up else "**real**",
            argv=argv,
            script="sciplex3_calibration.py",
            seeds=args.seeds,
        )
        for line, drug in SETTINGS:
            for seed in args.seeds if line in found else ():
                parts = one_setting(found[line].file, drug, args.dose, seed, args)
                frames += [part.assign(**{"cell line": line, "drug": drug, "seed": seed}) for part in parts]
    table = pd.concat(frames, ignore_index=True)
    note.text(
        f"GIM, features: {args.features}, {args.n_genes} genes. Half of the cells of every trained condition were set "
        "apart: the fit never saw them. From sampling alone: what a perfect prediction would be off by, because the "
        "true cells are few."
    )
    note.table("Zeros and ranges", summary(table))
    save(figure(table), args.out, "sciplex3_calibration_trained")
    note.text("![Predicted against true shares of zeros, first seed](sciplex3_calibration_trained.png)")
    note.write(args.out, "sciplex3_calibration", per_condition(table))


if __name__ == "__main__":
    main()
