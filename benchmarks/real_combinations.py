"""Two perturbations at once on real data: CRISPRa in K562 (Norman et al. 2019), doubles from their singles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from recording import Note, data_file, fit_settings, make_parser, mean_and_spread, save, use_threads

if TYPE_CHECKING:
    from anndata import AnnData

FILE = "norman2019_k562_combos_500genes.h5ad"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "GIM, hard": ("gim", {}),
    "GIM, shift": ("gim", {"intervention": "shift"}),
    "additive": ("additive", {}),
    "ridge": ("ridge", {}),
    "mean-shift MLP": ("mean_shift", {}),
    "control": ("control", {}),
}
#: Methods of the second protocol, which is fitted anew for every double.
SECOND = ("GIM, shift", "additive", "ridge", "control")
METRICS = ("pearson_delta", "mean_distance", "e_distance", "kde_nll")
CEILING = "two halves of the double"


def predictable(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Doubles whose two singles are there, and the other doubles."""
    names = set(labels)
    doubles = sorted(name for name in names if "+" in name)
    yes = [name for name in doubles if set(name.split("+")) <= names]
    return yes, [name for name in doubles if name not in yes]


def canonical(label: str) -> str:
    """The name that `pp.prepare` gives a combination."""
    return "+".join(sorted(label.split("+")))


def scores(true: np.ndarray, predicted: np.ndarray, control: np.ndarray) -> dict[str, float]:
    """All metrics of one prediction."""
    from scgim import metrics as mt

    return {
        "pearson_delta": mt.pearson_delta(true, predicted, control),
        "mean_distance": mt.mean_distance(true, predicted),
        "e_distance": mt.e_distance(true, predicted),
        "kde_nll": mt.kde_nll(true, predicted),
    }


def prepare(whole: AnnData, held_out: Sequence[str], args: Any, seed: int) -> AnnData:
    """A prepared copy; the markers are chosen without the held-out doubles."""
    import scgim

    adata = whole.copy()
    scgim.pp.prepare(
        adata, input="log1p", n_genes=args.n_genes, n_top_genes=500, hold_out=list(held_out), min_cells=5,
        silent_genes="drop", rng=seed,
    )  # fmt: skip
    return adata


def evaluate(
    whole: AnnData, held_out: Sequence[str], tested: Sequence[str], methods: Sequence[str], args: Any, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], AnnData]:
    """Fit without `held_out`, predict `tested`."""
    import time

    import scgim
    from scgim.baselines import prepared_condition
    from scgim.slots import read_entry

    adata = prepare(whole, held_out, args, seed)
    labels = adata.obs["gim_condition"].astype(str).to_numpy()

    def cells(label: str) -> np.ndarray:
        return read_entry(adata).expression(adata, np.flatnonzero(labels == label))

    control = cells("control")
    rows, fits = [], []
    settings = {k: v for k, v in fit_settings(args).items() if k not in ("progress", "device")}
    for name in methods:
        kind, options = METHODS[name]
        start = time.process_time()
        own = {**options, **(settings if kind == "gim" else {})}
        fitted = scgim.baselines.fit(adata, method=kind, rng=seed, **own)
        seconds = time.process_time() - start
        if kind == "gim":
            table = adata.uns["gim"]["conditions"]
            trained = table[(table["split"] == "train") & ~table["is_control"]]["condition"].astype(str)
            found = fitted.targets([prepared_condition(adata, label) for label in trained]) > 0.5
            fits.append(
                {
                    "seed": seed, "method": name, "held out": ", ".join(held_out), "edges": int(fitted.graph().sum()),
                    "targets per condition": float(found.sum(1).mean()),
                    "conditions without a target": int((found.sum(1) == 0).sum()), "CPU (s)": seconds,
                }
            )  # fmt: skip
        for label in tested:
            predicted = fitted.sample(prepared_condition(adata, label), args.samples, np.random.default_rng([seed, 1]))
            found_scores = scores(cells(label), predicted, control)
            rows += [
                {"seed": seed, "double": label, "method": name, "metric": metric, "value": value}
                for metric, value in found_scores.items()
            ]
    rng = np.random.default_rng([seed, 2])
    for label in tested:
        order = rng.permutation(cells(label))
        halves = scores(order[::2], order[1::2], control)
        rows += [
            {"seed": seed, "double": label, "method": CEILING, "metric": metric, "value": value}
            for metric, value in halves.items()
        ]
    return rows, fits, adata


