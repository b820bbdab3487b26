"""The fitted model back from its record: everything that `sample_cells` and its sisters need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgim.inference import unpack
from scgim.model import (
    GIM,
    Action,
    AmortizedInterventions,
    AtomicInterventions,
    LatentGraph,
    Mechanisms,
    Priors,
    draw_action,
    n_effects,
)
from scgim.slots import Entry, read_entry

if TYPE_CHECKING:
    from anndata import AnnData

Part = tuple[str, float]


@dataclass
class StoredModel:
    """A fitted model with its names.

    gim; graph (genes, genes) bool DAG; genes: names in the fit's order, which need not be that of `adata.var`; entry:
    what was stored; known: known targets and values (parts, genes), NaN where there are none, or None.
    """

    gim: GIM
    graph: np.ndarray
    genes: np.ndarray
    entry: Entry
    known: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def control_mean(self) -> np.ndarray:
        """(genes,) mean of `adata.X` in the control cells of the fit."""
        return np.asarray(self.entry.fitted["control_mean"])

    @property
    def control(self) -> str:
        """Label of the control condition."""
        return self.entry.control

    def order_in(self, adata: AnnData) -> np.ndarray:
        """(genes,) place in the fit of each modelled gene of `adata.var`, in the order there."""
        names = adata.var_names[np.sort(self.entry.positions(adata))].astype(str)
        return pd.Index(self.genes.astype(str)).get_indexer(names)

    def conditions(self, perturbations: Any) -> list[tuple[str, list[Part]]]:
        """Labels and parts of perturbations as people write them (see `pp.parse_perturbations`)."""
        from scgim.pp import parse_perturbations

        spec = self.entry.spec
        parsed = parse_perturbations(
            perturbations,
            control=self.control,
            combination_sep=self.entry.arguments.get("combination_sep", "+"),
            has_dose=bool(spec["has_dose"]),
            dose_unit=self.entry.dose_unit,
            known={label: self.entry.parts_of(label) for label in self.entry.labels},
        )
        if not parsed:
            raise ValueError(f"perturbations is empty: name at least one, such as {self.entry.labels[-1]!r}.")
        return parsed

    @torch.no_grad()
    def interventions(
        self, conditions: list[list[Part]], user_features: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Target probabilities (conditions, genes), effects (conditions, genes, k), known values or None."""
        from scgim.pp import featurize

        parts = list(dict.fromkeys(part for own in conditions for part in own))
        n_genes, k = self.n_genes, n_effects(self.gim.intervention, self.gim.mechanisms.is_ziln)
        if not parts:
            shape = (len(conditions), n_genes)
            return torch.zeros(shape), torch.zeros(*shape, k), None
        features = torch.as_tensor(featurize(self.entry.spec, parts, user_features))
        targets, values = (self._known(stored, parts) for stored in self.known)
        atomic: AtomicInterventions = self.gim.atomic(features, targets)
        membership = torch.tensor([[float(p in own) for p in parts] for own in conditions])
        prob, effects = self.gim.combine(atomic, membership)
        if values is None:
            return prob, effects, None
        held = torch.full((len(conditions), n_genes), torch.nan)
        for row, own in enumerate(conditions):
            for part in own:
                given = values[parts.index(part)]
                held[row] = torch.where(torch.isnan(given), held[row], given)
        return torch.where(torch.isnan(held), prob, torch.ones_like(prob)), effects, held

    def _known(self, stored: np.ndarray | None, parts: list[Part]) -> torch.Tensor | None:
        """Known targets or values of these parts, as given to `fit_gim`."""
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

    @torch.no_grad()
    def action(
        self,
        prob: torch.Tensor,
        effects: torch.Tensor,
        held: torch.Tensor | None,
        n_cells: int,
        generator: torch.Generator,
    ) -> Action:
        """Each cell's atomic interventions from one condition's distribution: t ~ Bernoulli, psi ~ Normal."""
        return draw_action(self.gim, prob, effects, n_cells, generator, held)

    @torch.no_grad()
    def expected_effect(self, effects: torch.Tensor, held: torch.Tensor | None = None) -> np.ndarray:
        """(conditions, genes) mean expression under the replaced mechanism (hard), or the shift."""
        p = self.gim.replaced_parameters(effects)
        if "shift" in p:
            out = p["shift"]
        elif self.gim.mechanisms.is_ziln:
            out = self.gim.mechanisms.mean_of(p["zero_logit"], p["mean"], p["log_scale"])
        else:
            out = p["mean"]
        if held is not None:
            out = torch.where(torch.isnan(held), out, held)
        return out.numpy()

    @torch.no_grad()
    def mean_under(self, effects: torch.Tensor, held: torch.Tensor | None = None) -> np.ndarray:
        """(conditions, genes) mean expression of a gene as a target, its parents as in the control."""
        p = self.gim.replaced_parameters(effects)
        if "shift" not in p:
            return self.expected_effect(effects, held).astype(np.float64)
        mean = torch.as_tensor(self.control_mean)
        if self.gim.mechanisms.is_ziln:
            logit = self.gim.mechanisms.zero_logit
            rate = torch.sigmoid(-logit - p["zero_shift"]) / torch.sigmoid(-logit)
            out = mean * torch.exp(p["shift"]) * rate
        else:
            out = mean + p["shift"]
        return (out if held is None else torch.where(torch.isnan(held), out, held)).numpy().astype(np.float64)


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
    fitted = entry.fitted
    genes = np.asarray(fitted["genes"], dtype=object)
    with torch.random.fork_rng(devices=[]):  # new modules draw initial weights from the global state
        gim = _empty_model(len(genes), entry.features.shape[1], fitted["settings"])
    unpack(gim, dict(entry.weights))
    known = fitted.get("known_targets"), fitted.get("known_values")
    return StoredModel(gim.eval(), fitted["graph"], genes, entry, known)


