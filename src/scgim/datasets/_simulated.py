"""SciPlex3's design with simulated cells whose graph, targets and dose responses are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator
from scgim.simulate import ancestral_sample, count_cells, draw_depths, draw_mechanisms, hill, random_dag
from scgim.simulate.interventions import atomic_interventions

if TYPE_CHECKING:
    from anndata import AnnData

CONTROL = "control"
DOSES = (10.0, 100.0, 1_000.0, 10_000.0)  # nM

#: Structures of the four drugs (free bases, without counter-ions).
SMILES = {
    "Belinostat": "O=C(/C=C/c1cccc(S(=O)(=O)Nc2ccccc2)c1)NO",
    "Dacinostat": "O=C(/C=C/c1ccc(CN(CCO)CCc2c[nH]c3ccccc23)cc1)NO",
    "Givinostat": "CCN(CC)Cc1ccc2cc(COC(=O)Nc3ccc(C(=O)NO)cc3)ccc2c1",
    "Quisinostat": "Cn1cc(CNCC2CCN(c3ncc(C(=O)NO)cn3)CC2)c2ccccc21",
}

#: Typical dose of half the effect in nM (own, in the order of potency that the screen shows).
HALF_DOSE = {"Belinostat": 3_000.0, "Dacinostat": 1_000.0, "Givinostat": 4_000.0, "Quisinostat": 40.0}


class _Line(NamedTuple):
    depth: float  # median total count
    n_control: int
    n_cells: int  # per drug and dose, before toxicity


#: Depth and numbers of cells of the three lines (own, of the order of the screen's).
LINES = {
    "A549": _Line(1_000.0, 900, 220),
    "K562": _Line(800.0, 900, 240),
    "MCF7": _Line(1_600.0, 1_000, 300),
}

# The causal network (all own).
N_NETWORK = 48
N_CLASS_TARGETS = 4  # shared by the four drugs, which are of one class
N_OWN_TARGETS = 1  # further target of each drug
NETWORK_COUNTS = (0.5, 5.0)  # mean counts of a network gene at a depth of 1,000
TARGET_COUNTS = (2.0, 5.0)  # the same of a direct target, which would otherwise not be seen to fall
EFFECT = (1.3, 2.4)  # maximal log fold change of a direct target
UP = 0.75  # share of the direct targets that rise
EXPONENT = (0.9, 1.6)
LATENT_VARIANCE = 0.25  # of the log expression, given the parents
NETWORK_OVERDISPERSION = 0.3
BACKGROUND_OVERDISPERSION = 1.0
BACKGROUND_LOG_SD = 2.0  # of the mean expression over background genes
TOXICITY = 0.5  # share of the cells lost at the full effect

NOTE = (
    "simulated: no real cell is in this data set. Design of SciPlex3 (Srivatsan et al. 2020), cells from a "
    "structural causal model with known graph, direct targets and Hill dose responses; counts are negative "
    "binomial."
)


def simulated_sciplex3(
    *, cell_lines: Sequence[str] = ("A549",), n_genes: int = 1_500, depth_factor: float = 1.0, rng: RngLike = 0
) -> AnnData:
    """Simulate SciPlex3's four HDAC inhibitors with known graph, direct targets and dose responses.

    A network of 48 genes carries the signal: `z_j = sum_i w_ij 2 tanh(z_i / 2) + e_j` is the log fold change
    of gene j over its basal expression, through a scale-free DAG. A drug replaces the mechanisms of its five
    direct targets (hard intervention): `z_j ~ N(v c^n / (k^n + c^n), 0.25)` at dose c. Four of the five
    targets are common to the drugs, as one class of inhibitors would have; potencies differ between drugs by
    two orders of magnitude. All other genes are background and do not respond. Counts are negative binomial
    around `depth * basal * exp(z)`, so that log-normalised expression has its zeros from the counting. Every
    size here is own: chosen to resemble the screen, not fitted to it.

    Parameters
    ----------
    cell_lines
        Any of "A549", "K562", "MCF7". The lines share graph, targets and dose responses, and differ in basal
        expression, depth and numbers of cells. A line's cells do not depend on which others are asked for.
    n_genes
        All genes, the 48 of the network among them; at least 100.
    depth_factor
        Multiplies the depth of every cell (800 to 1,600 counts in the median): shows what counting noise does.
    rng
        Seed or generator.

    Returns
    -------
    AnnData
        - `X`: CSR float32, raw integer counts (cells, genes).
        - `obs`: cell_line, perturbation ("control" for vehicle), dose_value (nM; 0 for the control),
          dose_unit ("nM"), replicate ("rep1", "rep2"), smiles ("" for the control), ncounts.
        - `var`: in_network (bool). Names are "SIM0001", ...
        - `varp["true_graph"]`: CSR float32, row = cause, column = effect; `varp["true_weights"]`: the w_ij.
        - `uns["truth"]`: targets (DataFrame: perturbation, gene, maximum (log fold change), half_dose (nM),
          exponent), intervention ("hard"), note.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3(n_genes=200)
    >>> sorted(adata.obs["perturbation"].unique())
    ['Belinostat', 'Dacinostat', 'Givinostat', 'Quisinostat', 'control']
    """
    lines = [cell_lines] if isinstance(cell_lines, str) else list(cell_lines)
    unknown = [line for line in lines if line not in LINES]
    if unknown or not lines or len(set(lines)) < len(lines):
        raise InvalidValue(f"cell_lines must be distinct names among {list(LINES)}, got {lines}.")
    if n_genes < 100:
        raise InvalidValue(f"n_genes must be at least 100 ({N_NETWORK} of them are the network), got {n_genes}.")
    if not (np.isfinite(depth_factor) and depth_factor > 0):
        raise InvalidValue(f"depth_factor must be a positive number, got {depth_factor}.")
    from anndata import AnnData, concat

    truth_rng, *line_rngs = as_generator(rng).spawn(1 + len(LINES))
    names = [f"SIM{gene:0{max(4, len(str(n_genes)))}d}" for gene in range(1, n_genes + 1)]
    network = np.sort(truth_rng.choice(n_genes, size=N_NETWORK, replace=False))
    network_names = [names[gene] for gene in network]
    graph = random_dag(N_NETWORK, kind="sf", rng=truth_rng)
    mechanisms = draw_mechanisms(graph, family="saturating", rng=truth_rng)
    mechanisms["noise_variance"][:] = LATENT_VARIANCE
    targets = _draw_targets(graph, network_names, truth_rng)
    is_target = np.isin(network_names, targets["gene"].astype(str))
    basal = _draw_basal(n_genes, network, is_target, truth_rng)

    parts = []
    for line, line_rng in zip(LINES, line_rngs, strict=True):
        if line not in lines:
            continue
        obs = _design(line, targets, line_rng)
        hit, effects = atomic_interventions(obs.rename(columns={"dose_value": "dose"}), targets, network_names)
        z = ancestral_sample(
            graph, mechanisms, targets=hit, effects=effects, hard_variance=LATENT_VARIANCE, rng=line_rng
        )  # (cells, network genes)
        own = basal * np.exp(0.3 * line_rng.standard_normal(n_genes))
        depths = draw_depths(len(obs), median=depth_factor * LINES[line].depth, rng=line_rng)
        rates = depths[:, None] * (own / own.sum())
        rates[:, network] *= np.exp(z)
        overdispersion = np.full(n_genes, BACKGROUND_OVERDISPERSION)
        overdispersion[network] = NETWORK_OVERDISPERSION
        counts = count_cells(rates, overdispersion=overdispersion, rng=line_rng)
        obs["ncounts"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
        parts.append(AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(names))))
    adata = concat(parts)
    for column in ("cell_line", "perturbation", "dose_unit", "replicate", "smiles"):
        adata.obs[column] = adata.obs[column].astype("category")
    adata.var["in_network"] = np.isin(np.arange(n_genes), network)
    for key, values in (("true_graph", graph), ("true_weights", mechanisms["weights"])):
        adata.varp[key] = _embed(values, network, n_genes)
    adata.uns["truth"] = {"targets": targets, "intervention": "hard", "note": NOTE}
    return adata


def _draw_targets(graph: np.ndarray, names: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """Hill curve of every (drug, direct target); targets are regulators, so that effects spread."""
    regulators = np.flatnonzero(graph.sum(axis=1) > 0)
    n_targets = N_CLASS_TARGETS + N_OWN_TARGETS * len(SMILES)
    weight = graph.sum(axis=1)[regulators].astype(float)
    chosen = rng.choice(regulators, size=n_targets, replace=False, p=weight / weight.sum())
    maximum = rng.uniform(*EFFECT, size=n_targets) * np.where(rng.random(n_targets) < UP, 1.0, -1.0)
    rows = []
    for index, drug in enumerate(SMILES):
        first = N_CLASS_TARGETS + index * N_OWN_TARGETS
        for position in (*range(N_CLASS_TARGETS), *range(first, first + N_OWN_TARGETS)):
            height = maximum[position] * rng.uniform(0.85, 1.15)
            half_dose = HALF_DOSE[drug] * np.exp(0.3 * rng.standard_normal())
            rows.append((drug, names[chosen[position]], height, half_dose, rng.uniform(*EXPONENT)))
    return pd.DataFrame(rows, columns=["perturbation", "gene", "maximum", "half_dose", "exponent"])


def _draw_basal(n_genes: int, network: np.ndarray, is_target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Basal share of every gene in the counts of a cell; sums to 1."""
    share = np.exp(BACKGROUND_LOG_SD * rng.standard_normal(n_genes))
    low, high = np.where(is_target, np.log(TARGET_COUNTS)[:, None], np.log(NETWORK_COUNTS)[:, None])
    share[network] = np.exp(rng.uniform(low, high)) / 1_000.0
    background = np.ones(n_genes, dtype=bool)
    background[network] = False
    share[background] *= (1.0 - share[network].sum()) / share[background].sum()
    return share


