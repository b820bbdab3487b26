"""Labels that people did not mean as perturbations of their own: other spellings, and cells of no perturbation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from .._logging import logger
from .._validation import listing

#: What pipelines write where no perturbation was found, in lower case.
_NO_PERTURBATION = {
    *("ambient", "ambiguous", "doublet", "doublets", "empty", "multiple", "multiplet", "multiplets", "n/a", "na"),
    *("nan", "nat", "negative", "no guide", "no_guide", "none", "null", "unassigned", "undetermined", "unknown"),
    *("unmapped", "unmatched"),
}


def warn_blanks(column: pd.Series) -> None:
    """Name the labels that outer blanks alone tell apart; they are taken as one."""
    found: dict[str, set[str]] = {}
    for value in pd.unique(column.astype(object)):
        if isinstance(value, str):
            found.setdefault(value.strip(), set()).add(value)
    several = {name: texts for name, texts in found.items() if len(texts) > 1}
    if several:
        logger.warning(
            "adata.obs[%r]: labels that differ in outer blanks only are taken as one: %s.",
            column.name,
            "; ".join(listing(sorted(texts)) for _, texts in sorted(several.items())[:10]),
        )


def check_spelling(
    perturbations: Iterable[str],
    controls: list[str],
    names: np.ndarray,
    pieces: Mapping[str, list[str]],
    perturbation_key: str,
) -> None:
    """Refuse perturbations that are the control in another spelling; warn of other labels that look wrong.

    Parameters
    ----------
    perturbations
        All that were read.
    controls
        Labels of the control; none where dose 0 alone tells.
    names
        (cells,) labels.
    pieces
        Label -> the perturbations in it.
    perturbation_key
        Column of the labels, for messages.
    """
    used = sorted(perturbations)
    cells = _cells_of(names, pieces)
    alike: dict[str, list[str]] = {}
    for name in used:
        alike.setdefault(_plain(name), []).append(name)
    for control in controls:
        same = alike.get(_plain(control), [])
        if same:
            raise ValueError(
                f"adata.obs[{perturbation_key!r}] holds {_counted(same, cells)} beside the control {control!r}, which "
                f"differs in case or blanks only. Pass control={[*controls, *same]!r} if all of them are unperturbed, "
                "or rename one."
            )
    for same in alike.values():
        if len(same) > 1:
            logger.warning(
                "adata.obs[%r]: %s differ in case or blanks only, and are taken as different perturbations. Rename "
                "them if they are one.",
                perturbation_key,
                _counted(same, cells),
            )
    odd = [name for name in used if _plain(name) in _NO_PERTURBATION]
    if odd:
        logger.warning(
            "adata.obs[%r]: %s taken as a perturbation each. If those cells have none, set their label to NaN to leave "
            "them out, or name it in control= if they are unperturbed.",
            perturbation_key,
            _counted(odd, cells),
        )


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _cells_of(names: np.ndarray, pieces: Mapping[str, list[str]]) -> dict[str, int]:
    """Perturbation -> cells that received it."""
    found: dict[str, int] = {}
    for label, n in pd.Series(names, dtype=object).value_counts().items():
        for piece in set(pieces[str(label)]):
            found[piece] = found.get(piece, 0) + int(n)
    return found


def _counted(names: list[str], cells: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} ({cells.get(name, 0)} cells)" for name in names[:10])
