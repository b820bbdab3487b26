"""`scgim demo`: the whole workflow on simulated data, compared with baselines and with the known truth."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd

from ._apart import Apart
from .baselines.protocol import Baseline, draw_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from ._rng import RngLike
    from .data import Condition, PerturbationData

DRUG, DOSE = "Dacinostat", 10_000.0
#: Doses in nM of the predicted curve: those of the design, and four between and below them.
CURVE = (3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
BASELINES = ("control", "next_lower_dose", "mean_shift", "ridge")
#: Name of the second fit, by the paper's mechanism, among the methods; the first is "gim".
ZILN = "gim (ziln)"
#: What `quick` changes: it shows that everything runs, not how well.
QUICK: dict[str, Any] = {"n_genes": 20, "max_steps": 200}


class Demo(NamedTuple):
    """What `run_demo` found."""

    adata: AnnData  # the cells with the fit
    ziln: AnnData  # the same with the fit of mechanism="ziln"
    cells: AnnData  # predicted by the first, over the doses of the curve
    evaluation: pd.DataFrame  # as `scgim.tl.evaluate` returns it
    truth: pd.DataFrame  # as `compare_with_truth` returns it


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    quick: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Demo:
    """Simulate, prepare, fit with one dose held out, predict it, compare, draw and write everything.

    Two models are fitted side by side, in two processes: that of `scgim.tl.fit_gim` by default (behind the
    counts), and ``mechanism="ziln"``, the paper's.

    Parameters
    ----------
    out
        Folder to write into; made where it does not exist. Files of an earlier run are overwritten.
    seed
        Seed of the data, the fit and the predictions.
    steps
        Maximum number of training steps; None: the default of `scgim.tl.fit_gim`.
    quick
        20 genes and 200 steps: shows that everything runs, not how well.
    device, progress
        As for `scgim.tl.fit_gim`.

    Returns
    -------
    Demo
        The cells with each fit, the predicted cells, the comparison with baselines and that with the truth.
        Written into `out`: `fit.h5ad`, `fit_ziln.h5ad`, `cells.h5ad`, `evaluation.csv`, `truth.csv`, and the figures
        `marginals.png`, `graph.png`, `graph_ziln.png`, `targets.png`, `targets_ziln.png`, `dose_response.png`,
        `history.png`, `metrics.png`.

    Raises
    ------
    OSError
        If `out` is a file, or cannot be written to.
    """
    from . import datasets, pp, tl

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    small = QUICK if quick else {}
    max_steps = steps or small.get("max_steps")
    adata = datasets.simulated_sciplex3(rng=seed)
    pp.prepare(
        adata,
        dose_key="dose_value",
        dose_unit_key="dose_unit",
        hold_out={DRUG: DOSE},
        features="potency",
        n_genes=small.get("n_genes", 50),
        rng=seed,
    )
    start = time.perf_counter()
    limit = {} if max_steps is None else {"max_steps": max_steps}
    settings = {"rng": seed, "device": device, **limit}
    beside = Apart(_fit_ziln, adata, settings)
    try:
        tl.fit_gim(adata, progress=progress, **settings)
        if str(adata.uns["gim"]["params"]["fit"]["stopped"]) == "interrupted":
            raise KeyboardInterrupt  # half a fit would be no demonstration
        ziln = beside.result()
    finally:
        beside.end()
    seconds = time.perf_counter() - start
    cells = tl.sample_cells(adata, perturbations=[(DRUG, dose) for dose in CURVE], n=500, rng=seed)
    held_out = cells[cells.obs["dose"] == DOSE].copy()
    other = _Sampled(tl.sample_cells(ziln, perturbations=[(DRUG, DOSE)], n=500, rng=seed))
    evaluation = tl.evaluate(adata, held_out, baselines=[other, *BASELINES], rng=seed)
    truth = pd.concat([compare_with_truth(adata), compare_with_truth(ziln)], keys=["gim", ZILN], names=["method"])
    demo = Demo(adata, ziln, cells, evaluation, truth.reset_index(level="method"))

    adata.write_h5ad(folder / "fit.h5ad")
    ziln.write_h5ad(folder / "fit_ziln.h5ad")
    cells.write_h5ad(folder / "cells.h5ad")
    evaluation.to_csv(folder / "evaluation.csv", index=False)
    demo.truth.to_csv(folder / "truth.csv", index=False)
    _draw(folder, demo, held_out)
    print(report(demo, seconds, folder))
    return demo


def _fit_ziln(limited: AbstractContextManager[None], adata: AnnData, settings: dict[str, Any]) -> AnnData:
    from . import tl

    with limited:
        tl.fit_gim(adata, mechanism="ziln", progress=False, **settings)
    return adata


class _Sampled(Baseline):
    """Cells that the second fit predicts, as a method to compare with."""

    name: ClassVar[str] = ZILN

    def __init__(self, cells: AnnData) -> None:
        self.cells = np.asarray(cells.X)

    def fit(self, data: PerturbationData, rng: RngLike = 0) -> Self:
        return self

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        return draw_cells(self.cells, n, rng)


def compare_with_truth(adata: AnnData, *, key: str = "gim", group: str | None = None) -> pd.DataFrame:
    """Learned edges and targets against those of the simulation, among the modelled genes.

    Genes of the true network that are not modelled are left out: an effect that runs through one of them
    has no edge of its own in the truth, so that an edge learned for it counts as wrong.

    Parameters
    ----------
    adata
        From `scgim.datasets.simulated_sciplex3`, fitted.
    key, group
        Which fit.

    Returns
    -------
    pandas.DataFrame
        Rows: edges, edges without direction, targets (all conditions), targets (held-out conditions).
        Columns: true, learned, correct (numbers), f1, and f1_random: what as many edges or targets drawn at
        random would reach in expectation.
    """
    import networkx as nx

    from . import get
    from .slots.keys import Keys

    genes = adata.var_names[adata.var[Keys(key, group).genes].to_numpy(dtype=bool)]
    true = adata[:, genes].varp["true_graph"].toarray() > 0
    learned = nx.to_numpy_array(get.graph(adata, key=key, group=group), nodelist=genes, weight=None) > 0
    upper, off_diagonal = np.triu_indices(len(genes), k=1), ~np.eye(len(genes), dtype=bool)
    truth = adata.uns["truth"]["targets"][["perturbation", "gene"]].astype(str)
    table = get.targets(adata, key=key, group=group)
    table = table[table["perturbation"].isin(truth["perturbation"])]
    is_true = pd.MultiIndex.from_frame(table[["perturbation", "gene"]]).isin(pd.MultiIndex.from_frame(truth))
    is_called, tested = table["is_target"].to_numpy(dtype=bool), (table["split"] == "test").to_numpy()
    rows = {
        "edges": (true[off_diagonal], learned[off_diagonal]),
        "edges without direction": ((true | true.T)[upper], (learned | learned.T)[upper]),
        "targets": (is_true, is_called),
        "targets, held-out dose": (is_true[tested], is_called[tested]),
    }
    return pd.DataFrame([{"what": name, **_compare(*pair)} for name, pair in rows.items()])


def _compare(true: np.ndarray, learned: np.ndarray) -> dict[str, float]:
    n_true, n_learned, correct = int(true.sum()), int(learned.sum()), int((true & learned).sum())
    half = max(n_true + n_learned, 1) / 2
    at_random = n_true * n_learned / max(true.size, 1)
    found = {"true": n_true, "learned": n_learned, "correct": correct}
    return {**found, "f1": correct / half, "f1_random": at_random / half}


def count_downstream(adata: AnnData, *, key: str = "gim", group: str | None = None) -> pd.DataFrame:
    """Genes that are no direct targets, and how many of these lie downstream of a direct one.

    Parameters
    ----------
    adata, key, group
        As for :func:`compare_with_truth`.

    Returns
    -------
    pandas.DataFrame
        Rows: called (those that the fit calls targets, wrongly), all (every modelled gene, called or not).
        Columns: wrong (pairs of a perturbed condition and a gene), downstream (those that the true graph
        reaches from a direct target of the condition).
    """
    import networkx as nx

    from . import get

    graph = nx.from_scipy_sparse_array(adata.varp["true_graph"], create_using=nx.DiGraph)
    direct = adata.uns["truth"]["targets"].astype({"perturbation": str, "gene": str})
    table = get.targets(adata, key=key, group=group)
    counts = np.zeros((2, 2), dtype=int)
    for perturbation, genes in direct.groupby("perturbation")["gene"]:
        places = adata.var_names.get_indexer(genes)
        reached = adata.var_names[sorted({i for place in places for i in nx.descendants(graph, place)})]
        others = table[(table["perturbation"] == perturbation) & ~table["gene"].isin(genes)]
        for row, pairs in enumerate((others[others["is_target"]], others)):
            counts[row] += len(pairs), int(pairs["gene"].isin(reached).sum())
    return pd.DataFrame(counts, index=["called", "all"], columns=["wrong", "downstream"])


def _draw(folder: Path, demo: Demo, held_out: AnnData) -> None:
    import matplotlib.pyplot as plt

    from . import pl

    adata, condition = demo.adata, str(held_out.obs["condition"].iloc[0])
    drawings: dict[str, Callable[[], Any]] = {
        "marginals": lambda: pl.marginals(adata, held_out),
        "graph": lambda: pl.graph(adata, condition=condition),
        "graph_ziln": lambda: pl.graph(demo.ziln, condition=condition),
        "targets": lambda: pl.targets(adata),
        "targets_ziln": lambda: pl.targets(demo.ziln),
        "dose_response": lambda: pl.dose_response(adata, predicted=demo.cells, perturbation=DRUG),
        "history": lambda: pl.history(adata),
        "metrics": lambda: pl.metrics(demo.evaluation),
    }
    for name, draw in drawings.items():
        axes = draw()
        figure = (axes[0] if isinstance(axes, np.ndarray) else axes).figure
        figure.text(0.5, 0.0, "Simulated data", ha="center", va="top", size=8, style="italic")
        figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
        plt.close(figure)


def report(demo: Demo, seconds: float, folder: Path) -> str:
    """The tables that `scgim demo` prints."""
    methods, metrics = (demo.evaluation[name].drop_duplicates() for name in ("method", "metric"))
    wide = demo.evaluation.pivot(index="method", columns="metric", values="value")
    wide = wide.loc[methods, metrics].rename_axis(index=None, columns=None)
    conclusion = textwrap.fill(demo.evaluation.attrs["conclusion"], 95)
    downstream = "\n".join(_downstream(name, fit) for name, fit in (("gim", demo.adata), (ZILN, demo.ziln)))
    rows = demo.truth.set_index(["what", "method"]).rename_axis([None, None])
    rows = rows.loc[[(what, name) for what in demo.truth["what"].unique() for name in ("gim", ZILN)]]
    n_genes, n_conditions = int(demo.adata.var["gim"].sum()), len(demo.adata.uns["gim"]["conditions"])
    n_cells = int(demo.adata.obs["gim_condition"].notna().sum())
    return f"""