def _design(line: str, targets: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One row per cell, in random order; fewer cells where the dose is effective."""
    groups = [(CONTROL, 0.0, LINES[line].n_control)]
    for drug in SMILES:
        exponent = float(targets.loc[targets["perturbation"] == drug, "exponent"].mean())
        for dose in DOSES:
            alive = 1.0 - TOXICITY * float(hill(dose, 1.0, HALF_DOSE[drug], exponent))
            groups.append((drug, dose, int(rng.poisson(LINES[line].n_cells * alive))))
    table = pd.DataFrame(groups, columns=["perturbation", "dose_value", "n_cells"])
    obs = table.loc[np.repeat(table.index, table["n_cells"]), ["perturbation", "dose_value"]]
    obs = obs.iloc[rng.permutation(len(obs))].copy()
    obs.index = pd.Index([f"{line}_cell{cell:05d}" for cell in range(len(obs))])
    obs.insert(0, "cell_line", line)
    obs["dose_unit"] = "nM"
    obs["replicate"] = np.where(rng.random(len(obs)) < 0.5, "rep1", "rep2")
    obs["smiles"] = obs["perturbation"].map({**SMILES, CONTROL: ""})
    return obs


def _embed(values: np.ndarray, network: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """A (network, network) array as sparse (genes, genes)."""
    row, column = np.nonzero(values)
    data = values[row, column].astype(np.float32)
    return sparse.csr_matrix((data, (network[row], network[column])), shape=(n_genes, n_genes))
