"""The synthetic perturbation experiment as AnnData, and the ground truth of any of its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from scgim._errors import InvalidValue, NotFound
from scgim._rng import RngLike, as_generator
from scgim._validation import check_choice, check_int

from .interventions import FeatureMap, InterventionKind, atomic_interventions, draw_hill_parameters, draw_target_sets
from .systems import HARD_VARIANCE, Family, GraphKind, ancestral_sample, draw_mechanisms, random_dag

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
    for name, value, kinds in (
        ("graph", graph, GraphKind), ("mechanism", mechanism, Family), ("intervention", intervention, InterventionKind),
    ):  # fmt: skip
        check_choice(value, name, get_args(kinds))
    for name, number, least in (
        ("n_genes", n_genes, 2), ("n_perturbations", n_perturbations, 1), ("n_features", n_features, 1),
        ("n_new_targets", n_new_targets, 0), ("cells_per_condition", cells_per_condition, 1),
        ("n_control", n_control, 1),
    ):  # fmt: skip
        check_int(number, name, least=least)
    if n_features > 2 * n_genes:
        raise InvalidValue(
            f"n_features = {n_features} exceeds the {2 * n_genes} columns of [targets, effects]: "
            f"pass n_features <= 2 * n_genes."
        )
    _check_doses(doses, new_doses)
    from anndata import AnnData

    # Independent streams: the truth does not change with the number of cells.
    graph_rng, mechanism_rng, target_rng, hill_rng, cell_rng = as_generator(rng).spawn(5)
    genes = [f"g{gene:0{len(str(n_genes - 1))}d}" for gene in range(n_genes)]
    n_sets = n_perturbations + n_new_targets
    names = [f"p{index:0{max(2, len(str(n_sets - 1)))}d}" for index in range(n_sets)]
    sets = draw_target_sets(n_genes, n_sets, rng=target_rng)
    dag = random_dag(n_genes, kind=graph, edges_per_gene=edges_per_gene, rng=graph_rng)
    mechanisms = draw_mechanisms(dag, family=mechanism, rng=mechanism_rng)
    maximum = MAXIMUM["ziln" if mechanism == "ziln" else "gaussian", intervention]
    hill_table = draw_hill_parameters(names, sets, genes, maximum=maximum, rng=hill_rng)
    conditions = _conditions(names[:n_perturbations], names[n_perturbations:], doses, new_doses)
    truth = {"conditions": conditions, **_interventions(conditions, hill_table, genes, n_features)}

    n_cells = np.where(conditions["is_control"], n_control, cells_per_condition)
    of_cell = np.repeat(np.arange(len(conditions)), n_cells)
    targets, effects = truth["targets"][of_cell], truth["effects"][of_cell]
    x = ancestral_sample(dag, mechanisms, targets=targets, effects=effects, intervention=intervention, rng=cell_rng)
    obs = conditions.loc[of_cell, ["condition", "perturbation", "dose", "split"]]
    obs.index = pd.Index([f"cell{cell}" for cell in range(len(obs))])
    for column in ("condition", "perturbation", "split"):
        obs[column] = pd.Categorical(obs[column], categories=pd.unique(conditions[column]))
    adata = AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    adata.varp["true_graph"] = sparse.csr_matrix(dag, dtype=np.float32)
    params = {
        "graph": graph, "mechanism": mechanism, "intervention": intervention, "edges_per_gene": float(edges_per_gene),
        "doses": np.asarray(doses, dtype=float), "new_doses": np.asarray(new_doses, dtype=float),
        "seed": -1 if rng is None or isinstance(rng, np.random.Generator) else int(rng),
    }  # fmt: skip
    adata.uns["truth"] = {
        **truth, "hill": hill_table, "mechanisms": mechanisms, "intervention": intervention,
        "hard_variance": HARD_VARIANCE, "params": params,
    }  # fmt: skip
    return adata


def _interventions(conditions: pd.DataFrame, hill_table: pd.DataFrame, genes: list[str], n: int) -> dict[str, Any]:
    """Targets, effects and features of the conditions; the map to features is fitted on the trained ones."""
    targets, effects = atomic_interventions(conditions, hill_table, genes)
    effects = effects.astype(np.float32)
    is_control = conditions["is_control"].to_numpy()
    fitted = (conditions["split"] == "train").to_numpy() & ~is_control
    feature_map = FeatureMap.fit(targets[fitted], effects[fitted], n)
    features = feature_map(targets, effects)
    features[is_control] = 0.0
    return {"targets": targets, "effects": effects, "features": features, "feature_map": feature_map.to_dict()}


def _check_doses(doses: Sequence[float], new_doses: Sequence[float]) -> None:
    for name, values in (("doses", doses), ("new_doses", new_doses)):
        array = np.asarray(values, dtype=float)
        if array.ndim != 1 or not np.isfinite(array).all() or (array <= 0).any():
            raise InvalidValue(f"{name} must be positive finite numbers (0 is the control), got {list(values)}.")
        if len(set(array)) < len(array):
            raise InvalidValue(f"{name} holds a dose twice: {list(values)}.")
    if len(doses) == 0:
        raise InvalidValue("doses must hold at least one dose.")
    seen = sorted(set(doses) & set(new_doses))
    if seen:
        raise InvalidValue(f"new_doses must differ from doses, both hold {seen}.")


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


def sample_truth(adata: AnnData, *, targets: np.ndarray, effects: np.ndarray, n: int, rng: RngLike = 0) -> np.ndarray:
    """Draw cells from the true model under any atomic interventions.

    Parameters
    ----------
    adata
        What `synthetic` returned, also after a round trip through a file.
    targets, effects
        (genes,) for one condition or (conditions, genes): which mechanisms are replaced, and the hard mean or
        the shift. All-zero targets give control cells.
    n
        Cells per condition.
    rng
        Seed or generator.

    Returns
    -------
    numpy.ndarray
        float32, (n, genes) for one condition, (conditions, n, genes) otherwise.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.simulate.synthetic(n_perturbations=4, n_new_targets=2)
    >>> truth = adata.uns["truth"]
    >>> targets, effects = truth["targets"][1], truth["effects"][1]
    >>> scgim.simulate.sample_truth(adata, targets=targets, effects=effects, n=5).shape
    (5, 20)
    """
    truth = _truth(adata)
    targets, effects = np.asarray(targets), np.asarray(effects)
    if targets.shape != effects.shape or targets.ndim not in (1, 2) or targets.shape[-1] != adata.n_vars:
        raise InvalidValue(
            f"targets and effects must both be ({adata.n_vars},) or (conditions, {adata.n_vars}), "
            f"got {targets.shape} and {effects.shape}."
        )
    x = ancestral_sample(
        adata.varp["true_graph"].toarray(),
        truth["mechanisms"],
        targets=np.repeat(np.atleast_2d(targets), n, axis=0),
        effects=np.repeat(np.atleast_2d(effects), n, axis=0),
        intervention=truth["intervention"],
        hard_variance=float(truth["hard_variance"]),
        rng=rng,
    ).astype(np.float32)
    return x if targets.ndim == 1 else x.reshape(len(targets), n, adata.n_vars)


def truth_at(
    adata: AnnData, *, perturbations: Sequence[tuple[str, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True targets, effects and features of simulated perturbations at any dose.

    Parameters
    ----------
    adata
        What `synthetic` returned.
    perturbations
        (perturbation, dose) pairs; the doses need not have been simulated.

    Returns
    -------
    tuple of np.ndarray
        targets uint8 and effects float32 (conditions, genes), features float32 (conditions, p).

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.simulate.synthetic(n_perturbations=4, n_new_targets=2)
    >>> targets, effects, features = scgim.simulate.truth_at(adata, perturbations=[("p00", 1.1)])
    >>> features.shape
    (1, 20)
    """
    truth = _truth(adata)
    table = pd.DataFrame(perturbations, columns=["perturbation", "dose"])
    known = set(truth["hill"]["perturbation"].astype(str))
    missing = sorted(set(table["perturbation"]) - known)
    if missing:
        raise NotFound(f"perturbations {missing} were not simulated; there are {sorted(known)}.")
    targets, effects = atomic_interventions(table, truth["hill"], list(adata.var_names))
    effects = effects.astype(np.float32)
    return targets, effects, FeatureMap(**truth["feature_map"])(targets, effects)


def _truth(adata: AnnData) -> dict[str, Any]:
    if "truth" not in adata.uns or "true_graph" not in adata.varp or "mechanisms" not in adata.uns["truth"]:
        raise NotFound(
            "adata carries no simulated truth (uns['truth'] with 'mechanisms', varp['true_graph']): "
            "pass what scgim.simulate.synthetic returned, with all its genes."
        )
    return adata.uns["truth"]