SIMULATED DATA: no real cell is in these numbers.
{n_genes} genes, {n_conditions} conditions, {n_cells} cells; fitted in {seconds:.0f} s; {DRUG} at {DOSE:g} nM held out.

gim is the default, behind the raw counts; {ZILN} is mechanism="ziln", the paper's, of normalised values.

Predicted against held-out cells, {DRUG} at {DOSE:g} nM (pearson_delta and de_overlap: higher is
better; other columns: lower is better; own control: model without drug; two halves: of the cells):
{wide.to_string(float_format="{:.3f}".format, na_rep="-")}
{conclusion}

Learned against true structure, among the modelled genes (f1_random: as many drawn at random):
{rows.to_string(float_format="{:.2f}".format)}
{downstream}

Written to {folder}: fit.h5ad, fit_ziln.h5ad, cells.h5ad, evaluation.csv, truth.csv and eight figures."""


def _downstream(name: str, adata: AnnData) -> str:
    counts = count_downstream(adata)
    share = counts["downstream"] / counts["wrong"].clip(lower=1)
    return (
        f"{name}: of the {counts.loc['called', 'wrong']} called targets that are no direct ones, {share['called']:.0%} "
        f"lie downstream of a direct one (of all genes that are none: {share['all']:.0%})."
    )
