"""What the user believes of edges and targets before the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from scgim._dag import is_acyclic
from scgim._errors import InvalidType, InvalidValue, NotFound
from scgim._logging import logger
from scgim._validation import listing, plural, suggestion
from scgim.slots import Entry

#: An edge that a network without probabilities lists is as probable as not.
_LISTED = 0.5
_EDGES = ("source", "target")


@dataclass(frozen=True)
class Beliefs:
    """Probabilities, NaN where nothing is believed: edges (genes, genes), targets (parts, genes); None without any."""

    edges: np.ndarray | None
    targets: np.ndarray | None

    @classmethod
    def of(cls, entry: Entry, prior_edges: Any, forbidden_edges: Any, prior_targets: Any) -> Beliefs:
        """Of the modelled genes and the perturbations of a preparation, from tables that passed `read_tables`."""
        genes = entry.genes
        edges = None if prior_edges is None else _matrix(prior_edges, "prior_edges", genes)
        if forbidden_edges is not None:
            no = ~np.isnan(_matrix(forbidden_edges.assign(probability=0.0), "forbidden_edges", genes))
            edges = np.full(no.shape, np.nan) if edges is None else edges
            both = [f"{genes[i]} -> {genes[j]}" for i, j in np.argwhere(no & (edges == 1))]
            if both:
                raise InvalidValue(f"forbidden_edges: prior_edges says 1 of {listing(both)}. Take them out of one.")
            edges[no] = 0.0
        if edges is not None and not is_acyclic(edges == 1):
            cycle = nx.find_cycle(nx.from_numpy_array(edges == 1, create_using=nx.DiGraph))
            named = " -> ".join(genes[i] for i in [cycle[0][0], *(j for _, j in cycle)])
            raise InvalidValue(
                f"prior_edges: edges of probability 1 are certain, but some make a cycle ({named}), which no graph of "
                "the model has. Give at least one of them a probability below 1."
            )
        return cls(edges, None if prior_targets is None else _targets(prior_targets, entry))

    def tables(self, entry: Entry) -> dict[str, pd.DataFrame | None]:
        """What was used of the arguments, to be stored with the fit: edges, and targets, one row each."""
        out: dict[str, pd.DataFrame | None] = dict.fromkeys(("prior_edges", "forbidden_edges", "prior_targets"))
        genes, parts = (np.array(names, dtype=object) for names in (entry.genes, entry.prepared["parts"]["part"]))
        if self.edges is not None:
            (i, j), values = np.nonzero(self.edges > 0), self.edges
            out["prior_edges"] = pd.DataFrame({"source": genes[i], "target": genes[j], "probability": values[i, j]})
            i, j = np.nonzero(values == 0)
            out["forbidden_edges"] = pd.DataFrame({"source": genes[i], "target": genes[j]})
        if self.targets is not None:
            i, j = np.nonzero(~np.isnan(self.targets))
            chosen = {"part": parts[i], "gene": genes[j], "probability": self.targets[i, j]}
            out["prior_targets"] = pd.DataFrame(chosen)
        return out


def read_tables(prior_edges: Any, forbidden_edges: Any, prior_targets: Any) -> dict[str, pd.DataFrame | None]:
    """The three as tables of strings and probabilities, checked without looking at the data.

    Edges: source, target, probability; forbidden ones: source, target; targets: perturbations x genes.
    """
    edges = _table(prior_edges, "prior_edges")
    if edges is not None:
        edges = _edges(edges, "prior_edges").assign(probability=_probabilities(edges))
    forbidden = _table(forbidden_edges, "forbidden_edges")
    if forbidden is not None:
        forbidden = _edges(_unmasked(forbidden), "forbidden_edges")
    if isinstance(prior_targets, Mapping):
        prior_targets = pd.DataFrame.from_dict(dict(prior_targets), orient="index")
    targets = _table(prior_targets, "prior_targets", index_col=0)
    if targets is not None:
        numbers = targets.apply(pd.to_numeric, errors="coerce")
        _check_probabilities(numbers, targets.notna(), "prior_targets")
        targets = numbers.set_axis(targets.index.map(str)).set_axis(targets.columns.map(str), axis=1)
        if not (targets.index.is_unique and targets.columns.is_unique):
            raise InvalidValue("prior_targets names a perturbation or a gene twice. Keep one row and column of each.")
    return {"prior_edges": edges, "forbidden_edges": forbidden, "prior_targets": targets}


def _table(given: Any, argument: str, **reading: Any) -> pd.DataFrame | None:
    """A table with rows; or one read from a file."""
    if isinstance(given, str | Path):
        if not Path(given).is_file():
            raise NotFound(f"{argument}={str(given)!r} is no file. Give a table (pandas.DataFrame), or a CSV file.")
        given = pd.read_csv(given, sep=None, engine="python", **reading)
    if given is not None and not isinstance(given, pd.DataFrame):
        raise InvalidType(f"{argument} must be a pandas.DataFrame or a CSV file; got {type(given).__name__}.")
    if given is not None and given.empty:
        raise InvalidValue(f"{argument} is empty. Give at least one row, or leave it out.")
    return given


def _edges(table: pd.DataFrame, argument: str) -> pd.DataFrame:
    """Its columns `source` and `target`, as text."""
    missing = [name for name in _EDGES if name not in table]
    if missing:
        raise InvalidValue(
            f"{argument} lacks the column {listing(missing)}; it has {listing(table.columns)}. Name the columns of "
            "cause and effect 'source' and 'target'."
        )
    if table[list(_EDGES)].isna().any(axis=None):
        raise InvalidValue(f"{argument} has rows without a source or a target. Drop them.")
    return pd.DataFrame({name: table[name].astype(str).to_numpy(dtype=object) for name in _EDGES})


def _probabilities(table: pd.DataFrame) -> np.ndarray:
    """(rows,) the column `probability`; or of `weight`, whose signs do not matter, up to `_LISTED`."""
    name = next((name for name in ("probability", "weight") if name in table), None)
    if name is None:
        raise InvalidValue(
            f"prior_edges has neither a column 'probability' nor 'weight', only {listing(table.columns)}. Add one: "
            "prior_edges.assign(probability=0.5)."
        )
    values = pd.to_numeric(table[name], errors="coerce").to_frame()
    if name == "weight":
        size = values["weight"].abs()
        if not np.isfinite(size).all() or size.max() == 0:
            raise InvalidValue("prior_edges: the weights must be finite numbers, not all 0. Drop or mend such rows.")
        return (_LISTED * size / size.max()).to_numpy()
    _check_probabilities(values, pd.DataFrame(True, values.index, values.columns), "prior_edges")
    return values["probability"].to_numpy(dtype=float)


def _check_probabilities(values: pd.DataFrame, given: pd.DataFrame, argument: str) -> None:
    bad = given & ~((values >= 0) & (values <= 1))
    if bad.any(axis=None):
        raise InvalidValue(
            f"{argument}: {plural(int(bad.to_numpy().sum()), 'value')} not a probability, between 0 and 1. Rescale or "
            "drop these; for scores of another kind name the column 'weight'."
        )


def _unmasked(table: pd.DataFrame) -> pd.DataFrame:
    """Source and target of what is True in a mask (genes x genes, row = cause); other tables as they are."""
    if not all(pd.api.types.is_bool_dtype(kind) for kind in table.dtypes):
        return table
    source, target = np.nonzero(table.to_numpy())
    if not len(source):
        raise InvalidValue("forbidden_edges is False everywhere. Leave it out.")
    return pd.DataFrame({"source": table.index[source], "target": table.columns[target]})


def _matrix(table: pd.DataFrame, argument: str, genes: list[str]) -> np.ndarray:
    """(genes, genes) probabilities of the rows that name two modelled genes; the highest of one edge. NaN elsewhere."""
    place = pd.Index(genes, dtype=object)
    source, target = (place.get_indexer(table[name]) for name in _EDGES)
    known = (source >= 0) & (target >= 0) & (source != target)
    if not known.all():
        names = pd.unique(table[list(_EDGES)].to_numpy().ravel())
        _tell_unknown(argument, [n for n in names if n not in set(genes)], genes, int((~known).sum()), len(table))
    out = np.full((len(genes),) * 2, -np.inf)
    np.maximum.at(out, (source[known], target[known]), table["probability"].to_numpy()[known])
    return np.where(out < 0, np.nan, out)


def _targets(table: pd.DataFrame, entry: Entry) -> np.ndarray:
    """(parts, genes); a row of a perturbation is of all its doses, unless a dose has a row of its own."""
    genes, labels = entry.genes, entry.prepared["parts"]["part"].astype(str).tolist()
    names = [name for name, _ in entry.parts]
    unknown = [row for row in table.index if row not in {*labels, *names}]
    if unknown:
        options = sorted({*labels, *names})
        raise InvalidValue(
            f"prior_targets: there is no perturbation {listing(unknown)}.{suggestion(unknown[0], options)} Valid "
            f"values: {listing(options, most=30)}."
        )
    lost = [gene for gene in table.columns if gene not in set(genes)]
    if lost:
        _tell_unknown("prior_targets", lost, genes, len(lost), table.shape[1], "columns")
    wide = table.reindex(columns=genes).to_numpy(dtype=float)
    out = np.full((len(labels), len(genes)), np.nan)
    for part, own in enumerate(zip(names, labels, strict=True)):
        for row in own:  # the label is more exact than the name, so it comes last
            if row in table.index:
                values = wide[table.index.get_loc(row)]
                out[part] = np.where(np.isnan(values), out[part], values)
    return out


def _tell_unknown(argument: str, unknown: list[str], genes: list[str], n: int, of: int, what: str = "rows") -> None:
    """Count and name genes that are not modelled; refuse where nothing else is left."""
    named = f"{plural(len(unknown), 'gene')} not modelled ({listing(unknown, most=5)})"
    if n == of:
        hint = suggestion(unknown[0], genes) if unknown else ""
        raise InvalidValue(
            f"{argument}: none of the {of} {what} is about modelled genes: {named}.{hint} The modelled genes are "
            f"{listing(genes)}; run scgim.pp.prepare with genes= that include others."
        )
    logger.warning("%s: %d of %d %s are not used: %s, or a gene and itself", argument, n, of, what, named)
