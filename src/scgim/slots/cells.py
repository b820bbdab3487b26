"""Whether the cells are still those that were prepared: same values, same conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def cell_hashes(x: np.ndarray, genes: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """One number per cell that changes with any of its values and with its condition; uint64 (cells,).

    A sum over genes of the value's bits times a number that belongs to the gene's name, modulo 2^64 (multilinear
    hashing). Names and order of the cells and the order of the genes do not matter.

    Parameters
    ----------
    x
        (cells, genes) expression of the modelled genes.
    genes
        Their names.
    labels
        (cells,) the condition of each cell.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.slots import cell_hashes
    >>> x, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array(["a", "a"])
    >>> one, other = cell_hashes(x, ["A", "B"], labels), cell_hashes(x[:, ::-1], ["B", "A"], labels)
    >>> bool(one[0] != one[1]), bool((one == other).all())
    (True, True)
    """
    bits = (np.asarray(x, dtype=np.float32) + np.float32(0)).view(np.uint32)  # adding 0 makes -0 a 0
    out = np.zeros(len(bits), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column, gene in enumerate(genes):
            out += bits[:, column].astype(np.uint64) * (_number(f"gene {gene}") | np.uint64(1))
        names, code = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        return out + np.array([_number(f"condition {name}") for name in names], dtype=np.uint64)[code]


def unknown_cells(found: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """(cells,) bool: the cell's number is not among the stored ones, or more often than there (sorted uint64)."""
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    repeat = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side="left")
    first, last = (np.searchsorted(stored, ordered, side=side) for side in ("left", "right"))
    out = np.empty(len(found), dtype=bool)
    out[order] = repeat >= last - first
    return out


def _number(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
