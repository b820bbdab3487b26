"""The steps of `prepare`, one by one: for preprocessed data, and to change one choice later."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import InvalidValue
from .._logging import logger
from .._process import undisturbed
from .._rng import RngLike
from .._validation import check_anndata, check_fraction
from ..slots import clear, detach, groups_of, refuse_foreign
from ..slots.keys import Keys
from ._conditions import label_cells
from ._design import Absent, skip_absent, split_cells
from ._expression import Depth, check_matrix
from ._groups import Group, change_groups, choose_genes, encoding_of, prepare_cells
from ._matrix import as_matrix, columns_of
from ._prepare import check_arguments, check_features, check_fractions, named_columns, prepare, stored_seed

if TYPE_CHECKING:
    from anndata import AnnData

_GENE_ARGUMENTS = ("n_genes", "n_top_genes", "genes", "min_cells", "silent_genes")


def conditions(
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    dose_key: str | None = None,
    dose_unit_key: str | None = None,
    control: Any = "control",
    combination_sep: str | None = "+",
    min_cells_per_condition: int = 10,
    small_conditions: str = "error",
    valid_fraction: float = 0.1,
    test_fraction: float = 0.0,
    rng: RngLike = 0,
    key_added: str = "gim",
) -> None:
    """Read the conditions from `obs` and split the cells: the first step of `prepare`; `X` is left alone.

    Parameters
    ----------
    adata
        Cells x genes. Only `obs` is read.
    perturbation_key, dose_key, dose_unit_key, control, combination_sep, min_cells_per_condition, small_conditions
        As in `prepare`.
    valid_fraction, test_fraction, rng, key_added
        As in `prepare`.

    Returns
    -------
    None. Writes `obs["gim_condition"]`, `obs["gim_split"]` and `uns["gim"]` with the tables of conditions
    and parts, and the default features. `select_markers` must follow before a fit.

    Raises
    ------
    KeyError, ValueError, TypeError
        As `prepare`; `adata` is then as it was.

    Examples
    --------
    >>> import anndata, numpy, pandas, scgim
    >>> obs = pandas.DataFrame({"drug": ["vehicle", "A"] * 30}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(numpy.random.default_rng(0).gamma(2.0, size=(60, 5)), obs=obs)
    >>> scgim.pp.conditions(adata, perturbation_key="drug", control="vehicle")
    >>> adata.uns["gim"]["conditions"]["n_cells"].to_dict()
    {'vehicle': 30, 'A': 30}
    """
    given = dict(locals())
    defaults: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(prepare).parameters.items()
        if name not in ("adata", "copy", "return_summary", "progress")
    }
    arguments = {name: given.get(name, default) for name, default in defaults.items()} | {"input": "log1p"}
    check_arguments(adata, arguments)
    arguments["rng"] = stored_seed(rng)
    labels = label_cells(adata.obs, arguments)
    everything = np.ones(adata.n_obs, dtype=bool)
    refuse_foreign(adata, key_added, [None], named_columns(arguments))
    depth = Depth(np.full(adata.n_obs, np.nan), everything)
    group = prepare_cells(adata, labels, everything, depth, Keys(key_added), arguments)
    entries = group.entries()
    detach(adata)
    clear(adata, key_added)
    group.write(adata, entries)
    keys = group.keys
    logger.info(f"written: obs[{keys.condition!r}], obs[{keys.split!r}], uns[{keys.uns!r}]")


@undisturbed()
def select_markers(
    adata: AnnData,
    *,
    input: str | None = None,
    n_genes: int = 50,
    n_top_genes: int = 1000,
    genes: Any = None,
    min_cells: int = 20,
    silent_genes: str = "error",
    key: str = "gim",
    group: str | None = None,
) -> None:
    """Choose the modelled genes (again), from the training cells.

    Parameters
    ----------
    adata
        With the slots of `prepare` or `conditions`, and log-normalised or continuous values in `X`.
    input
        What `X` holds: `"log1p"` or `"continuous"`; None: what `prepare` was told.
    n_genes, n_top_genes, genes, min_cells, silent_genes
        As in `prepare`.
    key, group
        Which slots; every group where `groupby` was given and no group is named.

    Returns
    -------
    None. Writes `var["gim"]` and `var["gim_score"]`, and removes an earlier fit.

    Raises
    ------
    KeyError, ValueError, TypeError
        As `prepare`; `adata` is then as it was.

    Examples
    --------
    >>> import anndata, numpy, pandas, scgim
    >>> obs = pandas.DataFrame({"drug": ["vehicle", "A"] * 30}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(numpy.random.default_rng(0).gamma(2.0, size=(60, 5)), obs=obs)
    >>> scgim.pp.conditions(adata, perturbation_key="drug", control="vehicle")
    >>> scgim.pp.select_markers(adata, n_genes=3)
    >>> int(adata.var["gim"].sum())
    3
    """
    check_anndata(adata)
    matrix = _in_memory(adata)
    given = {name: value for name, value in locals().items() if name in _GENE_ARGUMENTS}

    def step(slots: Group) -> None:
        kind = input or slots.arguments["input"]
        arguments = slots.arguments | given | {"input": "log1p" if kind == "counts" else kind, "features": "auto"}
        check_arguments(adata, arguments | {"smiles_key": None, "key_added": key})
        check_matrix(matrix, "adata.X", arguments["input"], adata)
        choose_genes([slots], matrix, "adata.X", adata.var_names, arguments)
        named = genes if genes is None else np.asarray(genes, dtype=object)
        slots.arguments.update(given | {"genes": named, "input": kind})

    change_groups(adata, key, group, step, f"written: var of {key!r}")


@undisturbed()
def features(
    adata: AnnData,
    *,
    features: str | pd.DataFrame = "auto",
    smiles_key: str | None = None,
    key: str = "gim",
    group: str | None = None,
) -> None:
    """Compute the features of each perturbation and dose (again).

    Parameters
    ----------
    adata
        With the slots of `prepare` or `conditions`.
    features, smiles_key
        As in `prepare`.
    key, group
        Which slots; every group where `groupby` was given and no group is named.

    Returns
    -------
    None. Writes `uns["gim"]["features"]` (parts, p), `"feature_names"` and `"feature_spec"`, and removes an
    earlier fit.

    Raises
    ------
    KeyError, ValueError, TypeError
        As `prepare`; `adata` is then as it was.

    Examples
    --------
    >>> import anndata, numpy, pandas, scgim
    >>> obs = pandas.DataFrame({"drug": ["vehicle", "A", "B"] * 20}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(numpy.random.default_rng(0).gamma(2.0, size=(60, 5)), obs=obs)
    >>> scgim.pp.conditions(adata, perturbation_key="drug", control="vehicle")
    >>> scgim.pp.features(adata, features=pandas.DataFrame({"weight": [1.0, 2.0]}, index=["A", "B"]))
    >>> adata.uns["gim"]["features"].tolist()
    [[1.0], [2.0]]
    """
    check_anndata(adata)

    def step(slots: Group) -> None:
        check_features(features, smiles_key, slots.arguments["dose_key"])
        arguments = slots.arguments | {"features": features, "smiles_key": smiles_key}
        slots.encoding = encoding_of(adata.obs, slots.design, arguments, has_dose=slots.notation["has_dose"])
        if slots.encoding.kind == "potency" and slots.genes is None:
            raise InvalidValue(
                'features="potency" compares the modelled genes between doses, and none are chosen yet: run '
                "scgim.pp.select_markers first."
            )
        slots.encode()
        if slots.genes is not None:
            slots.values = columns_of(as_matrix(adata.X), slots.genes, "adata.X")
            slots.read_potency()
        named = features if isinstance(features, str) else "DataFrame"
        slots.arguments.update({"features": named, "smiles_key": smiles_key})

    change_groups(adata, key, group, step, f"written: features in uns of {key!r}")


@undisturbed()
def hold_out(
    adata: AnnData, *, hold_out: Any, test_fraction: float | None = None, key: str = "gim", group: str | None = None
) -> None:
    """Choose what is not trained on, in place of any chosen earlier, and redo what depends on it.

    Parameters
    ----------
    adata
        With the slots of `prepare` or `conditions`.
    hold_out
        One of these:

        - a dict of perturbation and dose, `{"Dacinostat": 10_000}`, or doses, `{"Dacinostat": [1_000, "10 uM"]}`. None
          as dose: every condition in which the perturbation takes part;
        - a condition's label, a pair of name and dose, or a list of these, `["Dacinostat_10000", "KLF1+MAP2K6"]`;
        - None or an empty list: no condition is held out.
    test_fraction
        Fraction of the cells of every other condition to hold out, as in `prepare`; None: as before.
    key, group
        Which slots; every group where `groupby` was given and no group is named. What one of them lacks is skipped
        there.

    Returns
    -------
    None. All slots are then as `prepare` would have left them with this `hold_out`: genes (with the arguments that were
    used last) and features follow from what is trained on. Removes an earlier fit. The validation cells of other
    conditions stay the same.

    Raises
    ------
    ValueError
        If a condition does not exist (the message lists those that do), is the control, nothing is left
        to train on, or the genes cannot be chosen again because some were removed since.
    KeyError
        If nothing was prepared under `key`.

    Examples
    --------
    >>> import anndata, numpy, pandas, scgim
    >>> obs = pandas.DataFrame({"drug": ["vehicle", "A", "B"] * 20}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(numpy.random.default_rng(0).gamma(2.0, size=(60, 5)), obs=obs)
    >>> scgim.pp.conditions(adata, perturbation_key="drug", control="vehicle")
    >>> scgim.pp.hold_out(adata, hold_out=["B"])
    >>> adata.uns["gim"]["conditions"]["split"].to_dict()
    {'vehicle': 'train', 'A': 'train', 'B': 'test'}
    """
    check_anndata(adata)
    if test_fraction is not None:
        test_fraction = check_fraction(test_fraction, "test_fraction")
    groups = None if group is not None else groups_of(adata, key)
    absent: Absent | None = None if groups is None else {}

    def step(slots: Group) -> None:
        slots.arguments["hold_out"] = hold_out
        if test_fraction is not None:
            slots.arguments["test_fraction"] = test_fraction
        check_fractions(slots.arguments["valid_fraction"], slots.arguments["test_fraction"])
        slots.split = split_cells(slots.design, adata.obs_names, slots.arguments, slots.notation, slots.where, absent)
        if groups and slots.keys.group == groups[-1]:
            skip_absent(absent or {}, len(groups))
        if slots.encoding.kind != "potency" or slots.genes is None:
            slots.encode()
        if slots.genes is not None:
            _choose_genes_again(adata, slots)

    change_groups(adata, key, group, step, f"written: splits, genes and features of {key!r}")


def _choose_genes_again(adata: AnnData, slots: Group) -> None:
    """Choose the genes as they were chosen, from what is trained on now; measures the potency, too."""
    genes = slots.arguments["genes"]
    if adata.n_vars != slots.n_vars and (genes is None or isinstance(genes, str)):
        raise InvalidValue(
            f"hold_out{slots.where}: the genes were chosen from {slots.n_vars}, of which adata has {adata.n_vars}; "
            "they cannot be chosen again without the cells that are to be held out. Give hold_out= to "
            "scgim.pp.prepare, or hold out before genes are removed."
        )
    old = slots.genes
    choose_genes([slots], _in_memory(adata), "adata.X", adata.var_names, slots.arguments)
    changed = int((slots.genes & ~old).sum())  # type: ignore[operator]
    if changed:
        logger.info(f"genes chosen again{slots.where}, without what is held out: {changed} are new.")


def _in_memory(adata: AnnData) -> Any:
    if adata.isbacked:
        raise InvalidValue("adata is backed (its X is on disk): load it first with adata = adata.to_memory().")
    return as_matrix(adata.X)
