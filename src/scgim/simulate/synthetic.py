"""The synthetic perturbation experiment: known graph, targets and Hill curves, as AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from .._rng import RngLike, as_generator
from .features import FeatureMap
from .graphs import GraphKind, random_dag
from .interventions import InterventionKind, atomic_interventions, draw_hill_parameters, draw_target_sets
from .mechanisms import HARD_VARIANCE, Family, ancestral_sample, draw_mechanisms

if TYPE_CHECKING:
    from anndata import AnnData

CONTROL = "control"

#: Range of the Hill maxima (own). For "ziln" the effect is on the log scale, where 6 is a factor of 400.
MAXIMUM = {
    ("gaussian", "hard"): (2.0, 6.0),
    ("gaussian", "shift"): (1.0, 5.0),
    ("ziln", "hard"): (1.0, 2.5),
    ("ziln", "shift"): (0.5, 2.0),
}


def synthetic(
    *,
    n_genes: int = 20,
    graph: GraphKind = "er",
    mechanism: Family = "linear",
    intervention: InterventionKind = "hard",
    n_perturbations: int = 40,
    doses: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    cells_per_condition: int = 50,
    n_control: int = 800,
    n_features: int = 20,
    n_new_targets: int = 20,
    new_doses: Sequence[float] = (0.25, 0.75, 1.25, 1.75, 2.25),
    edges_per_gene: float = 2.0,
    rng: RngLike = 0,
) -> AnnData:
    """Simulate a perturbation experiment whose graph, targets and dose responses are known.

    Every perturbation has one or two targets, uniform over all subsets of that size (no two perturbations
    share a set), each with its own Hill curve `v c^n / (k^n + c^n)` of the dose c. The training data are the
    control and `n_perturbations` perturbations at `doses`; "new_dose" holds the same perturbations at
    `new_doses`, "new_target" `n_new_targets` other target sets at `doses`.

    Parameters
    ----------
    n_genes
        Number of genes (own: 20).
    graph
        "er" (Erdős-Rényi) or "sf" (scale-free), see `random_dag`.
    mechanism
        "linear", "mlp", "ziln" or "saturating", see `draw_mechanisms`.
    intervention
        "hard" (v ~ U[2, 6], the target is N(effect, 0.5)) or "shift" (v ~ U[1, 5], added); k ~ U[0.5, 2],
        n ~ U[1, 5] (all own). For "ziln" effects are log locations: v ~ U[1, 2.5] and U[0.5, 2] (own).
    n_perturbations, doses
        The training design.
    cells_per_condition, n_control
        Cells of every perturbed condition (of all three splits) and of the control.
    n_features
        p, the number of principal components kept (own: 20); at most `2 * n_genes`.
    n_new_targets, new_doses
        The two kinds of held-out conditions; 0 and () leave them out.
    edges_per_gene
        Expected edges per gene (own: 2).
    rng
        Seed or generator.

    Returns
    -------
    AnnData
        - `X`: float32 (cells, genes); >= 0 for "ziln", real otherwise.
        - `obs`: condition ("p07_0.5"; "control"), perturbation, dose (0 for the control), split ("train",
          "new_dose", "new_target"; the control is "train").
        - `varp["true_graph"]`: CSR float32, row = cause, column = effect.
        - `uns["truth"]`: conditions (DataFrame: condition, perturbation, dose, split, is_control; control
          first), targets uint8, effects float32 (both conditions x genes), features float32 (conditions x p;
          the control's row is 0 and means nothing), hill (DataFrame: perturbation, gene, maximum, half_dose,
          exponent), mechanisms, feature_map (mean, scale, components), intervention, hard_variance, params.

    Raises
    ------
    ValueError
        If an argument is unknown or out of range, before anything is drawn.

    Notes
    -----
    The design (40 perturbations, doses, numbers of cells, held-out conditions) is that of the synthetic
    experiment of Schneider et al. (2025), arXiv 2411.14003; values marked own are choices of this package.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.simulate.synthetic(n_genes=10, n_perturbations=6, n_new_targets=3, rng=1)
    >>> adata.obs["split"].cat.categories.tolist()
    ['train', 'new_dose', 'new_target']
    """
    _check_arguments(
        mechanism, intervention, n_genes, n_perturbations, doses, cells_per_condition, n_control, n_features,
        n_new_targets, new_doses,
    )  # fmt: skip
    from anndata import AnnData

    seed = -1 if rng is None or isinstance(rng, np.random.Generator) else int(rng)
    # Independent streams: the truth does not change with the number of cells.
    graph_rng, mechanism_rng, target_rng, hill_rng, cell_rng = as_generator(rng).spawn(5)
    genes = [f"g{gene:0{len(str(n_genes - 1))}d}" for gene in range(n_genes)]
    n_sets = n_perturbations + n_new_targets
    names = [f"p{index:0{max(2, len(str(n_sets - 1)))}d}" for index in range(n_sets)]
    sets = draw_target_sets(n_genes, n_sets, rng=target_rng)
    dag = random_dag(n_genes, kind=graph, edges_per_gene=edges_per_gene, rng=graph_rng)
    mechanisms = draw_mechanisms(dag, family=mechanism, rng=mechanism_rng)
    scale = "ziln" if mechanism == "ziln" else "gaussian"
    hill_table = draw_hill_parameters(names, sets, genes, maximum=MAXIMUM[scale, intervention], rng=hill_rng)

    conditions = _conditions(names[:n_perturbations], names[n_perturbations:], doses, new_doses)
    targets, effects = atomic_interventions(conditions, hill_table, genes)
    effects = effects.astype(np.float32)
    fitted = (conditions["split"] == "train").to_numpy() & ~conditions["is_control"].to_numpy()
    feature_map = FeatureMap.fit(targets[fitted], effects[fitted], n_features)
    features = feature_map(targets, effects)
    features[conditions["is_control"].to_numpy()] = 0.0

    sizes = np.where(conditions["is_control"], n_control, cells_per_condition)
    of_cell = np.repeat(np.arange(len(conditions)), sizes)
    x = ancestral_sample(
        dag,
        mechanisms,
        targets=targets[of_cell],
        effects=effects[of_cell],
        intervention=intervention,
        rng=cell_rng,
    )
    obs = conditions.loc[of_cell, ["condition", "perturbation", "dose", "split"]]
    obs.index = pd.Index([f"cell{cell}" for cell in range(len(obs))])
    for column in ("condition", "perturbation", "split"):
        obs[column] = pd.Categorical(obs[column], categories=pd.unique(conditions[column]))
    adata = AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    adata.varp["true_graph"] = sparse.csr_matrix(dag, dtype=np.float32)
    adata.uns["truth"] = {
        "conditions": conditions,
        "targets": targets,
        "effects": effects,
        "features": features,
        "hill": hill_table,
        "mechanisms": mechanisms,
        "feature_map": feature_map.to_dict(),
        "intervention": intervention,
        "hard_variance": HARD_VARIANCE,
        "params": {
            "graph": graph,
            "mechanism": mechanism,
            "intervention": intervention,
            "edges_per_gene": float(edges_per_gene),
            "doses": np.asarray(doses, dtype=float),
            "new_doses": np.asarray(new_doses, dtype=float),
            "seed": seed,
        },
    }
    return adata


def _check_arguments(
    mechanism: str,
    intervention: str,
    n_genes: int,
    n_perturbations: int,
    doses: Sequence[float],
    cells_per_condition: int,
    n_control: int,
    n_features: int,
    n_new_targets: int,
    new_doses: Sequence[float],
) -> None:
    for name, value, choices in (
        ("mechanism", mechanism, get_args(Family)),
        ("intervention", intervention, get_args(InterventionKind)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}.")
    minima = {
        "n_genes": (n_genes, 2),
        "n_perturbations": (n_perturbations, 1),
        "cells_per_condition": (cells_per_condition, 1),
        "n_control": (n_control, 1),
        "n_features": (n_features, 1),
        "n_new_targets": (n_new_targets, 0),
    }
    for name, (number, minimum) in minima.items():
        if number < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {number}.")
    if n_features > 2 * n_genes:
        raise ValueError(
            f"n_features = {n_features} exceeds the {2 * n_genes} columns of [targets, effects]: "
            f"pass n_features <= 2 * n_genes."
        )
    for name, values in (("doses", doses), ("new_doses", new_doses)):
        array = np.asarray(values, dtype=float)
        if array.ndim != 1 or not np.isfinite(array).all() or (array <= 0).any():
            raise ValueError(f"{name} must be positive finite numbers (0 is the control), got {list(values)}.")
        if len(set(array)) < len(array):
            raise ValueError(f"{name} holds a dose twice: {list(values)}.")
    if len(doses) == 0:
        raise ValueError("doses must hold at least one dose.")
    seen = sorted(set(doses) & set(new_doses))
    if seen:
        raise ValueError(f"new_doses must differ from doses, both hold {seen}.")


def _conditions(
    trained: Sequence[str], held_out: Sequence[str], doses: Sequence[float], new_doses: Sequence[float]
) -> pd.DataFrame:
    rows: list[tuple[str, str, float, str]] = [(CONTROL, CONTROL, 0.0, "train")]
    for split, names, levels in (
        ("train", trained, doses),
        ("new_dose", trained, new_doses),
        ("new_target", held_out, doses),
    ):
        rows += [(f"{name}_{dose:g}", name, float(dose), split) for name in names for dose in levels]
    table = pd.DataFrame(rows, columns=["condition", "perturbation", "dose", "split"])
    table["is_control"] = table["perturbation"] == CONTROL
    return table
