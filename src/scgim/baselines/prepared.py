"""The AnnData front of the baselines: what `pp.prepare` wrote -> TrainingData and Condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgim._keys import Keys
from scgim._logging import log_duration
from scgim._rng import RngLike
from scgim._validation import check_choice, listing, require_prepared, suggestion

from .additive import Additive
from .bacadi import BaCaDI
from .condot import CondOT
from .control import Control
from .gim import GIMMethod
from .gnies import GnIES
from .intervention_model import InterventionModel
from .jci_pc import JCIPC, JCIPCContext
from .limits import fit_within
from .mean_shift import MeanShift
from .next_lower_dose import NextLowerDose
from .protocol import Baseline, Condition, TrainingData
from .ridge import Ridge
from .shift import ShiftBaseline
from .ut_igsp import UTIGSP

if TYPE_CHECKING:
    from anndata import AnnData

_METHODS: dict[str, type[Baseline]] = {
    "control": Control,
    "next_lower_dose": NextLowerDose,
    "mean_shift": MeanShift,
    "ridge": Ridge,
    "additive": Additive,
    "condot": CondOT,
    "gim": GIMMethod,
    "gnies": GnIES,
    "bacadi": BaCaDI,
    "ut_igsp": UTIGSP,
    "jci_pc": JCIPC,
    "jci_pc_context": JCIPCContext,
}


def fit(
    adata: AnnData,
    *,
    method: str | Baseline,
    key: str = "gim",
    group: str | None = None,
    rng: RngLike = 0,
    time_limit: float | None = None,
    **options: Any,
) -> Baseline:
    """Fit a baseline, or GIM under the baselines' protocol, on the training cells of a prepared AnnData.

    Parameters
    ----------
    adata
        Prepared by `scgim.pp.prepare`. Nothing is written into it. Cells whose split is "train" or "valid"
        are used (baselines have no use for a validation set of cells), "test" never.
    method
        "control", "next_lower_dose", "mean_shift", "ridge", "additive", "ut_igsp", "jci_pc", "jci_pc_context",
        "gnies", "condot", "bacadi" or "gim"; or a baseline object.
    key, group
        Which preparation: its `key_added`, and one of its groups where `groupby` was given.
    rng
        Seed or generator.
    time_limit
        Most seconds for the fit, which then runs in a process of its own, see :func:`fit_within`: a script must call
        this under ``if __name__ == "__main__":``. None: no limit.
    **options
        Of the baseline, e.g. ``steps=500`` for "mean_shift". By default, where the data were declared to be >= 0
        (``input="counts"`` or ``"log1p"``), `clip` of the mean-shift baselines is True and `mechanism` of "gim" and
        "bacadi" is "ziln", else False and "mlp".

    Returns
    -------
    Baseline
        Fitted; ``sample(condition, n, rng)`` takes conditions from :func:`prepared_condition`.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`.
    ValueError
        If the method is unknown or there are no control cells to train on.
    CannotPredict
        If the data do not suit the method. `TimeLimitExceeded` is one: the fit took longer than `time_limit`.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()                                   # doctest: +SKIP
    >>> scgim.pp.prepare(adata, hold_out={"Dacinostat": 10_000})                      # doctest: +SKIP
    >>> ridge = scgim.baselines.fit(adata, method="ridge")                            # doctest: +SKIP
    >>> held_out = scgim.baselines.prepared_condition(adata, "Dacinostat_10000")      # doctest: +SKIP
    >>> ridge.sample(held_out, n=100).shape                                           # doctest: +SKIP
    (100, 50)
    """
    keys, slots = _require(adata, key, group)
    baseline = method if isinstance(method, Baseline) else _make(method, slots, options)
    data = training_data(adata, key=keys.key, group=keys.group)
    with log_duration(f"baseline {baseline.name} fitted on {len(data.x)} cells"):
        if time_limit is None:
            return baseline.fit(data, rng)
        return fit_within(baseline, data, rng, seconds=time_limit)


def training_data(adata: AnnData, *, key: str = "gim", group: str | None = None) -> TrainingData:
    """The training cells (split "train" or "valid") and conditions of a prepared AnnData.

    Parameters
    ----------
    adata
        Prepared by `scgim.pp.prepare`; only the modelled genes are made dense.
    key, group
        Which preparation.

    Returns
    -------
    TrainingData
        Conditions in the order of ``uns[key]["conditions"]``, held-out ones included, without cells.

    Raises
    ------
    KeyError, ValueError
        If nothing was prepared under `key`, or there is no control cell.
    """
    keys, slots = _require(adata, key, group)
    table = slots["conditions"]
    training = adata.obs[keys.split].isin(["train", "valid"]) & adata.obs[keys.condition].notna()
    rows = np.flatnonzero(training.to_numpy(dtype=bool))
    position = {str(label): row for row, label in enumerate(table["condition"])}
    codes = np.array([position[str(label)] for label in adata.obs[keys.condition].iloc[rows]], dtype=np.int64)
    return TrainingData(
        x=dense_cells(adata, keys, rows),
        codes=codes,
        conditions=table,
        features=_condition_features(slots),
        parts=[_condition_parts(slots, row) for row in range(len(table))],
        graded=str(slots["feature_spec"]["kind"]) == "potency",
    )


def prepared_condition(adata: AnnData, label: str, *, key: str = "gim", group: str | None = None) -> Condition:
    """One condition of a prepared AnnData, held-out ones included.

    Parameters
    ----------
    adata
        Prepared by `scgim.pp.prepare`.
    label
        Its label in ``uns[key]["conditions"]``.
    key, group
        Which preparation.

    Returns
    -------
    Condition
        With its perturbation, dose, features and parts.

    Raises
    ------
    KeyError
        If there is no such condition.
    """
    _, slots = _require(adata, key, group)
    table = slots["conditions"].reset_index(drop=True)
    labels = [str(name) for name in table["condition"]]
    if label not in labels:
        raise KeyError(
            f"Condition {label!r} does not exist.{suggestion(label, labels)} The conditions are: {listing(labels)}."
        )
    row = labels.index(label)
    return Condition(
        label=label,
        perturbation=str(table["perturbation"].iloc[row]),
        dose=float(table["dose"].iloc[row]),
        features=_condition_features(slots)[row],
        parts=_condition_parts(slots, row),
    )


def dense_cells(adata: AnnData, keys: Keys, rows: np.ndarray) -> np.ndarray:
    """Modelled genes of the given cells, float32 (cells, genes); nothing else is made dense.

    Parameters
    ----------
    adata
        In memory or backed; X dense, sparse or Dask.
    keys
        Slot names of the preparation.
    rows
        int (cells,), positions.
    """
    x = adata[rows, adata.var[keys.genes].to_numpy(dtype=bool)].X
    for convert in ("compute", "toarray"):  # Dask, then sparse
        if hasattr(x, convert):
            x = getattr(x, convert)()
    return np.asarray(x, dtype=np.float32)


def _require(adata: AnnData, key: str, group: str | None) -> tuple[Keys, dict[str, Any]]:
    """`require_prepared`, and every step of `pp.prepare` that a baseline reads must have run."""
    keys, slots = require_prepared(adata, key, group)
    missing = [f"adata.obs[{name!r}]" for name in (keys.condition, keys.split) if name not in adata.obs]
    missing += [f"adata.var[{keys.genes!r}]"] if keys.genes not in adata.var else []
    needed = ("conditions", "parts", "membership", "features")
    missing += [f"adata.uns[{keys.uns!r}][{name!r}]" for name in needed if name not in slots]
    if missing:
        raise KeyError(f"{', '.join(missing)} not found: run scgim.pp.prepare(adata, key_added={key!r}) first.")
    return keys, slots


def method_class(method: str) -> type[Baseline]:
    """The class behind a method's name; an unknown one is a ValueError that lists the known ones."""
    check_choice(method, "method", tuple(_METHODS))
    return _METHODS[method]


def _make(method: str, slots: dict[str, Any], options: dict[str, Any]) -> Baseline:
    kind = method_class(method)
    declared = str(slots.get("params", {}).get("prepare", {}).get("input", ""))
    positive = declared in ("counts", "log1p")
    if issubclass(kind, ShiftBaseline | CondOT):
        options = {"clip": positive, **options}
    elif issubclass(kind, InterventionModel) and declared:
        options = {"mechanism": "ziln" if positive else "mlp", **options}
    return kind(**options)


def _condition_features(slots: dict[str, Any]) -> np.ndarray:
    """(conditions, p): features summed over the parts of each condition."""
    return np.asarray(slots["membership"], dtype=np.float32) @ np.asarray(slots["features"], dtype=np.float32)


def _condition_parts(slots: dict[str, Any], row: int) -> tuple[str, ...]:
    names = slots["parts"]["part"].astype(str).to_numpy()
    return tuple(str(name) for name in names[np.asarray(slots["membership"])[row].astype(bool)])
