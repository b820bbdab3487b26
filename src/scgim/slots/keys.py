"""Every AnnData slot that scgim reads or writes, in one place."""

from __future__ import annotations

from dataclasses import dataclass

#: Version of the slot layout; a file with another number was written by a newer or an earlier scgim.
FORMAT_VERSION = 2

#: What a cell is used for: the categories of `obs["gim_split"]`.
SPLITS = ("train", "valid", "test")

#: The layer in which `pp.prepare` keeps the raw counts.
COUNTS_LAYER = "counts"


@dataclass(frozen=True)
class Keys:
    """Slot names for one fit.

    Parameters
    ----------
    key
        The user's `key_added`.
    group
        Value of the `groupby` column (one model per cell line or donor), or None.
    """

    key: str = "gim"
    group: str | None = None

    @property
    def prefix(self) -> str:
        """Prefix of every slot; `/` would nest keys in the h5ad file, so it is replaced."""
        if self.group is None:
            return self.key
        return f"{self.key}_{str(self.group).replace('/', '_')}"

    @property
    def uns(self) -> str:
        return self.prefix

    @property
    def condition(self) -> str:
        """obs: category, the condition label of each cell (missing for cells that were dropped)."""
        return f"{self.prefix}_condition"

    @property
    def split(self) -> str:
        """obs: category, train / valid / test."""
        return f"{self.prefix}_split"

    @property
    def genes(self) -> str:
        """var: bool, the gene is a node of the graph."""
        return self.prefix

    @property
    def score(self) -> str:
        """var: float, the marker score."""
        return f"{self.prefix}_score"

    @property
    def edge_prob(self) -> str:
        """varp: CSR float32, row = cause, column = effect."""
        return f"{self.prefix}_edge_prob"

    @property
    def target_prob(self) -> str:
        """varm: (genes, conditions) float32, NaN for genes outside the graph."""
        return f"{self.prefix}_target_prob"

    @property
    def effect(self) -> str:
        """varm: (genes, conditions) float32, location parameter of the replaced mechanism."""
        return f"{self.prefix}_effect"

    @property
    def size_factor(self) -> str:
        """obs of predicted cells, and of cells that were prepared lazily: float, how deeply a cell is counted."""
        return f"{self.prefix}_size_factor"

    @property
    def member(self) -> str:
        """obs of predicted cells: which member of an ensemble predicted a cell; 0 is the fit to all cells."""
        return f"{self.prefix}_member"

    def fit_slots(self) -> list[tuple[str, str]]:
        """(attribute of the AnnData, name) of what a fit writes, `uns` aside."""
        return [("varp", self.edge_prob), ("varm", self.target_prob), ("varm", self.effect)]

    def slots(self) -> list[tuple[str, str]]:
        """(attribute of the AnnData, name) of everything that a preparation and its fit write."""
        obs, var = (self.condition, self.split), (self.genes, self.score)
        own = [*(("obs", name) for name in obs), *(("var", name) for name in var)]
        return [*own, *self.fit_slots(), ("uns", self.uns)]
