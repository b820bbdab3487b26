"""Data in: the real SciPlex3 screen and an embedded simulation of its design."""

from __future__ import annotations

from ._sciplex3 import sciplex3
from ._simulated import SMILES, simulated_sciplex3

__all__ = ["SMILES", "sciplex3", "simulated_sciplex3"]
