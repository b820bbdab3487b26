"""The AnnData front of the baselines: what `pp.prepare` wrote -> TrainingData and Condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgim._logging import log_duration
from scgim._process import undisturbed
from scgim._rng import RngLike
from scgim._validation import check_choice, listing, suggestion
from scgim.data import condition_in
from scgim.slots import Entry, read_entry

from .additive import Additive
from .condot import CondOT
from .control import Control
from .gim import BaCaDI, GIMMethod, InterventionModel
from .gnies import GnIES
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


@undisturbed()
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
    baseline = method if isinstance(method, Baseline) else _make(method, read_entry(adata, key, group), options)
    data = training_data(adata, key=key, group=group)
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
    return TrainingData.from_anndata(adata, key=key, group=group)


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
    entry = read_entry(adata, key, group)
    labels = entry.labels
    if label not in labels:
        raise KeyError(
            f"Condition {label!r} does not exist.{suggestion(label, labels)} The conditions are: {listing(labels)}."
        )
    part_labels = entry.prepared["parts"]["part"].astype(str)
    return condition_in(entry.conditions, labels.index(label), entry.membership, part_labels, entry.features)


def method_class(method: str) -> type[Baseline]:
    """The class behind a method's name; an unknown one is a ValueError that lists the known ones."""
    check_choice(method, "method", tuple(_METHODS))
    return _METHODS[method]


def _make(method: str, entry: Entry, options: dict[str, Any]) -> Baseline:
    kind = method_class(method)
    declared = str(entry.arguments["input"])
    positive = declared in ("counts", "log1p")
    if issubclass(kind, ShiftBaseline | CondOT):
        options = {"clip": positive, **options}
    elif issubclass(kind, InterventionModel):
        options = {"mechanism": "ziln" if positive else "mlp", **options}
    return kind(**options)