def _empty_model(n_genes: int, n_features: int, settings: Mapping[str, Any]) -> GIM:
    kind, intervention = str(settings["mechanism"]), str(settings["intervention"])
    hidden = [int(w) for w in np.atleast_1d(settings["network_hidden"])]
    return GIM(
        LatentGraph(n_genes, inverse_temperature=float(settings["inverse_temperature"])),
        Mechanisms(n_genes, kind, int(settings["mechanism_hidden"])),  # type: ignore[arg-type]
        AmortizedInterventions(
            n_features,
            n_genes,
            n_effects(intervention, kind == "ziln"),
            hidden,
            bool(settings["linear_skip"]),
        ),
        intervention,  # type: ignore[arg-type]
        Priors(effect_noise=float(settings["effect_noise"])),
    )


def targets_table(model: StoredModel) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Tidy table of targets of the data's conditions, with the arrays (conditions, genes) behind it."""
    entry = model.entry
    prob, effects, held = model.interventions([entry.parts_of(label) for label in entry.labels])
    probability, effect = prob.numpy(), model.expected_effect(effects, held)
    table = table_of(model, entry.labels, probability, effect, model.mean_under(effects, held))
    treated = table["condition"] != entry.control
    return table[treated].set_axis(map(str, range(treated.sum()))), probability, effect


def table_of(
    model: StoredModel, labels: Sequence[str], probability: np.ndarray, effect: np.ndarray, under: np.ndarray
) -> pd.DataFrame:
    """One row per condition and gene: probability, is_target, effect, and which way it goes."""
    n_conditions, n_genes = probability.shape
    mean = model.control_mean.astype(np.float64)
    # X is log1p of normalised counts, so a difference of means is a log fold change of (1 + normalised counts).
    logarithmic = model.entry.arguments["input"] != "continuous"
    change = (under - mean) / math.log(2) if logarithmic else np.full_like(under, np.nan)
    table = pd.DataFrame(
        {
            "condition": np.repeat(np.array(labels, dtype=object), n_genes),
            "gene": np.tile(model.genes, n_conditions),
            "probability": probability.ravel().astype(np.float64),
            "is_target": probability.ravel() > 0.5,
            "effect": effect.ravel().astype(np.float64),
            "control_mean": np.tile(mean, n_conditions),
            "log2_fold_change": change.ravel(),
            "direction": np.sign(under - mean).astype(int).ravel(),
        }
    )
    table.index = table.index.astype(str)
    return table
