"""What a fit found and how it was made, as tables; and names that a user asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue, NotFound
from scgim._validation import check_number, listing, suggestion
from scgim.slots import Entry, read_entry
from scgim.slots.codec import from_storable


def graph(
    adata: ad.AnnData,
    *,
    threshold: float | None = None,
    key: str = "gim",
    group: str | None = None,
) -> nx.DiGraph:
    """The learned causal graph.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    threshold
        Keep only the edges with at least this probability. None: those with a probability of 1/2 or more, which is
        the graph of the fit. Below that there are edges only of a fit with several members.
    key, group
        The `key_added` that was given to `pp.prepare`, and the value of its `groupby` column.

    Returns
    -------
    networkx.DiGraph
        A directed acyclic graph. Every modelled gene is a node, with or without edges, in the order of
        `adata.var`; an edge points from cause to effect and carries `probability` (between 0 and 1).

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If `threshold` is not a probability, the group is wrong, or genes of the fit were removed.

    Examples
    --------
    >>> import networkx as nx, scgim
    >>> dag = scgim.get.graph(adata)  # doctest: +SKIP
    >>> list(nx.topological_generations(dag))  # doctest: +SKIP
    """
    entry = read_entry(adata, key, group, fitted=True)
    least = 0.5 if threshold is None else _probability(threshold, "threshold")
    dag = nx.DiGraph()
    dag.add_nodes_from(genes_of(adata, entry))
    edges = stored_table(entry, "graph", ("source", "target", "probability"))
    for source, target, probability in edges.itertuples(index=False):
        if probability >= least:
            dag.add_edge(str(source), str(target), probability=float(probability))
    return dag


def targets(
    adata: ad.AnnData,
    *,
    conditions: str | Iterable[str] | None = None,
    perturbations: str | Iterable[str] | None = None,
    genes: str | Iterable[str] | None = None,
    min_probability: float | None = None,
    called_only: bool = False,
    key: str = "gim",
    group: str | None = None,
) -> pd.DataFrame:
    """Which genes each condition targets, one row per condition and gene.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    conditions
        Labels of the conditions to keep; None keeps all.
    perturbations
        Perturbations to keep, at all their doses; None keeps all.
    genes
        Genes to keep; None keeps all that are modelled.
    min_probability
        Keep rows with at least this target probability.
    called_only
        Keep only the targets that the fit calls (`is_target`).
    key, group
        The `key_added` that was given to `pp.prepare`, and the value of its `groupby` column.

    Returns
    -------
    pandas.DataFrame
        A new table with the columns `condition`, `perturbation`, `dose` (NaN where there is none), `split`,
        `gene`, `probability` (between 0 and 1), `is_target`, `effect` (mean of the gene under the replaced mechanism;
        for shift interventions the shift), `control_mean` (of `adata.X`, training cells), `log2_fold_change` of (1 +
        normalised counts) that the intervention itself makes (NaN for continuous data) and its `direction` (-1, 0, 1).
        Rows keep the order of the table of conditions, then that of the fit.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If a condition, perturbation or gene is unknown, or the group is wrong.

    Examples
    --------
    >>> import scgim
    >>> scgim.get.targets(adata, perturbations="Dacinostat", called_only=True)  # doctest: +SKIP
    """
    slots = read_entry(adata, key, group, fitted=True)
    about = slots.conditions[["condition", "perturbation", "dose", "split"]]
    stored = stored_table(slots, "targets", ("condition", "gene", "probability", "is_target"), others=True)
    stored = stored.astype({"condition": str, "gene": str, "is_target": bool})
    keep = pd.Series(True, index=stored.index)
    if conditions is not None:
        keep &= stored["condition"].isin(check_known(conditions, about["condition"].tolist(), "condition"))
    if perturbations is not None:
        known = about["perturbation"].drop_duplicates().tolist()
        names = check_known(perturbations, known, "perturbation")
        keep &= stored["condition"].isin(about.loc[about["perturbation"].isin(names), "condition"])
    if genes is not None:
        keep &= stored["gene"].isin(check_known(genes, genes_of(adata, slots), "gene"))
    if min_probability is not None:
        keep &= stored["probability"] >= _probability(min_probability, "min_probability")
    if called_only:
        keep &= stored["is_target"]
    table = about.merge(stored[keep], on="condition", how="inner", sort=False)
    first = ["condition", "perturbation", "dose", "split", "gene", "probability", "is_target"]
    return table[first + [column for column in table.columns if column not in first]]


def history(adata: ad.AnnData, *, key: str = "gim", group: str | None = None) -> pd.DataFrame:
    """What was recorded while fitting.

    Parameters
    ----------
    adata
        Fitted with `tl.fit_gim`. Nothing is written.
    key, group
        The `key_added` that was given to `pp.prepare`, and the value of its `groupby` column.

    Returns
    -------
    pandas.DataFrame
        One row per record, `step` first, then what the fit recorded: `loss`, `valid_loss` (held-out cells),
        `acyclicity`, `penalty`, `multiplier`, `edges`, `targets_per_condition`.

    Raises
    ------
    KeyError
        If there is no fit under `key`.
    ValueError
        If the group is wrong, or the recorded arrays differ in length.

    Examples
    --------
    >>> import scgim
    >>> scgim.get.history(adata).tail(1)  # doctest: +SKIP
    """
    from scgim.inference import HISTORY

    slots = read_entry(adata, key, group, fitted=True)
    stored = slots.uns.get("history")
    if not isinstance(stored, Mapping):
        raise NotFound(f"adata.uns[{slots.keys.uns!r}]['history'] is missing: read the original file, or fit again.")
    arrays = {str(name): np.asarray(values).ravel() for name, values in stored.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidValue(f"adata.uns['{slots.keys.uns}']['history'] holds arrays of different lengths: {lengths}.")
    order = [name for name in HISTORY if name in arrays]
    names = order + sorted(set(arrays) - set(order))
    return pd.DataFrame({name: arrays[name] for name in names})


def params(adata: ad.AnnData, *, key: str = "gim", group: str | None = None) -> dict[str, Any]:
    """Every argument, version and seed behind a preparation and its fit.

    An h5ad file has no None, tuple or set, so `adata.uns["gim"]["params"]` holds them as text (``json:null``);
    here they are what was given.

    Parameters
    ----------
    adata
        Prepared by `pp.prepare`. Nothing is written.
    key, group
        The `key_added` that was given to `pp.prepare`, and the value of its `groupby` column.

    Returns
    -------
    dict
        ``"prepare"``: the arguments of `pp.prepare` (a matrix of features is named, not repeated; it is in
        `uns["gim"]["feature_spec"]`); ``"versions"`` of scgim, Python and the packages it uses; ``"target_sum"`` to
        which cells were normalised; after `tl.fit_gim` also ``"fit"``: its arguments, every setting, the seed, and how
        the fit ended. Changing it changes nothing in `adata`.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`, or the group does not exist.
    ValueError
        If a group is needed and missing.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10)
    >>> stored = scgim.get.params(adata)["prepare"]
    >>> stored["n_genes"], stored["layer"]
    (10, None)
    """
    entry = read_entry(adata, key, group, genes=False)
    stored = from_storable(dict(entry.prepared["params"]))
    fit = entry.uns.get("params", {}).get("fit")
    return stored if fit is None or not entry.fitted else {**stored, "fit": from_storable(dict(fit))}


def _probability(value: float | None, name: str) -> float:
    """None is 0: everything has at least this probability."""
    if value is not None and not 0 <= check_number(value, name) <= 1:
        raise InvalidValue(f"{name} is a probability, between 0 and 1, not {value}.")
    return value or 0.0


def check_known(names: str | Iterable[str], available: Sequence[str], what: str) -> list[str]:
    """The requested names as a list without repetitions; a ValueError where one is unknown, or none is given.

    `what` a name stands for, in the singular ("gene").
    """
    asked = list(dict.fromkeys([names] if isinstance(names, str) else [str(name) for name in names]))
    if not asked:
        raise InvalidValue(f"No {what} was given; valid names are {listing(available)}.")
    known = set(available)
    unknown = [name for name in asked if name not in known]
    if unknown:
        hint = suggestion(unknown[0], available)
        known_names = f"Valid names are {listing(available)}."
        if what == "gene":
            known_names = f"Modelled genes are {listing(available)}; pp.prepare takes others as genes=."
        raise InvalidValue(f"Unknown {what} {listing(unknown)}.{hint} {known_names}")
    return asked


def genes_of(adata: ad.AnnData, entry: Entry) -> list[str]:
    """Names of the graph's nodes, in the order of `adata.var`; a ValueError where some are not there any more."""
    return adata.var_names[np.sort(entry.positions(adata))].astype(str).tolist()


def stored_table(entry: Entry, name: str, columns: Sequence[str], *, others: bool = False) -> pd.DataFrame:
    """A table of the fit with these columns (and others, if asked for); a KeyError where they are gone."""
    table = entry.uns.get(name)
    if not isinstance(table, pd.DataFrame) or not set(columns) <= set(table.columns):
        raise NotFound(
            f"adata.uns[{entry.keys.uns!r}][{name!r}] is missing or lacks one of {', '.join(columns)}: it was changed. "
            "Read the original file, or run scgim.tl.fit_gim again."
        )
    return table if others else table[list(columns)]
