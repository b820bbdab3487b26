"""The fitted model back from the slots: everything that `sample_cells` and its sisters need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgim._keys import Keys
from scgim._storage import from_storable
from scgim.inference import checksum, unpack
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

if TYPE_CHECKING:
    from anndata import AnnData

Part = tuple[str, float]


@dataclass
class StoredModel:
    """A fitted model with its names.

    gim; graph (genes, genes) bool DAG; genes: names in the fit's order, which `adata.var` may have left
    since; keys; uns: the fit's entry.
    """

    gim: GIM
    graph: np.ndarray
    genes: np.ndarray
    keys: Keys
    uns: Mapping[str, Any]

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    def order_in(self, adata: AnnData) -> np.ndarray:
        """(genes,) place in the fit of each modelled gene of `adata.var`, in the order there."""
        names = adata.var_names[adata.var[self.keys.genes].to_numpy(dtype=bool)].astype(str)
        return pd.Index(self.genes.astype(str)).get_indexer(names)

    def conditions(self, perturbations: Any) -> list[tuple[str, list[Part]]]:
        """Labels and parts of perturbations as people write them (see `pp.parse_perturbations`)."""
        from scgim.pp import parse_perturbations

        spec = from_storable(dict(self.uns["feature_spec"]))
        prepared = from_storable(dict(self.uns["params"]["prepare"]))
        return parse_perturbations(
            perturbations,
            control=self.control,
            combination_sep=prepared.get("combination_sep", "+"),
            has_dose=bool(spec["has_dose"]),
            dose_unit=str(spec.get("dose_unit") or ""),
            known=self.known_parts(),
        )

    @property
    def control(self) -> str:
        """Label of the control condition."""
        table = self.uns["conditions"]
        return str(table["condition"][table["is_control"].astype(bool)].iloc[0])

    def known_parts(self) -> dict[str, list[Part]]:
        """Parts of every condition of the data."""
        parts = list(
            zip(
                self.uns["parts"]["perturbation"].astype(str),
                self.uns["parts"]["dose"].astype(float),
                strict=True,
            )
        )
        labels = self.uns["conditions"]["condition"].astype(str)
        rows = np.asarray(self.uns["membership"])
        return {label: [parts[r] for r in np.flatnonzero(row)] for label, row in zip(labels, rows, strict=True)}

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
        features = torch.as_tensor(featurize(self.uns["feature_spec"], parts, user_features))
        targets, values = self._known(parts)
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

    def _known(self, parts: list[Part]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Known targets and values of these parts, as given to `fit_gim`."""
        table = self.uns["parts"]
        stored = list(zip(table["perturbation"].astype(str), table["dose"].astype(float), strict=True))
        position = {(name, None if dose != dose else dose): i for i, (name, dose) in enumerate(stored)}
        out: list[torch.Tensor | None] = []
        for entry in ("known_targets", "known_values"):
            if entry not in self.uns:
                out.append(None)
                continue
            values = np.asarray(self.uns[entry], dtype=np.float32)
            chosen = np.full((len(parts), values.shape[1]), np.nan, dtype=np.float32)
            for i, (name, dose) in enumerate(parts):
                row = position.get((name, None if dose != dose else dose))
                # A dose never seen: what is known of the perturbation at every dose.
                rows = [row] if row is not None else [r for r, (own, _) in enumerate(stored) if own == name]
                if rows and all(np.array_equal(values[r], values[rows[0]], equal_nan=True) for r in rows):
                    chosen[i] = values[rows[0]]
            out.append(torch.as_tensor(chosen))
        return out[0], out[1]

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


def load(adata: AnnData, key: str = "gim", group: str | None = None) -> StoredModel:
    """The fitted model stored in `adata`.

    Raises
    ------
    KeyError
        If there is no fit.
    ValueError
        If the stored weights were truncated or edited, or the file is from a newer scgim.
    """
    from scgim.get._slots import modelled_genes, require_fit

    slots = require_fit(adata, key, group)
    uns = slots.uns
    modelled_genes(adata, slots)  # refuses an object that has lost some
    genes = np.array(list(dict.fromkeys(uns["targets"]["gene"].astype(str))), dtype=object)
    where = f"adata.uns[{slots.keys.uns!r}]"
    state = {name: np.asarray(value) for name, value in uns["state"].items()}
    if checksum(state) != str(uns.get("state_sha256", "")):
        raise ValueError(
            f"{where}['state'] does not match its checksum: the file was truncated or edited. "
            "Read the original file again, or run scgim.tl.fit_gim again."
        )
    try:
        settings = from_storable(dict(uns["params"]["fit"]))["settings"]
        with torch.random.fork_rng(devices=[]):  # new modules draw initial weights from the global state
            gim = _empty_model(len(genes), np.asarray(uns["features"]).shape[1], settings)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}['params']['fit'] is incomplete ({error}): run scgim.tl.fit_gim again.") from error
    unpack(gim, state)
    position = {gene: i for i, gene in enumerate(genes)}
    graph = np.zeros((len(genes),) * 2, dtype=bool)
    table = uns["graph"]
    for source, target in zip(table["source"].astype(str), table["target"].astype(str), strict=True):
        if source not in position or target not in position:
            raise ValueError(f"{where}['graph'] names {source!r} -> {target!r}, not both modelled genes.")
        graph[position[source], position[target]] = True
    return StoredModel(gim.eval(), graph, genes, slots.keys, uns)


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


def targets_table(
    model: StoredModel, conditions: pd.DataFrame, membership: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Tidy table of targets of the data's conditions, with the arrays (conditions, genes) behind it."""
    parts = list(
        zip(
            model.uns["parts"]["perturbation"].astype(str),
            model.uns["parts"]["dose"].astype(float),
            strict=True,
        )
    )
    own = [[parts[r] for r in np.flatnonzero(row)] for row in membership]
    prob, effects, held = model.interventions(own)
    probability, effect = prob.numpy(), model.expected_effect(effects, held)
    labels = conditions["condition"].astype(str).to_numpy()
    treated = ~conditions["is_control"].to_numpy(dtype=bool)
    return table_of(labels[treated], model.genes, probability[treated], effect[treated]), probability, effect


def table_of(labels: np.ndarray, genes: np.ndarray, probability: np.ndarray, effect: np.ndarray) -> pd.DataFrame:
    """condition, gene, probability, is_target, effect: one row per condition and gene."""
    n_conditions, n_genes = probability.shape
    table = pd.DataFrame(
        {
            "condition": np.repeat(labels.astype(object), n_genes),
            "gene": np.tile(genes.astype(object), n_conditions),
            "probability": probability.ravel().astype(np.float64),
            "is_target": probability.ravel() > 0.5,
            "effect": effect.ravel().astype(np.float64),
        }
    )
    table.index = table.index.astype(str)
    return table
