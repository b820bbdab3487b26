"""What a fit writes into an AnnData: all of it or, after an error, nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._validation import listing, plural
from scgim.inference import FitResult
from scgim.inference.ensemble import DEGENERATE as _DEGENERATE
from scgim.model import FittedGIM, break_cycles
from scgim.slots import Entry, checksum, detach, seal
from scgim.slots.codec import from_storable, to_storable
from scgim.slots.keys import Keys

from ._stored import MEMBERS, stored_model

if TYPE_CHECKING:
    from anndata import AnnData

#: Edges of an ensemble with at least this probability are listed.
_LEAST = 0.1


def remember(adata: AnnData, all_keys: list[Keys]) -> list[tuple[str, str, Any]]:
    """What `hold_out` and the fit may change, to put back after an error."""
    out: list[tuple[str, str, Any]] = []
    for keys in all_keys:
        for where, name in keys.slots():
            value = getattr(adata, where).get(name, None)
            out.append((where, name, {**value, "params": dict(value["params"])} if isinstance(value, dict) else value))
    return out


def restore(adata: AnnData, undo: list[tuple[str, str, Any]]) -> None:
    """Put it back."""
    if adata.is_view:  # writing would have made it an AnnData of its own: nothing was written
        return
    for where, name, value in undo:
        slot = getattr(adata, where)
        if value is not None:
            slot[name] = value
        elif name in slot:
            del slot[name]


def check_free(adata: AnnData, entry: Entry) -> None:
    """Refuse to write over what no fit of this preparation wrote."""
    taken = [f"adata.{at}[{name!r}]" for at, name in entry.keys.fit_slots() if name in getattr(adata, at)]
    if taken and not entry.fitted:
        raise InvalidValue(
            f"key_added={entry.keys.key!r} would overwrite {' and '.join(taken)}, which no fit under this key wrote. "
            "Delete what is not needed any more, or run scgim.pp.prepare with another key_added."
        )


def store_fit(
    adata: AnnData,
    entry: Entry,
    result: FitResult,
    given: dict[str, Any],
    known: tuple[np.ndarray | None, np.ndarray | None],
    control_mean: np.ndarray,
    measured: Mapping[str, Any],
    members: Sequence[FittedGIM] = (),
) -> None:
    """Write one fit; everything is computed before the first slot is touched.

    measured: how counts were read, `scgim.slots.Measured.record`, or nothing; members: fits to resampled cells.
    """
    keys, settings = entry.keys, result.config.asdict()
    result.gim.to("cpu")
    weights = FittedGIM(result.gim, result.graph).arrays()
    recorded = {"known_targets": known[0], "known_values": known[1], "control_mean": control_mean}
    recorded = {name: None if value is None else value.astype(np.float32) for name, value in recorded.items()}
    fitted = {"graph": result.graph, "settings": settings, **recorded, **({"measured": measured} if measured else {})}
    if members:
        fitted["member_graphs"] = np.stack([one.graph for one in members])
        others = [one.arrays() for one in members]
        weights |= {MEMBERS + name: np.stack([own[name] for own in others]) for name in weights}
    state = seal({"prepared": entry.prepared, "fitted": fitted}, weights)
    arguments = {
        **given, "settings": settings, "seconds": result.seconds, "n_steps": result.n_steps,
        "stopped": result.stopped, "n_edges_dropped": result.n_dropped,
    }  # fmt: skip
    params = from_storable(dict(entry.prepared["params"]))
    gims = [result.gim, *(one.gim for one in members)]
    probability = np.mean([gim.graph.probabilities().detach().numpy() for gim in gims], axis=0)
    # Of an ensemble, edges that not every member has: a graph of all of them, as far as that has no cycles.
    graph = break_cycles(probability, _LEAST)[0] if members else result.graph
    model = stored_model(Entry(keys, {}, entry.prepared, fitted, weights))
    parts = [entry.parts_of(label) for label in entry.labels]
    found, target_prob = model.interventions(parts), model.target_prob(parts)
    table = model.table(entry.labels, found, target_prob)
    treated = table["condition"] != entry.control
    uns = {
        **entry.uns,
        "state": state,
        "state_sha256": checksum(state),
        "params": to_storable({**params, "fit": arguments}, path="params"),
        "graph": _edges(np.array(entry.genes, dtype=object), graph, probability),
        "history": {name: np.asarray(values) for name, values in result.history.items()},
        "targets": table[treated].set_axis(map(str, range(treated.sum()))),
    }
    places = entry.positions(adata)
    wide = np.full((2, adata.n_vars, len(entry.labels)), np.nan, dtype=np.float32)
    wide[:, places] = target_prob.T, model.fitted.expected_effect(found).T
    first, second = np.nonzero(probability)
    edge_prob = sp.csr_matrix(
        (probability[first, second].astype(np.float32), (places[first], places[second])), shape=(adata.n_vars,) * 2
    )
    detach(adata)
    adata.uns[keys.uns] = uns
    adata.varp[keys.edge_prob] = edge_prob
    adata.varm[keys.target_prob], adata.varm[keys.effect] = wide
    _report(entry, result, target_prob, int((graph & (probability > 0.5)).sum()))


def _ending(result: FitResult) -> str:
    steps = plural(result.n_steps, "step")
    return f"ran all {steps}" if result.stopped == "max_steps" else f"{result.stopped} after {steps}"


def _edges(genes: np.ndarray, graph: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """The DAG's edges, the most probable first."""
    source, target = np.nonzero(graph)
    order = np.argsort(-probability[source, target], kind="stable")
    source, target = source[order], target[order]
    edges = {"source": genes[source], "target": genes[target], "probability": probability[source, target].astype(float)}
    return pd.DataFrame(edges, index=[str(i) for i in range(len(source))])


