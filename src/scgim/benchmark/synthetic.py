"""The synthetic experiment as tasks: simulated systems with known graph, targets and dose responses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from scgim.baselines import Condition, TrainingData
from scgim.simulate import sample_truth, synthetic

from .tasks import Query, Task

if TYPE_CHECKING:
    from anndata import AnnData

#: Splits of the simulator and how tables name them.
SPLITS = {"train": "in distribution", "new_dose": "new doses", "new_target": "new targets"}


@dataclass(frozen=True)
class SyntheticTask:
    """One simulated system (`scgim.simulate.synthetic`), held out doses and target sets.

    Parameters
    ----------
    mechanism
        "linear", "mlp" or "ziln".
    graph
        "er" or "sf".
    intervention
        "hard" or "shift".
    seed
        Of the system, and of fitting and sampling.
    n_genes, n_perturbations, cells_per_condition, n_control, n_features, n_new_targets
        The design; the defaults are the paper's where it states them, see `scgim.simulate.synthetic`.

    Examples
    --------
    >>> from scgim.benchmark import SyntheticTask
    >>> spec = SyntheticTask(mechanism="linear", n_genes=5, n_perturbations=3, n_features=4, n_new_targets=1)
    >>> task = spec.load()
    >>> {split: len(queries) for split, queries in task.splits.items()}
    {'train': 12, 'new_dose': 15, 'new_target': 4}
    """

    mechanism: str = "mlp"
    graph: str = "er"
    intervention: str = "hard"
    seed: int = 0
    n_genes: int = 20
    n_perturbations: int = 40
    cells_per_condition: int = 50
    n_control: int = 800
    n_features: int = 20
    n_new_targets: int = 20

    @property
    def name(self) -> str:
        """E.g. ``mlp-er-hard-seed3``, with whatever differs from the paper's design in between."""
        changed = [f"{f.name}{getattr(self, f.name)}" for f in fields(self)[4:] if getattr(self, f.name) != f.default]
        return "-".join([self.mechanism, self.graph, self.intervention, *changed, f"seed{self.seed}"])

    def columns(self) -> dict[str, Any]:
        """All settings."""
        return asdict(self)

    def simulate(self) -> AnnData:
        """The simulated cells, with their truth."""
        settings = asdict(self)
        return synthetic(rng=settings.pop("seed"), **settings)

    def load(self) -> Task:
        """Simulate; the queries of the training conditions are fresh cells of the true model."""
        adata = self.simulate()
        truth = adata.uns["truth"]
        table = truth["conditions"]
        split_of = table["split"].astype(str).to_numpy()
        treated = ~table["is_control"].to_numpy(dtype=bool)
        codes = _codes(adata, table["condition"].astype(str).tolist())
        x = np.asarray(adata.X, dtype=np.float32)
        used = split_of[codes] == "train"
        train = TrainingData(x[used], codes[used], table, truth["features"])
        splits: dict[str, list[Query]] = {}
        fresh: Iterable[np.ndarray]
        for split in SPLITS:
            rows = np.flatnonzero((split_of == split) & treated)
            if not len(rows):
                continue
            if split == "train":
                fresh = sample_truth(
                    adata,
                    targets=truth["targets"][rows],
                    effects=truth["effects"][rows],
                    n=self.cells_per_condition,
                    rng=np.random.default_rng([self.seed, 2]),
                )
            else:
                fresh = [x[codes == row] for row in rows]
            splits[split] = [
                Query(train.condition(int(row)), cells, truth["targets"][row].astype(bool))
                for row, cells in zip(rows, fresh, strict=True)
            ]
        family = {"mechanism": self.mechanism, "intervention": self.intervention}
        clip = {"clip": self.mechanism == "ziln"}
        defaults: dict[str, dict[str, Any]] = {name: dict(family) for name in ("gim", "bacadi")}
        defaults |= {name: dict(clip) for name in ("mean_shift", "ridge", "additive", "condot")}
        causal = ("ut_igsp", "gnies", "jci_pc", "jci_pc_context")
        defaults |= {name: {"intervention": self.intervention} for name in causal}
        return Task(train, splits, adata.varp["true_graph"].toarray() > 0, defaults)

    def curves(self, n_doses: int = 12) -> tuple[list[Condition], np.ndarray, np.ndarray]:
        """Conditions of the trained perturbations along a grid of doses, with true targets and effects.

        Returns
        -------
        conditions
            `n_perturbations * n_doses` of them, perturbation by perturbation.
        targets, effects
            (conditions, genes)
        """
        from scgim.simulate import truth_at

        adata = self.simulate()
        table = adata.uns["truth"]["conditions"]
        names = table.loc[(table["split"] == "train") & ~table["is_control"], "perturbation"].unique()
        pairs = [(str(name), float(dose)) for name in names for dose in np.linspace(0.1, 2.4, n_doses)]
        targets, effects, features = truth_at(adata, perturbations=pairs)
        conditions = [
            Condition(f"{name}_{dose:g}", name, dose, row, (f"{name}_{dose:g}",))
            for (name, dose), row in zip(pairs, features, strict=True)
        ]
        return conditions, targets.astype(bool), effects


def _codes(adata: AnnData, labels: list[str]) -> np.ndarray:
    """(cells,) row of the table of conditions."""
    row = {label: i for i, label in enumerate(labels)}
    return adata.obs["condition"].astype(str).map(row).to_numpy(dtype=int)
