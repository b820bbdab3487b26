"""The learned graph and the targets as objects, and names that a user asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd

from scgim._errors import InvalidValue, NotFound
from scgim._validation import check_number, listing, suggestion
from scgim.slots import Entry, read_entry


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
        Keep only the edges with at least this probability. None keeps the graph of the fit, whose edges
        have a probability above 1/2.
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

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
    if threshold is not None and not 0 <= check_number(threshold, "threshold") <= 1:
        raise InvalidValue(f"threshold is a probability, between 0 and 1, not {threshold}.")
    dag = nx.DiGraph()
    dag.add_nodes_from(genes_of(adata, entry))
    edges = stored_table(entry, "graph", ("source", "target", "probability"))
    for source, target, probability in edges.itertuples(index=False):
        if threshold is None or probability >= threshold:
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
    key
        The `key_added` that was given to `pp.prepare`.
    group
        Value of the `groupby` column, where one model was fitted per group.

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
        if not 0 <= check_number(min_probability, "min_probability") <= 1:
            raise InvalidValue(f"min_probability is a probability, between 0 and 1, not {min_probability}.")
        keep &= stored["probability"] >= min_probability
    if called_only:
        keep &= stored["is_target"]
    table = about.merge(stored[keep], on="condition", how="inner", sort=False)
    first = ["condition", "perturbation", "dose", "split", "gene", "probability", "is_target"]
    return table[first + [column for column in table.columns if column not in first]]


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