def _report(entry: Entry, result: FitResult, prob: np.ndarray, n_edges: int) -> None:
    keys, treated = entry.keys, ~entry.is_control
    per_condition = float((prob[treated] > 0.5).sum(1).mean()) if treated.any() else 0.0
    n_genes = prob.shape[1]
    logger.info(
        "fit %r: %s, %.1f targets per condition; %s in %.0f s; written to uns[%r], varp[%r], varm[%r], varm[%r]",
        keys.prefix, plural(n_edges, "edge"), per_condition, _ending(result), result.seconds,
        keys.uns, keys.edge_prob, keys.target_prob, keys.effect,
    )  # fmt: skip
    many = treated & ((prob > 0.5).sum(1) > _DEGENERATE * n_genes)
    if n_genes > 2 and many.any():
        names = [c for c, yes in zip(entry.labels, many, strict=True) if yes]
        degenerate = per_condition > _DEGENERATE * n_genes or many.sum() > _DEGENERATE * treated.sum()
        logger.log(
            logging.WARNING if degenerate else logging.INFO,
            "fit %r%s: %d of %d conditions target more than half of the %d genes: %s (%.1f targets on average over all "
            "conditions). There, nearly every gene is set by itself: cells may still be predicted well, but the graph "
            "contributes little, and direct targets cannot be told from genes that follow them. %s",
            keys.prefix, " has degenerated" if degenerate else "", many.sum(), treated.sum(), n_genes,
            listing(names, most=4), per_condition,
            "To read graph or targets, fit again with a higher target_sparsity, or with genes that not every condition "
            "changes." if degenerate else "Read the targets of other conditions (lower doses, for instance) first.",
        )  # fmt: skip
    if n_edges == 0:
        logger.warning(
            "fit %r found no edge: with these cells, no gene says more about another than chance does. Cells may still "
            "be predicted well; edges take more cells, or genes that vary more.", keys.prefix,
        )  # fmt: skip
    without = treated & ~(prob > 0.5).any(1)
    silent = [c for c, yes in zip(entry.labels, without, strict=True) if yes]
    if silent:
        logger.info("fit %r: no target found for %s", keys.prefix, listing(silent))
