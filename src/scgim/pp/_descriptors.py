"""What is known of perturbations besides their names: SMILES, Morgan fingerprints (extra `chem`), a user's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .._errors import InvalidType, InvalidValue
from .._optional import optional_import
from .._validation import listing, require_column
from ._conditions import text_labels
from ._labels import Part, part_label


def smiles_of_perturbations(obs: pd.DataFrame, perturbation_key: str, smiles_key: str, names: list[str]) -> list[str]:
    """The one SMILES of each perturbation, from the cells that received it alone."""
    labels = text_labels(require_column(obs, perturbation_key, "perturbation_key"))
    smiles = text_labels(require_column(obs, smiles_key, "smiles_key"))
    pairs = pd.DataFrame({"label": labels, "smiles": smiles}, dtype=object).dropna()
    found = pairs.groupby("label", sort=False)["smiles"].unique().to_dict()
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidValue(
            f"smiles_key={smiles_key!r}: no SMILES for {listing(missing)}. Fill adata.obs[{smiles_key!r}] for the "
            'cells that received them alone, or pass features="auto" or a DataFrame.'
        )
    several = [name for name in names if len(found[name]) > 1]
    if several:
        raise InvalidValue(
            f"smiles_key={smiles_key!r}: more than one SMILES for {listing(several)} "
            f"(for {several[0]!r}: {listing(sorted(found[several[0]]))}). Give each perturbation one SMILES."
        )
    return [found[name][0] for name in names]


def morgan_bits(smiles: Mapping[str, Any], *, radius: int, n_bits: int) -> np.ndarray:
    """Morgan fingerprints of drugs by name, (drugs, bits) float32 of 0 and 1; the error lists unreadable SMILES."""
    chem = optional_import("rdkit.Chem", extra="chem")
    fingerprints = optional_import("rdkit.Chem.rdFingerprintGenerator", extra="chem")
    base = optional_import("rdkit.rdBase", extra="chem")
    generator = fingerprints.GetMorganGenerator(radius=radius, fpSize=n_bits)
    with base.BlockLogs():  # RDKit's own messages name no drug
        molecules = {
            name: chem.MolFromSmiles(text) if isinstance(text, str) and text.strip() else None
            for name, text in smiles.items()
        }
    unreadable = [f"{name} ({smiles[name]!r})" for name, molecule in molecules.items() if molecule is None]
    if unreadable:
        raise InvalidValue(
            f"The SMILES of these perturbations cannot be read: {', '.join(unreadable[:10])}. Correct them "
            "in smiles_key= or user_features=."
        )
    return np.asarray([generator.GetFingerprintAsNumPy(m) for m in molecules.values()], dtype=np.float32)


def new_fingerprints(new: list[str], known: list[str], user_features: Any, *, radius: int, n_bits: int) -> np.ndarray:
    """Fingerprints of drugs that `prepare` did not see, from the user's SMILES by name."""
    if isinstance(user_features, pd.DataFrame):
        raise InvalidType("user_features must be a dict of SMILES by name here (fingerprints), got a DataFrame.")
    smiles = user_features or {}
    missing = [name for name in new if name not in smiles]
    if missing:
        raise InvalidValue(
            f"{listing(missing)} was not seen by prepare, and its SMILES is not known. Pass it as "
            f"user_features={{{missing[0]!r}: SMILES}}. Known perturbations: {listing(known, most=30)}."
        )
    return morgan_bits({name: smiles[name] for name in new}, radius=radius, n_bits=n_bits)


def table_rows(frame: pd.DataFrame, parts: list[Part]) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """How a user's table is indexed (by part or perturbation), and the rows, columns and numbers that parts need."""
    if not frame.index.is_unique or not frame.columns.is_unique:
        raise InvalidValue("features: the index and the columns of the DataFrame must be unique.")
    if frame.shape[1] == 0:
        raise InvalidValue("features: the DataFrame has no columns.")
    index = list(map(str, frame.index))
    labels = [part_label(*part) for part in parts]
    rows, names = set(index), {name for name, _ in parts}
    # Some labels among the rows mean that all were meant to be: the message then lists those that lack.
    by = "part" if set(labels) <= rows or (set(labels) & rows and not names <= rows) else "perturbation"
    wanted = labels if by == "part" else sorted(names)
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise InvalidValue(
            f"features: the DataFrame has no row for {listing(missing)}. Index it by perturbation "
            f"({listing(sorted(names), most=3)}) or by part ({listing(labels, most=3)}), and give every one a row."
        )
    columns = np.array([str(column) for column in frame.columns], dtype=object)
    matrix = _numeric(frame.iloc[[index.index(name) for name in wanted]], wanted)
    return by, np.array(wanted, dtype=object), columns, matrix


def new_table_rows(new: list[str], columns: list[str], user_features: Any) -> np.ndarray:
    """Rows that the table given to `prepare` lacks, from the user's table."""
    if not isinstance(user_features, pd.DataFrame):
        raise InvalidValue(
            f"{listing(new)} has no row in the features given to prepare. Pass user_features=, a "
            f"DataFrame with its row and the columns {listing(columns, most=5)}."
        )
    given = user_features.rename(index=str, columns=str)
    lacking = [*(set(new) - set(given.index)), *(set(columns) - set(given.columns))]
    if lacking or not given.index.is_unique or not given.columns.is_unique:
        raise InvalidValue(
            f"user_features: rows or columns are missing or occur twice ({listing(sorted(lacking))}). It needs "
            f"one row for each of {listing(new)} and the columns {listing(columns, most=5)}."
        )
    return _numeric(given.loc[new, columns], new)


def look_up(
    wanted: list[str], names: Iterable[str], matrix: np.ndarray, of_new: Callable[[list[str], list[str]], np.ndarray]
) -> np.ndarray:
    """Rows of a matrix by name; `of_new` makes those of names that it lacks, given these and the known names."""
    known = [str(name) for name in names]
    new = sorted(set(wanted) - set(known))
    rows = np.vstack([matrix, of_new(new, known)]) if new else matrix
    return rows[pd.Index([*known, *new], dtype=object).get_indexer(wanted)]


def _numeric(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    """The table as float32; refuses text and what is missing or infinite."""
    text = [str(name) for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if text:
        raise InvalidValue(
            f"features: the columns {listing(text)} are not numeric. Leave them out or encode them as numbers."
        )
    matrix = frame.to_numpy(dtype=np.float32, na_value=np.nan)
    bad = [name for name, fine in zip(names, np.isfinite(matrix).all(axis=1), strict=True) if not fine]
    if bad:
        raise InvalidValue(
            f"features: missing or infinite values for {listing(bad)}. Fill them, or leave those perturbations out."
        )
    return matrix
