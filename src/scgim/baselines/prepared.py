"""The AnnData front of the baselines: what `pp.prepare` wrote -> a fitted baseline, its data and conditions."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from scgim._errors import NotFound
from scgim._logging import log_duration
from scgim._process import undisturbed
from scgim._rng import RngLike
from scgim._validation import check_choice, listing, suggestion
from scgim.data import condition_in
from scgim.slots import read_entry
from scgim.slots.counts import why_not_counted

from .limits import fit_within
from .protocol import Baseline, Condition, TrainingData

if TYPE_CHECKING:
    from anndata import AnnData


#: Options that are "auto" where they are not given.
_OPEN = ("mechanism", "intervention")


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
        Prepared by `scgim.pp.prepare`. Nothing is written into it. Cells whose split is "train" or "valid" are used.
    method
        "control", "next_lower_dose", "mean_shift", "ridge", "additive", "ut_igsp", "jci_pc", "jci_pc_context",
        "gnies", "condot", "bacadi" or "gim"; or a baseline object.
    key, group
        Which preparation: its `key_added`, and one of its groups where `groupby` was given.
    rng
        Seed or generator.
    time_limit
        Maximum time for the fit in seconds. It then runs in a separate process, see :func:`fit_within`: a script
        must call this under ``if __name__ == "__main__":``. None: no limit.
    **options
        Of the baseline, e.g. ``steps=500`` for "mean_shift". By default, where the data were declared to be >= 0
        (``input="counts"`` or ``"log1p"``), `clip` of "condot" and the mean-shift baselines is True, else False, and
        `mechanism` and `intervention` of "gim" and "bacadi" are those of `scgim.tl.fit_gim`.

    Returns
    -------
    Baseline
        Fitted; ``sample(condition, n, rng)`` takes conditions from :func:`prepared_condition`.

    Raises
    ------
    KeyError
        If nothing was prepared under `key`.
    ValueError
        If the method is unknown, cells or split were changed, or there are no control cells to train on.
    CannotPredict
        If the data do not suit the method. `TimeLimitExceeded` is one: the fit took longer than `time_limit`.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()                                   # doctest: +SKIP
    >>> scgim.pp.prepare(adata, hold_out={"Dacinostat": 10_000})                      # doctest: +SKIP
    >>> held_out = scgim.baselines.prepared_condition(adata, "Dacinostat_10000")      # doctest: +SKIP
    >>> scgim.baselines.fit(adata, method="ridge").sample(held_out, n=100).shape      # doctest: +SKIP
    (100, 50)
    """
    if isinstance(method, Baseline):
        baseline = method
    else:
        options = {name: value for name, value in options.items() if not (name in _OPEN and value == "auto")}
        baseline = method_class(method)(**options, **_implied(method, adata, key, group, options))
    data = training_data(adata, key=key, group=group, counts=baseline.reads_counts)
    with log_duration(f"baseline {baseline.name} fitted on {len(data.x)} cells"):
        if time_limit is None:
            return baseline.fit(data, rng)
        return fit_within(baseline, data, rng, seconds=time_limit)


def training_data(
    adata: AnnData,
    *,
    key: str = "gim",
    group: str | None = None,
    counts: bool = False,
    size_key: str | None = None,
    batch_key: str | None = None,
) -> TrainingData:
    """The training cells (split "train" or "valid") of a prepared AnnData and all conditions, held-out ones included.

    Short for :meth:`scgim.data.PerturbationData.from_anndata`.
    """
    return TrainingData.from_anndata(adata, key=key, group=group, counts=counts, size_key=size_key, batch_key=batch_key)


def prepared_condition(adata: AnnData, label: str, *, key: str = "gim", group: str | None = None) -> Condition:
    """One condition of a prepared AnnData, held-out ones included.

    `label`: as in ``uns[key]["conditions"]``, a KeyError where there is no such condition; `key`, `group`: which
    preparation.
    """
    entry = read_entry(adata, key, group)
    if label not in entry.labels:
        raise NotFound(
            f"Condition {label!r} does not exist.{suggestion(label, entry.labels)} The conditions are: "
            f"{listing(entry.labels)}."
        )
    parts = entry.prepared["parts"]["part"].astype(str)
    return condition_in(entry.conditions, entry.labels.index(label), entry.membership, parts, entry.features)


def methods() -> dict[str, type[Baseline]]:
    """Name -> class, of all baselines that the package exports."""
    from scgim import baselines

    exported = [getattr(baselines, name) for name in baselines.__all__]
    kinds = [
        kind for kind in exported if isinstance(kind, type) and issubclass(kind, Baseline) and kind is not Baseline
    ]
    return {kind.name: kind for kind in kinds}


def method_class(method: str) -> type[Baseline]:
    """The class behind a method's name; an unknown one is a ValueError that lists the known ones."""
    known = methods()
    check_choice(method, "method", tuple(known))
    return known[method]


def _implied(method: str, adata: AnnData, key: str, group: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the declared input, or continuous cells themselves, say of a method's options."""
    known, entry = inspect.signature(method_class(method)).parameters, read_entry(adata, key, group)
    kind = str(entry.arguments["input"])
    implied: dict[str, Any] = {"clip": kind in ("counts", "log1p")}
    if "mechanism" in known:
        from scgim.inference import TrainingData as Tensors
        from scgim.inference import make_config
        from scgim.inference.families import choose_family, open_choices
        from scgim.inference.suited import automatic

        preset = options.get("preset", "default")
        implied["mechanism"] = automatic(kind, preset, options, partial(why_not_counted, adata, entry))
        choices = open_choices(kind, options, options)
        if choices is not None:
            config = make_config(mechanism=options.get("mechanism", "mlp"))
            config, _ = choose_family(Tensors.of(training_data(adata, key=key, group=group)), config, *choices)
            implied |= {"mechanism": config.mechanism, "intervention": config.intervention}
    return {name: value for name, value in implied.items() if name in known and name not in options}
