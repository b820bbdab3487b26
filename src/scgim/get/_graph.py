"""The learned graph as a networkx object."""

from __future__ import annotations

import anndata as ad
import networkx as nx

from scgim._validation import check_number
from scgim.slots import read_entry

from ._names import genes_of, stored_table


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
        raise ValueError(f"threshold is a probability, between 0 and 1, not {threshold}.")
    dag = nx.DiGraph()
    dag.add_nodes_from(genes_of(adata, entry))
    edges = stored_table(entry, "graph", ("source", "target", "probability"))
    for source, target, probability in edges.itertuples(index=False):
        if threshold is None or probability >= threshold:
            dag.add_edge(str(source), str(target), probability=float(probability))
    return dag
