"""`tl.fit_gim`: fit a generative intervention model to a prepared AnnData."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed
from scgim._validation import check_anndata, plural
from scgim.data import PerturbationData
from scgim.inference import FitConfig, TrainingData, check_suited, fit
from scgim.inference.ensemble import fit_members
from scgim.inference.families import choose_family, open_choices
from scgim.inference.suited import automatic, tell_batches, tell_combinations, tell_large_shares
from scgim.slots import Entry, groups_of, read_entry
from scgim.slots.codec import to_storable
from scgim.slots.counts import why_not_counted

from ._beliefs import Beliefs, read_tables
from ._known import check_known_values, known_arrays
from ._settings import check_columns, check_settings, config_of
from ._store import check_free, remember, restore, store_fit

if TYPE_CHECKING:
    from anndata import AnnData


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Show the fields of `FitConfig` in the signature, before `**settings`."""
    signature = inspect.signature(function)
    *own, settings = signature.parameters.values()
    more = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(FitConfig)
        if f.name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=[*own, *more, settings])  # type: ignore[attr-defined]
    return function


@_with_settings
@undisturbed()
def fit_gim(
    adata: AnnData,
    *,
    hold_out: Any = None,
    mechanism: Literal["auto", "linear", "mlp", "ziln", "count", "count_linear"] = "auto",
    intervention: Literal["auto", "hard", "shift"] = "auto",
    known_targets: Mapping[str, Any] | None = None,
    known_interventions: Mapping[str, Mapping[str, float]] | None = None,
    prior_edges: pd.DataFrame | str | Path | None = None,
    forbidden_edges: pd.DataFrame | str | Path | None = None,
    prior_targets: pd.DataFrame | Mapping[str, Mapping[str, float]] | str | Path | None = None,
    batch_key: str | None = None,
    size_key: str | None = None,
    n_members: int = 1,
    n_jobs: int | None = None,
    preset: str | FitConfig = "default",
    groupby: str | list[str] | None = None,
    key_added: str = "gim",
    group: str | None = None,
    device: str = "auto",
    rng: RngLike = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> None:
    """Fit a generative intervention model.

    Learns a causal graph over the modelled genes, a mechanism for every gene, and the networks that map
    perturbation features to a distribution over atomic interventions, by maximum a posteriori estimation
    (Schneider et al., ICML 2025). Fits in several threads wait for each other; run several at a time in processes.

    Parameters
    ----------
    adata
        Prepared by `scgim.pp.prepare`.
    hold_out
        Conditions that are not trained on, as in `scgim.pp.hold_out`, e.g. ``{"Dacinostat": 10_000}``. None:
        keep what was chosen before.
    mechanism
        ``"ziln"`` (zero-inflated log-normal, for log-normalised expression), ``"mlp"`` or ``"linear"``
        (Gaussian, for any real values); ``"count"`` and ``"count_linear"``: the same two, of a latent expression of
        which the raw counts in ``layers["counts"]`` are a measurement (see `counting`); ``"auto"``: ``count`` for
        counts (``ziln`` where they are not whole numbers, and with the paper's start), ``ziln`` for log1p input; for
        continuous input ``linear`` or ``mlp``, whichever explains the cells better.
    intervention
        ``"hard"``: a targeted gene loses its parents; ``"shift"``: its location is shifted, and with zeros their log
        odds. ``"auto"``: for continuous input the one that explains the cells better, else hard. What was chosen for
        continuous input, and by how many nats, is logged, and kept in ``get.params(adata)["fit"]["evidence"]``.
    known_targets
        Perturbation (or perturbation with dose, e.g. ``"A_10"``) -> gene or genes, where you know them:
        these targets are not learned.
    known_interventions
        Perturbation -> {gene: value}: atomic interventions `do(gene = value)`, in units of `adata.X`.
    prior_edges
        What is believed of edges before the data: a table, or a CSV file, with the columns `source`, `target` and
        `probability`. 1 and 0 are certain; of pairs that it does not name nothing is believed. Instead of probabilities
        `weight`, of any sign (as of decoupler's CollecTRI): the largest counts as 0.5. Genes that are not modelled are
        counted and left out.
    forbidden_edges
        Edges that there are not: a table with `source` and `target`, or a table of True and False, genes x genes.
    prior_targets
        Probabilities with which a perturbation (or perturbation with dose) targets a gene: ``{"A": {"gene": 0.9}}``, a
        table of perturbations x genes, or a CSV file of one. Unlike `known_targets` the data may overrule it.
    batch_key
        For ``count``: column of `obs` with the batch of each cell (lane, plate, donor). Every gene has a rate of its
        own in every batch, learned from its control cells, of which every batch needs some.
    size_key
        For ``count``: column of `obs` with size factors (above 0; only their ratios matter). None: counts of the genes
        that are not modelled, or total counts where those are too few.
    n_members
        Fits in all. Those after the first are to cells drawn again with replacement within every condition, with other
        seeds; probabilities of edges and targets are the means over all. The first, to all cells, predicts cells.
    n_jobs
        Processes for those at a time, as in joblib: None means 1, or what `joblib.parallel_config` says; -1 all cores.
    preset
        ``"default"``, or ``"paper"``: random start and augmented Lagrangian; or a `scgim.inference.FitConfig`.
    groupby
        The column (or columns) given to `prepare`; only checked. One model is fitted per group.
    key_added
        The `key_added` of `prepare`; prefix of every slot.
    group
        Fit only this group.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    rng
        Seed or generator; the global random state is untouched.
    progress
        Show a progress bar.
    checkpoint
        File to save the running fit to, and to resume from; of several members the first alone. With several groups,
        the group's name is added.
    **settings
        Any field of `scgim.inference.FitConfig`, e.g. ``max_steps=1000`` or ``graph_sparsity=50.0``; completion and
        ``inspect.signature(scgim.tl.fit_gim)`` show them with their types and defaults.

    Returns
    -------
    None. Writes

    - ``varp["gim_edge_prob"]``: CSR float32 (genes, genes), row = cause, column = effect
    - ``varm["gim_target_prob"]``, ``varm["gim_effect"]``: (genes, conditions), NaN outside the graph. The
      effect is the mean expression under the replaced mechanism (hard) or the shift of the location (shift).
    - ``uns["gim"]["graph"]``: the DAG's edges (with several members, those of probability 0.1 or more);
      ``["targets"]``: condition x gene table; ``["history"]``; ``["params"]["fit"]``: every argument, of beliefs what
      was used. These are for reading. ``["state"]``: the record from which the fit is read back, including the weights
      of all members, with its SHA-256.

    Raises
    ------
    KeyError
        If `adata` is not prepared.
    ValueError
        If a held-out condition, gene, perturbation, setting or device does not exist, the cells are not those that
        were prepared (some removed, added, changed or under another condition), or the data do not fit the
        mechanism. `adata` is then left as it was.
    FloatingPointError
        If the optimisation stops being finite.

    Notes
    -----
    Fits in several threads wait for each other, because torch's random state and Pyro's handlers belong to the process.
    To fit in parallel use processes: those of `multiprocessing` or joblib, forked ones included.

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.simulated_sciplex3()
    >>> scgim.pp.prepare(adata, dose_key="dose_value", n_genes=10, hold_out={"Dacinostat": 10_000})
    >>> scgim.tl.fit_gim(adata, max_steps=20, progress=False)
    >>> list(adata.uns["gim"]["graph"].columns)
    ['source', 'target', 'probability']
    """
    check_anndata(adata)
    given = {
        "preset": preset, "mechanism": mechanism, "intervention": intervention, "hold_out": hold_out,
        "known_targets": known_targets, "known_interventions": known_interventions, "batch_key": batch_key,
        "size_key": size_key, "n_members": n_members, "groupby": groupby, "group": group, "device": device,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }  # fmt: skip
    groups = groups_of(adata, key_added)
    # Everything that can be refused is refused before any work.
    believed: dict[str, Any] = {
        "prior_edges": prior_edges, "forbidden_edges": forbidden_edges, "prior_targets": prior_targets,
    }  # fmt: skip
    chosen = check_settings(**{**given, "checkpoint": checkpoint}, **believed, n_jobs=n_jobs, **settings)
    given["device"], tables = str(chosen), read_tables(**believed)
    generator = as_generator(rng)
    names = [group] if groups is None or group is not None else groups
    entries = [read_entry(adata, key_added, name) for name in names]
    _check_groupby(entries[0], groupby)
    for entry in entries:
        check_free(adata, entry)
    to_storable(given, path="params")  # refuses what no file can hold
    undo = remember(adata, [entry.keys for entry in entries])
    try:
        if hold_out is not None:
            from scgim.pp import hold_out as choose_hold_out

            choose_hold_out(adata, hold_out=hold_out, key=key_added, group=group)
            entries = [read_entry(adata, key_added, name) for name in names]
        jobs = [_Job.of(adata, entry, given, tables, settings) for entry in entries]
        for job in jobs:
            job.run(adata, chosen, draw_seed(generator), progress, checkpoint, n_jobs)
    except BaseException:
        restore(adata, undo)
        raise


@dataclass
class _Job:
    """The fit of one group: its data and settings, checked."""

    entry: Entry
    data: TrainingData
    config: FitConfig
    known: tuple[np.ndarray | None, np.ndarray | None]
    beliefs: Beliefs
    cells: PerturbationData
    given: dict[str, Any]

    @classmethod
    def of(
        cls, adata: AnnData, entry: Entry, given: dict[str, Any], tables: dict[str, Any], settings: dict[str, Any]
    ) -> _Job:
        kind, preset = given["mechanism"], given["preset"]
        if kind == "auto" and not isinstance(preset, FitConfig):
            kind = automatic(str(entry.arguments["input"]), preset, settings, partial(why_not_counted, adata, entry))
        config = config_of(preset, kind, given["intervention"], settings)
        size_key, batch_key = given["size_key"], given["batch_key"]
        check_columns(config, batch_key, size_key)
        known = known_arrays(entry, given["known_targets"], given["known_interventions"])
        check_known_values(known[1], entry.genes, config.mechanism)
        beliefs = Beliefs.of(entry, **tables)
        cells = PerturbationData.from_anndata(
            adata, key=entry.keys.key, group=entry.keys.group, counts=config.latent, size_key=size_key,
            batch_key=batch_key,
        )  # fmt: skip
        check_suited(cells, config.mechanism, entry.genes)
        cells = replace(cells, prior_edges=beliefs.edges, prior_targets=beliefs.targets)
        data = TrainingData.of(replace(cells, known_targets=known[0], known_values=known[1]))
        if data.n_conditions < 2:
            raise InvalidValue("There is one condition only: nothing to learn about perturbations.")
        choices = open_choices(str(entry.arguments["input"]), given, settings)
        if choices is not None:
            config, evidence = choose_family(data, config, *choices)
            given = {**given, "evidence": evidence}
        return cls(entry, data, config, known, beliefs, cells, given)

    def run(
        self,
        adata: AnnData,
        device: torch.device,
        seed: int,
        progress: bool,
        checkpoint: str | Path | None,
        n_jobs: int | None,
    ) -> None:
        """Fit, and write the result."""
        keys, data = self.entry.keys, self.data
        if checkpoint is not None and keys.group is not None:
            checkpoint = Path(f"{checkpoint}.{keys.prefix}")
        logger.info(
            "fitting %r: %s, %s, %s, mechanism %s, on %s", keys.prefix, plural(data.n_genes, "gene"),
            plural(len(data.x), "cell"), plural(data.n_conditions, "condition"), self.config.mechanism, device,
        )  # fmt: skip
        tell_batches(self.cells, self.entry.genes)
        if self.given["size_key"] is None:
            tell_large_shares(self.cells, self.entry.genes)
        if self.config.intervention == "hard" and self.known[1] is None:
            tell_combinations(self.cells)
        result = fit(data.to(device), self.config, rng=seed, progress=progress, checkpoint=checkpoint)
        more = 0 if result.stopped == "interrupted" else int(self.given["n_members"]) - 1
        members, failures = fit_members(data, self.config, more, seed=seed, n_jobs=n_jobs, device=device)
        if failures:
            logger.warning(
                "fit %r: %d of %d members failed, and are left out: %s", keys.prefix, len(failures), more + 1,
                "; ".join(dict.fromkeys(failures)),
            )  # fmt: skip
        control = data.x[data.membership[data.condition].sum(1) == 0]
        given = {**self.given, **self.beliefs.tables(self.entry), "seed": str(seed), "failed_members": failures}
        store_fit(adata, self.entry, result, given, self.known, control.mean(0).numpy(), self.cells.measured, members)


def _check_groupby(entry: Entry, groupby: Any) -> None:
    stored = entry.arguments["groupby"]
    if groupby is None or np.atleast_1d(groupby).tolist() == np.atleast_1d(stored).tolist():
        return
    if stored is None:
        raise InvalidValue(
            f"groupby={groupby!r}: run scgim.pp.prepare(adata, groupby={groupby!r}, ...) first; genes and "
            "features are chosen per group."
        )
    raise InvalidValue(f"groupby={groupby!r}, but {entry.keys.key!r} was prepared with groupby={stored!r}.")
