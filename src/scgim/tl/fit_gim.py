"""`tl.fit_gim`: fit a generative intervention model to a prepared AnnData."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgim._logging import logger
from scgim._process import undisturbed
from scgim._rng import RngLike, as_generator, draw_seed
from scgim._storage import from_storable, to_storable
from scgim._validation import check_anndata, listing, plural
from scgim.inference import FitResult, fit, make_config, pack
from scgim.slots import Entry, checksum, groups_of, read_entry, seal

from ._device import resolve_device
from ._prepared import (
    check_expression,
    check_known_values,
    known_arrays,
    training_tensors,
)
from ._undo import remember, restore
from .stored import stored_model, targets_table

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

#: A fit in which a typical condition targets more than this share of the genes has degenerated.
_DEGENERATE = 0.5


@undisturbed()
def fit_gim(
    adata: AnnData,
    *,
    hold_out: Any = None,
    mechanism: Literal["auto", "linear", "mlp", "ziln"] = "auto",
    intervention: Literal["hard", "shift"] = "hard",
    known_targets: Mapping[str, Any] | None = None,
    known_interventions: Mapping[str, Mapping[str, float]] | None = None,
    preset: str = "default",
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
        (Gaussian, for any real values); ``"auto"``: ``ziln`` for counts or log1p input, else ``mlp``.
    intervention
        ``"hard"``: a targeted gene loses its parents; ``"shift"``: its location is shifted, and with zeros their log
        odds.
    known_targets
        Perturbation (or perturbation with dose, e.g. ``"A_10"``) -> gene or genes, where you know them:
        these targets are not learned.
    known_interventions
        Perturbation -> {gene: value}: atomic interventions `do(gene = value)`, in units of `adata.X`.
    preset
        ``"default"``, or ``"paper"``: random start and log-mean-exp objective.
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
        File to save the fit under way to, and to resume it from. With several groups, the group's name is
        added.
    **settings
        Any field of `scgim.inference.FitConfig`, e.g. ``max_steps=1000`` or ``graph_sparsity=50.0``.

    Returns
    -------
    None. Writes

    - ``varp["gim_edge_prob"]``: CSR float32 (genes, genes), row = cause, column = effect
    - ``varm["gim_target_prob"]``, ``varm["gim_effect"]``: (genes, conditions), NaN outside the graph. The
      effect is the mean expression under the replaced mechanism (hard) or the shift of the location (shift).
    - ``uns["gim"]["graph"]``: the DAG's edges; ``["targets"]``: condition x gene table; ``["history"]``;
      ``["params"]["fit"]``: every argument. These are for people. ``["state"]``: the record that everything is read
      back from, the weights among it, with its SHA-256.

    Notes
    -----
    Fits in several threads wait for each other, because torch's random state and Pyro's handlers belong to the process.
    To fit in parallel use processes: those of `multiprocessing` or joblib, forked ones included.

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
    groups = groups_of(adata, key_added)
    # Everything that can be refused is refused before any work.
    chosen_device = check_settings(
        preset=preset, mechanism=mechanism, intervention=intervention, device=device, known_targets=known_targets,
        known_interventions=known_interventions, checkpoint=checkpoint, **settings,
    )  # fmt: skip
    generator = as_generator(rng)
    chosen = [group] if groups is None or group is not None else groups
    entries = [read_entry(adata, key_added, name) for name in chosen]
    _check_groupby(entries[0], groupby)
    for entry in entries:
        _check_free(adata, entry)
    given = {
        "preset": preset,
        "mechanism": mechanism,
        "intervention": intervention,
        "hold_out": hold_out,
        "known_targets": known_targets,
        "known_interventions": known_interventions,
        "groupby": groupby,
        "group": group,
        "device": str(chosen_device),
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }
    to_storable(given, path="params")  # refuses what no file can hold
    undo = remember(adata, [entry.keys for entry in entries])
    try:
        if hold_out is not None:
            from scgim.pp import hold_out as choose_hold_out

            choose_hold_out(adata, hold_out=hold_out, key=key_added, group=group)
            entries = [read_entry(adata, key_added, name) for name in chosen]
        jobs = []
        for entry in entries:
            kind = mechanism if mechanism != "auto" else _mechanism_for(entry)
            genes = np.array(entry.genes, dtype=object)
            known = known_arrays(entry, known_targets, known_interventions)
            data = training_tensors(adata, entry, known)
            check_expression(data.x.numpy(), genes, kind)
            check_known_values(known[1], genes, kind)
            if data.n_conditions < 2:
                raise ValueError("There is one condition only: nothing to learn about perturbations.")
            config = make_config(preset, mechanism=kind, intervention=intervention, **settings)
            jobs.append((entry, known, data, config))
        for entry, known, data, config in jobs:
            seed = draw_seed(generator)
            path = checkpoint
            if checkpoint is not None and entry.keys.group is not None:
                path = Path(f"{checkpoint}.{entry.keys.prefix}")
            logger.info(
                "fitting %r: %s, %s, %s, mechanism %s, on %s", entry.keys.prefix, plural(data.n_genes, "gene"),
                plural(len(data.x), "cell"), plural(data.n_conditions, "condition"), config.mechanism, chosen_device,
            )  # fmt: skip
            result = fit(data.to(chosen_device), config, rng=seed, progress=progress, checkpoint=path)
            arguments = {
                **given,
                "seed": str(seed),
                "settings": result.config.asdict(),
                "seconds": result.seconds,
                "n_steps": result.n_steps,
                "stopped": result.stopped,
                "n_edges_dropped": result.n_dropped,
            }
            control = data.x[data.membership[data.condition].sum(1) == 0]
            recorded = {"known_targets": known[0], "known_values": known[1], "control_mean": control.mean(0).numpy()}
            _store(adata, entry, result, arguments, recorded)
    except BaseException:
        restore(adata, undo)
        raise


def check_settings(
    *,
    preset: str = "default",
    mechanism: str = "auto",
    intervention: str = "hard",
    device: str = "auto",
    known_targets: Any = None,
    known_interventions: Any = None,
    checkpoint: Any = None,
    **settings: Any,
) -> torch.device:
    """Check what needs no data; the device."""
    kind: Any = "ziln" if mechanism == "auto" else mechanism
    make_config(preset, mechanism=kind, intervention=intervention, **settings)
    if not settings.get("amortised", True):
        raise ValueError(
            "amortised=False gives no model of new perturbations to store: use "
            'scgim.baselines.fit(adata, method="bacadi").'
        )
    for name, value in (("known_targets", known_targets), ("known_interventions", known_interventions)):
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dict, such as {{'A': 'gene'}}; got {value!r}.")
    if checkpoint is not None and not isinstance(checkpoint, str | Path):
        raise TypeError(f"checkpoint must be the name of a file; got {checkpoint!r}.")
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(f"checkpoint={str(checkpoint)!r}: there is no folder {str(Path(checkpoint).parent)!r}.")
    return resolve_device(device)


def _mechanism_for(entry: Entry) -> str:
    return "mlp" if entry.arguments["input"] == "continuous" else "ziln"


def _check_groupby(entry: Entry, groupby: Any) -> None:
    stored = entry.arguments["groupby"]
    if groupby is None or np.atleast_1d(groupby).tolist() == np.atleast_1d(stored).tolist():
        return
    if stored is None:
        raise ValueError(
            f"groupby={groupby!r}: run scgim.pp.prepare(adata, groupby={groupby!r}, ...) first; genes and "
            "features are chosen per group."
        )
    raise ValueError(f"groupby={groupby!r}, but {entry.keys.key!r} was prepared with groupby={stored!r}.")


def _check_free(adata: AnnData, entry: Entry) -> None:
    """Refuse to write over what no fit of this preparation wrote."""
    taken = [f"adata.{at}[{name!r}]" for at, name in entry.keys.fit_slots() if name in getattr(adata, at)]
    if taken and not entry.fitted:
        raise ValueError(
            f"key_added={entry.keys.key!r} would overwrite {' and '.join(taken)}, which no fit under this key wrote. "
            "Delete what is not needed any more, or run scgim.pp.prepare with another key_added."
        )


def _store(
    adata: AnnData, entry: Entry, result: FitResult, arguments: dict[str, Any], recorded: dict[str, Any]
) -> None:
    """Write one fit; everything is computed before the first slot is touched."""
    from scgim.slots import detach

    keys, genes = entry.keys, np.array(entry.genes, dtype=object)
    result.gim.to("cpu")
    probability = result.gim.graph.probabilities().detach().cpu().numpy()
    fitted = {
        "genes": genes,
        "graph": result.graph,
        "settings": result.config.asdict(),
        **{name: value if value is None else value.astype(np.float32) for name, value in recorded.items()},
    }
    state = seal({"prepared": entry.prepared, "fitted": fitted}, pack(result.gim))
    uns = {**entry.uns, "state": state, "state_sha256": checksum(state)}
    params = from_storable(dict(entry.prepared["params"]))
    uns["params"] = to_storable({**params, "fit": arguments}, path="params")
    uns["graph"] = _edges(genes, result.graph, probability)
    uns["history"] = {name: np.asarray(values) for name, values in result.history.items()}
    model = stored_model(Entry(keys, uns, entry.prepared, fitted, pack(result.gim)))
    uns["targets"], prob, effect = targets_table(model)

    places = entry.positions(adata)
    wide = np.full((2, adata.n_vars, prob.shape[0]), np.nan, dtype=np.float32)
    wide[:, places] = prob.T, effect.T
    first, second = np.nonzero(probability)
    edge_prob = sp.csr_matrix(
        (probability[first, second].astype(np.float32), (places[first], places[second])), shape=(adata.n_vars,) * 2
    )
    detach(adata)
    adata.uns[keys.uns] = uns
    adata.varp[keys.edge_prob] = edge_prob
    adata.varm[keys.target_prob], adata.varm[keys.effect] = wide[0], wide[1]
    _report(entry, result, prob)


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


def _report(entry: Entry, result: FitResult, prob: np.ndarray) -> None:
    keys, treated = entry.keys, ~entry.is_control
    per_condition = float((prob[treated] > 0.5).sum(1).mean()) if treated.any() else 0.0
    n_genes, n_edges = prob.shape[1], int(result.graph.sum())
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
            "has hardly a part in it, and direct targets are not told from genes that follow them. %s",
            keys.prefix, " has degenerated" if degenerate else "", many.sum(), treated.sum(), n_genes,
            listing(names, most=4), per_condition,
            "To read graph or targets, fit again with a higher target_sparsity, or with genes that not every condition "
            "changes." if degenerate else "Read the targets of other conditions (lower doses, for instance) first.",
        )  # fmt: skip
    if n_edges == 0:
        logger.warning("fit %r found no edge: lower graph_sparsity, or take more cells.", keys.prefix)
    without = treated & ~(prob > 0.5).any(1)
    silent = [c for c, yes in zip(entry.labels, without, strict=True) if yes]
    if silent:
        logger.info("fit %r: no target found for %s", keys.prefix, listing(silent))
