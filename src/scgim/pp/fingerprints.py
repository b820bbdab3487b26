"""Morgan fingerprints of drugs from SMILES (extra `chem`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .._optional import optional_import
from .._validation import listing, require_column
from .conditions import text_labels

RADIUS = 2
N_BITS = 1024


def smiles_of_perturbations(obs: pd.DataFrame, perturbation_key: str, smiles_key: str, names: list[str]) -> list[str]:
    """The SMILES of each perturbation, from the cells that received it alone.

    Raises
    ------
    ValueError
        If a perturbation has no SMILES or more than one; the message lists all such perturbations.
    """
    labels = text_labels(require_column(obs, perturbation_key, "perturbation_key"))
    smiles = text_labels(require_column(obs, smiles_key, "smiles_key"))
    pairs = pd.DataFrame({"label": labels, "smiles": smiles}, dtype=object).dropna().drop_duplicates()
    found: dict[str, set[str]] = {}
    for label, text in zip(pairs["label"], pairs["smiles"], strict=True):
        found.setdefault(label, set()).add(text)
    missing = [name for name in names if not found.get(name)]
    if missing:
        raise ValueError(
            f"smiles_key={smiles_key!r}: no SMILES for {listing(missing)}. Fill adata.obs[{smiles_key!r}] "
            "for the "
            'cells that received them alone, or pass features="auto" or a DataFrame.'
        )
    several = [name for name in names if len(found[name]) > 1]
    if several:
        raise ValueError(
            f"smiles_key={smiles_key!r}: more than one SMILES for {listing(several)} "
            f"(for {several[0]!r}: {listing(sorted(found[several[0]]))}). Give each perturbation one SMILES."
        )
    return [next(iter(found[name])) for name in names]


def morgan_bits(smiles: Mapping[str, Any], *, radius: int = RADIUS, n_bits: int = N_BITS) -> np.ndarray:
    """Morgan fingerprints, (drugs, bits) float32 of 0 and 1.

    Parameters
    ----------
    smiles
        Name of the drug -> its SMILES.
    radius, n_bits
        Of the fingerprint (own: 2 and 1,024).

    Raises
    ------
    ValueError
        If RDKit cannot read a SMILES; the message lists the drugs.
    ImportError
        Without RDKit (`pip install "scgim[chem]"`).
    """
    chem = optional_import("rdkit.Chem", extra="chem")
    fingerprints = optional_import("rdkit.Chem.rdFingerprintGenerator", extra="chem")
    base = optional_import("rdkit.rdBase", extra="chem")
    generator = fingerprints.GetMorganGenerator(radius=radius, fpSize=n_bits)
    rows, unreadable = [], []
    with base.BlockLogs():  # RDKit's own messages name no drug
        for name, text in smiles.items():
            molecule = chem.MolFromSmiles(text) if isinstance(text, str) and text.strip() else None
            if molecule is None:
                unreadable.append(f"{name} ({text!r})")
            else:
                rows.append(generator.GetFingerprintAsNumPy(molecule))
    if unreadable:
        raise ValueError(
            f"The SMILES of these perturbations cannot be read: {', '.join(unreadable[:10])}. Correct them "
            "in smiles_key= or user_features=."
        )
    return np.asarray(rows, dtype=np.float32)
