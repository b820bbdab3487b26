"""Slots of others are never touched."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
from example_cells import assert_unchanged, snapshot
from screens import SHORT, fitted_screen, prepared_screen, screen

import scgim

pytestmark = pytest.mark.usefixtures("quick_fits")


def own_condition(adata: ad.AnnData) -> None:
    adata.obs["gim_condition"] = "mine"


def own_score(adata: ad.AnnData) -> None:
    adata.var["gim_score"] = 1.0


def own_mask(adata: ad.AnnData) -> None:
    adata.var["gim"] = True


def own_uns(adata: ad.AnnData) -> None:
    adata.uns["gim"] = {"a": 1}


def own_varm(adata: ad.AnnData) -> None:
    adata.varm["gim_effect"] = np.zeros((adata.n_vars, 2))


def a_group_of_another_preparation(adata: ad.AnnData) -> None:
    prepared_screen(adata, key_added="gim_d1")
    adata.X = adata.layers.pop("counts")


def perturbations_called_so(adata: ad.AnnData) -> None:
    adata.obs["gim_condition"] = adata.obs["target"]


CASES: list[tuple[Any, dict[str, Any], str]] = [
    (own_condition, {}, r"adata\.obs\['gim_condition'\].*another key_added, or delete"),
    (own_score, {}, r"adata\.var\['gim_score'\]"),
    (own_mask, {}, r"adata\.var\['gim'\]"),
    (own_uns, {}, r"adata\.uns\['gim'\]"),
    (own_varm, {}, r"adata\.varm\['gim_effect'\]"),
    (a_group_of_another_preparation, {"groupby": "donor"}, r"adata\.uns\['gim_d1'\]"),
    (perturbations_called_so, {"perturbation_key": "gim_condition"}, "perturbation_key='gim_condition'.*overwrite"),
]


@pytest.mark.parametrize(("change", "arguments", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_is_not_ours_is_refused_and_stays(change: Any, arguments: dict[str, Any], message: str) -> None:
    adata = screen()
    change(adata)
    before = snapshot(adata)
    with pytest.raises(ValueError, match=message):
        prepared_screen(adata, **arguments)
    assert_unchanged(adata, before)
    prepared_screen(adata, key_added="other", **arguments)  # the remedy


def test_groups_whose_slots_would_be_the_same() -> None:
    adata = screen()
    adata.obs["line"] = np.where(np.arange(adata.n_obs) % 2, "A", "A_score")
    before = snapshot(adata)
    with pytest.raises(ValueError, match="groupby='line': the groups 'A', 'A_score' would share slots"):
        prepared_screen(adata, groupby="line")
    assert_unchanged(adata, before)


def test_ones_own_slots_are_replaced() -> None:
    adata = fitted_screen()
    scgim.pp.prepare(adata, perturbation_key="target", layer="counts", n_genes=5, min_counts=20)
    assert adata.var["gim"].sum() == 5
    assert "gim_effect" not in adata.varm
    scgim.tl.fit_gim(adata, **SHORT)


def test_a_fit_writes_over_a_fit_only() -> None:
    adata = prepared_screen()
    adata.varm["gim_effect"] = np.ones((adata.n_vars, 1))
    before = snapshot(adata)
    with pytest.raises(ValueError, match=r"adata\.varm\['gim_effect'\], which no fit under this key wrote"):
        scgim.tl.fit_gim(adata, **SHORT)
    assert_unchanged(adata, before)
    del adata.varm["gim_effect"]
    scgim.tl.fit_gim(adata, **SHORT)
    scgim.tl.fit_gim(adata, **SHORT)