def figure(table: pd.DataFrame) -> Any:
    """Pearson of differences and mean distance, double by double."""
    from matplotlib import pyplot as plt

    methods = [*METHODS, CEILING]
    doubles = list(table["double"].unique())
    _, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for ax, (metric, title) in zip(
        axes, (("pearson_delta", "Pearson of differences ↑"), ("mean_distance", "mean distance ↓")), strict=True
    ):
        for k, method in enumerate(methods):
            own = table[(table["method"] == method) & (table["metric"] == metric)]
            x = np.array([doubles.index(d) for d in own["double"]]) + (k - len(methods) / 2) * 0.11
            style = {"color": "black", "marker": "_"} if method == CEILING else {"color": f"C{k}", "marker": "o"}
            ax.plot(x, own["value"], linestyle="", markersize=4, label=method, alpha=0.8, **style)
        ax.set_xticks(range(len(doubles)), [d.replace("+", "\n+ ") for d in doubles], fontsize=7)
        ax.set_title(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--n-genes", type=int, default=50)
    parser.add_argument("--samples", type=int, default=500, help="predicted cells")
    parser.add_argument("--one-by-one", type=int, nargs="*", default=[0], help="seeds of the second protocol")
    args = parser.parse_args(argv)
    path = data_file(args.data, FILE)

    import anndata as ad
    import matplotlib as mpl

    mpl.use("Agg")

    use_threads(args.threads)
    note = Note(
        "Combinations: doubles from their singles (CRISPRa, K562)",
        data=f"**real**: `{FILE}` (Norman et al. 2019), log-normalised values of 500 genes",
        argv=argv,
        script="real_combinations.py",
        seeds=args.seeds,
    )
    whole = ad.read_h5ad(path)
    found, others = predictable(whole.obs["perturbation"].astype(str))
    tested = [canonical(name) for name in found]
    everything = [canonical(name) for name in (*found, *others)]
    first, fits = [], []
    for seed in args.seeds:
        rows, own, _ = evaluate(whole, everything, tested, list(METHODS), args, seed)
        first += rows
        fits += own
    second = []
    for seed in args.one_by_one:
        for label in tested:
            rows, own, _ = evaluate(whole, [label], [label], SECOND, args, seed)
            second += rows
            fits += own
    counts = whole.obs["perturbation"].value_counts()
    note.text(
        f"{whole.n_obs} cells, {int((counts > 0).sum())} conditions of about {int(counts.median())} cells; "
        f"{args.n_genes} marker genes, chosen without the held-out doubles. Tested: {', '.join(tested)}. "
        f"A single is missing for {', '.join(others)}."
    )
    below = (
        "Mean ± standard deviation over seeds of the mean over doubles. Additive, control and ridge are deterministic "
        "up to the cells drawn. Two halves of the double: what no prediction can beat by more than chance."
    )
    tables = {"singles only": pd.DataFrame(first), "all doubles but one": pd.DataFrame(second)}
    for title, table in tables.items():
        if table.empty:
            continue
        note.table(f"Trained on {title}", _wide(table), below)
        note.table(f"Trained on {title}: Pearson of differences, double by double", _by_double(table, "pearson_delta"))
        note.table(f"Trained on {title}: mean distance, double by double", _by_double(table, "mean_distance"))
    shown = pd.DataFrame(fits).groupby("method").mean(numeric_only=True).drop(columns="seed").round(1).reset_index()
    note.table("Fits of GIM (means)", shown)
    save(figure(tables["singles only"]), args.out, "real_combinations")
    note.text("![Trained on singles only](real_combinations.png)")
    tidy = pd.concat([table.assign(trained_on=title) for title, table in tables.items() if len(table)])
    note.write(args.out, "real_combinations", tidy)


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    per_seed = table.groupby(["method", "metric", "seed"], sort=False)["value"].mean().reset_index()
    wide = per_seed.pivot_table(index="method", columns="metric", values="value", aggfunc=mean_and_spread, sort=False)
    return wide.reindex(columns=METRICS).reset_index()


def _by_double(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    own = table[table["metric"] == metric]
    wide = own.pivot_table(index="double", columns="method", values="value", aggfunc=mean_and_spread, sort=False)
    return wide.reset_index()


if __name__ == "__main__":
    main()
