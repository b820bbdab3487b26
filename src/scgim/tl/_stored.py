"""The fitted model back from its record, with the names of genes and conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgim._errors import InvalidValue
from scgim._validation import check_values_of_genes, listing, suggestion
from scgim.inference import FitConfig, new_model
from scgim.model import FittedGIM, Interventions
from scgim.slots import Entry, Part, read_entry

if TYPE_CHECKING:
    from anndata import AnnData

#: What the names of the weights of an ensemble's other members begin with, each stacked (members, ...).
MEMBERS = "members."
#: Label and parts of one condition.
Named = tuple[str, list[Part]]


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A fitted model, its genes in the order of `entry.genes`, which need not be that of `adata.var`."""

    fitted: FittedGIM
    entry: Entry

    @cached_property
    def members(self) -> list[StoredModel]:
        """This model and its fits to resampled cells; this model alone where there are none."""
        weights, graphs = self.entry.weights, self.entry.fitted.get("member_graphs", ())
        own = {name.removeprefix(MEMBERS): value for name, value in weights.items() if name.startswith(MEMBERS)}
        fits = [_fitted(self.entry, graph, {k: v[m] for k, v in own.items()}) for m, graph in enumerate(graphs)]
        return [self, *(StoredModel(fit, self.entry) for fit in fits)]

    def target_prob(self, conditions: Sequence[Sequence[Part]], user_features: Any = None) -> np.ndarray:
        """(conditions, genes) probability of being a target, the mean over the members."""
        each = [one.interventions(conditions, user_features).prob.numpy() for one in self.members]
        return each[0] if len(each) == 1 else np.mean(each, axis=0)

    @property
    def control_mean(self) -> np.ndarray:
        """(genes,) mean of `adata.X` in the control cells of the fit."""
        return np.asarray(self.entry.fitted["control_mean"])

    @property
    def record(self) -> dict[str, Any]:
        """Of a model of counts: how counts, size factors and batches are read (`scgim.slots.Measured.record`)."""
        return dict(self.entry.fitted["measured"])

    def measured(self, size_factor: np.ndarray, batch: np.ndarray) -> dict[str, Any]:
        """Columns of `obs` that say how cells were counted: size factors (cells,), and batches (cells,) if any."""
        columns: dict[str, Any] = {self.entry.keys.size_factor: size_factor}
        if self.record["batch_key"] is not None:
            names = [str(name) for name in self.record["batches"]]
            columns[self.record["batch_key"]] = pd.Categorical.from_codes(batch, names)
        return columns

    def conditions(self, perturbations: Any) -> list[Named]:
        """Labels and parts of perturbations as people write them (see `pp.parse_perturbations`)."""
        from scgim.pp import parse_perturbations

        entry = self.entry
        parsed = parse_perturbations(
            perturbations,
            **entry.notation,
            known={label: entry.parts_of(label) for label in entry.labels},
        )
        if not parsed:
            raise InvalidValue(f"perturbations is empty: name at least one, such as {entry.labels[-1]!r}.")
        return parsed

    def condition(self, perturbation: Any) -> Named:
        """One of them; the control where there is none."""
        if perturbation is None:
            return self.entry.control, []
        ((label, parts),) = self.conditions([perturbation])
        return label, parts

    def interventions(self, conditions: Sequence[Sequence[Part]], user_features: Any = None) -> Interventions:
        """Atomic interventions of conditions, given as their parts."""
        from scgim.pp import featurize

        parts = list(dict.fromkeys(part for own in conditions for part in own))
        membership = torch.tensor([[float(p in own) for p in parts] for own in conditions])
        if not parts:
            return self.fitted.interventions(torch.zeros(0, 0), membership)
        features = torch.as_tensor(featurize(self.entry.spec, parts, user_features))
        known = [self._known(name, parts) for name in ("known_targets", "known_values")]
        return self.fitted.interventions(features, membership, *known)

    def _known(self, which: str, parts: Sequence[Part]) -> torch.Tensor | None:
        """Known targets or values of these parts, as given to `fit_gim`."""
        stored = self.entry.fitted.get(which)
        if stored is None:
            return None
        names = [(name, None if math.isnan(dose) else dose) for name, dose in self.entry.parts]
        chosen = np.full((len(parts), stored.shape[1]), np.nan, dtype=np.float32)
        for i, (name, dose) in enumerate(parts):
            wanted = (name, None if math.isnan(dose) else dose)
            # A dose never seen: what is known of the perturbation at every dose.
            rows = [names.index(wanted)] if wanted in names else [r for r, (own, _) in enumerate(names) if own == name]
            if rows and all(np.array_equal(stored[r], stored[rows[0]], equal_nan=True) for r in rows):
                chosen[i] = stored[rows[0]]
        return torch.as_tensor(chosen)

    def held(self, found: Interventions, interventions: Mapping[str, float]) -> Interventions:
        """`found` with the user's own `do(gene = value)` on top."""
        wanted = check_values_of_genes(interventions, "interventions")
        if not wanted:
            raise InvalidValue("interventions is empty; give at least one gene and its value, {'GENE': 0.0}.")
        position = {gene: i for i, gene in enumerate(self.entry.genes)}
        held = torch.full_like(found.prob, torch.nan) if found.held is None else found.held.clone()
        for gene, value in wanted.items():
            if gene not in position:
                raise InvalidValue(
                    f"interventions: {gene!r} is not one of the {len(position)} modelled genes."
                    f"{suggestion(gene, list(position))} They are {listing(position, most=30)}."
                )
            if (self.fitted.gim.mechanisms.is_ziln or self.fitted.counting is not None) and value < 0:
                raise InvalidValue(f"interventions: {gene!r} = {value}, but expression in this model is >= 0.")
            held[:, position[gene]] = value
        return found._replace(held=held)

    def cells(
        self,
        adata: AnnData,
        x: np.ndarray,
        obs: pd.DataFrame,
        conditions: Sequence[Named],
        which: np.ndarray,
        layers: Mapping[str, np.ndarray] | None = None,
    ) -> AnnData:
        """Predicted cells with the genes in the order of `adata.var`.

        Parameters
        ----------
        adata
            Gives names and order of the genes.
        x
            (cells, genes) in the order of the fit.
        obs
            Of the cells; condition, perturbation, dose (and group) are added.
        conditions, which
            What the cells are under: label and parts of each condition, and which of them each cell has.
        layers
            More (cells, genes), in the order of the fit.
        """
        entry = self.entry
        places = entry.positions(adata)
        names = ["+".join(name for name, _ in parts) if parts else entry.control for _, parts in conditions]
        doses = [parts[0][1] if len(parts) == 1 else np.nan for _, parts in conditions]
        obs = obs.copy()
        column = _categorical([label for label, _ in conditions], which)
        obs["condition"], obs["perturbation"] = column, _categorical(names, which)
        obs["dose"] = np.array(doses, dtype=float)[which]
        obs[entry.keys.condition] = column
        if entry.keys.group is not None:
            groupby = "_".join(np.atleast_1d(entry.arguments["groupby"]).tolist())
            obs[groupby] = pd.Categorical([entry.keys.group] * len(obs))
        var = adata.var.loc[adata.var_names[np.sort(places)], []].copy()
        order = np.argsort(places)
        more = {name: np.ascontiguousarray(values[:, order]) for name, values in (layers or {}).items()}
        return ad.AnnData(x[:, order].astype(np.float32), obs=obs, var=var, layers=more)

    def table(self, labels: Sequence[str], found: Interventions, target_prob: np.ndarray) -> pd.DataFrame:
        """One row per condition and gene: probability, is_target, effect, and which way it goes."""
        mean = self.control_mean.astype(np.float64)
        under = self.fitted.mean_as_target(found, self.control_mean)
        # X is log1p of normalised counts, so a difference of means is a log fold change of (1 + normalised counts).
        logarithmic = self.entry.arguments["input"] != "continuous"
        change = (under - mean) / math.log(2) if logarithmic else np.full_like(under, np.nan)
        probability = target_prob.ravel()
        table = pd.DataFrame(
            {
                "condition": np.repeat(np.array(labels, dtype=object), len(mean)),
                "gene": np.tile(np.array(self.entry.genes, dtype=object), len(labels)),
                "probability": probability.astype(np.float64),
                "is_target": probability > 0.5,
                "effect": self.fitted.expected_effect(found).ravel().astype(np.float64),
                "control_mean": np.tile(mean, len(labels)),
                "log2_fold_change": change.ravel(),
                "direction": np.sign(under - mean).astype(int).ravel(),
            }
        )
        table.index = table.index.astype(str)
        return table


