"""Which mechanism suits data, and whether it can describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from scgim._errors import InvalidValue
from scgim._logging import logger
from scgim._validation import listing, plural
from scgim.data import PerturbationData
from scgim.model import LATENT

#: What ``mechanism="auto"`` is for each `input` of `scgim.pp.prepare`.
AUTOMATIC = {"counts": "count", "log1p": "ziln", "continuous": "mlp"}
#: A gene with a larger share of a cell's counts tells on its size factor, as in scanpy's `normalize_total` (`own` use).
LARGE_SHARE = 0.05
#: Settings of the paper's start, which a model behind counts does not take, and what it takes.
_START = {"init": "search", "objective": "elbo", "sample_targets": False}


def automatic(
    kind: str,
    preset: Any = "default",
    settings: Mapping[str, Any] | None = None,
    not_counted: Callable[[], str | None] = lambda: None,
) -> str:
    """What ``mechanism="auto"`` is for this `input` of `prepare`.

    Never behind counts with the paper's start, or where `not_counted` says why they are none (logged).
    """
    found, given = AUTOMATIC[kind], settings or {}
    if found not in LATENT:
        return found
    if preset == "paper" or any(given.get(name, value) != value for name, value in _START.items()):
        return "ziln"
    reason = not_counted()
    if reason is not None:
        logger.warning("%s: mechanism='auto' takes 'ziln', of adata.X, instead of %r.", reason, found)
        return "ziln"
    return found


def check_suited(data: PerturbationData, mechanism: str, genes: Sequence[str | int]) -> None:
    """Refuse what the mechanism cannot describe, naming the genes (as `genes` calls them) and the remedy."""
    if mechanism in LATENT:
        _check_counted(data, genes)
        return
    x = data.x
    if mechanism != "ziln":
        still = np.ptp(x, axis=0) == 0
        _refuse(still, genes, "These genes never vary in the training cells: {}. Leave them out.")
        return
    _refuse(
        np.any(x < 0, axis=0), genes,
        "mechanism='ziln' needs expression >= 0, but it is negative in {}. Pass mechanism='mlp' for continuous data, "
        "or prepare from raw counts.",
    )  # fmt: skip
    _refuse(
        (x > 0).sum(axis=0) < 2, genes,
        "These genes are (almost) never seen in the training cells: {}. Leave them out (genes= of scgim.pp.prepare).",
    )  # fmt: skip


def _check_counted(data: PerturbationData, genes: Sequence[str | int]) -> None:
    """Whether the counts tell the rate of every gene in every batch."""
    counts, batch = data.counts, data.batch
    if counts is None or data.size_factor is None:
        raise InvalidValue(
            "mechanism='count' needs raw counts and size factors, which these data do not carry: read them with "
            "PerturbationData.from_anndata(adata, counts=True), or give counts= and size_factor=; or pass "
            "mechanism='ziln'."
        )
    control = data.control & ~data.valid
    _refuse(
        ~(counts[data.control] > 0).any(axis=0), genes,  # as `pp.prepare` asks; half a count is added to every rate
        "These genes are never counted in the control cells, so that their rate without a perturbation cannot be "
        "learned: {}. Leave them out (genes= of scgim.pp.prepare).",
    )  # fmt: skip
    _refuse(
        (counts > 0).sum(axis=0) < 2, genes,
        "These genes are (almost) never counted in the training cells: {}. Leave them out (genes= of "
        "scgim.pp.prepare).",
    )  # fmt: skip
    if batch is None:
        return
    lacking = np.setdiff1d(batch, batch[control])
    if len(lacking):
        names = listing(data.batches[code] if data.batches else int(code) for code in lacking)
        raise InvalidValue(
            f"There are batches without control cells to train on: {names}. Such a batch is confounded with its "
            "conditions: the rates of genes in it cannot be told from effects. Leave its cells out, or batch_key."
        )


def _refuse(bad: np.ndarray, genes: Sequence[str | int], reason: str) -> None:
    if bad.any():
        raise InvalidValue(reason.format(listing(compress(genes, bad))))


def tell_batches(data: PerturbationData, genes: Sequence[str]) -> None:
    """Log the batches with their cells, and the genes whose rate in a batch is hardly known."""
    if data.batch is None or data.counts is None or not data.batches:
        return
    told = []
    for code, name in enumerate(data.batches):
        own, control = data.batch == code, data.control & ~data.valid & (data.batch == code)
        told.append(f"{name} ({plural(int(own.sum()), 'cell')}, {plural(int(control.sum()), 'control')} to train on)")
        silent = listing(compress(genes, ~(data.counts[control] > 0).any(axis=0)))
        if silent != "none":
            logger.warning(
                "batch %r: its control cells hold no count of %s, whose rate there is a guess: take effects on them "
                "with care, leave them out (genes=), or join small batches.", name, silent,
            )  # fmt: skip
    logger.info("batches: %s", ", ".join(told))


def tell_large_shares(data: PerturbationData, genes: Sequence[str]) -> None:
    """Warn of genes that hold a large share of a control cell's counts, where size factors are of all counts."""
    control = data.control & ~data.valid
    whole = data.measured.get("rest", 0.0) is None
    if not whole or data.counts is None or data.size_factor is None or not control.any():
        return
    share = data.counts[control].sum(0) / (data.measured["total"] * data.size_factor[control].sum())
    large = [f"{gene} ({part:.0%})" for gene, part in zip(genes, share, strict=True) if part > LARGE_SHARE]
    if large:
        logger.warning(
            "Genes that are not modelled have too few counts to tell the depth of cells by, so all counts do, and "
            "more than %s of a control cell's are of one gene each: %s. Where such a gene changes, genes that do not "
            "depend on it may look as if they did. Model fewer genes, or pass size_key=, a column with sizes that such "
            "genes do not change.", f"{LARGE_SHARE:.0%}", listing(large),
        )  # fmt: skip


def tell_combinations(data: PerturbationData) -> None:
    """Warn, before a fit with hard interventions, that shifts may describe combinations better."""
    n = int((data.membership.sum(axis=1) > 1).sum())
    if n:
        logger.warning(
            "%s: intervention='hard' averages parts that act on one gene, intervention='shift' adds them up, and was "
            "nearer on real double activations. Compare both on held-out cells.", plural(n, "combination"),
        )  # fmt: skip