def _categorical(names: Sequence[str], which: np.ndarray) -> pd.Categorical:
    """The name of each cell; two conditions may have one name."""
    different = list(dict.fromkeys(names))
    return pd.Categorical.from_codes(np.array([different.index(n) for n in names], dtype=int)[which], different)


def load(adata: AnnData, key: str = "gim", group: str | None = None) -> StoredModel:
    """The fitted model stored in `adata`.

    Raises
    ------
    KeyError
        If there is no fit.
    ValueError
        If the record was truncated or edited, the file is from another version of scgim, or modelled genes are missing.
    """
    entry = read_entry(adata, key, group, fitted=True)
    entry.positions(adata)  # refuses an object that has lost some
    return stored_model(entry)


def stored_model(entry: Entry) -> StoredModel:
    """The model of a record."""
    own = {name: value for name, value in entry.weights.items() if not name.startswith(MEMBERS)}
    return StoredModel(_fitted(entry, entry.fitted["graph"], own), entry)


def _fitted(entry: Entry, graph: np.ndarray, arrays: dict[str, np.ndarray]) -> FittedGIM:
    config = FitConfig(**entry.fitted["settings"])
    with torch.random.fork_rng(devices=[]):  # new modules draw initial weights from the global state
        baseline = arrays.get("counting.baseline", np.zeros((1, 0)))  # (batches, genes)
        empty = new_model(config, len(entry.genes), entry.features.shape[1], n_batches=len(baseline))
    return FittedGIM.from_arrays(empty, graph, arrays, entry.fitted.get("measured"))
