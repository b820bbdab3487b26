"""The real SciPlex3 screen, from scPerturb's harmonised file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scgim._errors import InvalidValue, NotFound
from scgim._logging import log_duration, logger
from scgim._optional import optional_import

if TYPE_CHECKING:
    from anndata import AnnData

FILE_NAME = "SrivatsanTrapnell2020_sciplex3.h5ad"
#: scPerturb v1.4 (doi 10.5281/zenodo.13350497, CC-BY-4.0), 2.5 GB.
URL = f"https://zenodo.org/records/13350497/files/{FILE_NAME}"
SHA256 = "603ed16c5e25401c8a7f5bb0b2b045179701017d65dcfc6aeea71722a66cd10a"

CONTROL = "control"
_CONTROL_LABELS = {"control", "vehicle", "dmso"}
_REQUIRED = ("cell_line", "perturbation", "dose_value", "dose_unit")
_NANOMOLAR = {"pm": 1e-3, "nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6}
_MISSING = {"", "nan", "none", "na", "<na>"}


def sciplex3(
    *,
    cell_line: str | Sequence[str] | None = None,
    perturbations: str | Sequence[str] | None = None,
    path: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> AnnData:
    """Load SciPlex3: 188 drugs x 4 doses on three cell lines, single-cell RNA after 24 h.

    The file is scPerturb's, version 1.4. It is downloaded once (2.5 GB; extra `datasets`) and its SHA-256 is
    checked on every call. The checksum is the one that independent users of the file have published, together
    with the MD5 c9e70629505d98c7ca1a837f62b14e89 of the Zenodo record; this package's authors have not
    downloaded the file themselves.

    Only the selected cells are read into memory. The whole screen has about 800,000 cells and 10^9 counts, so
    select a cell line or drugs unless there are tens of gigabytes to spare.

    Parameters
    ----------
    cell_line
        "A549", "K562" or "MCF7", several of them, or None for all.
    perturbations
        Drugs to keep, e.g. "Dacinostat" or "Dacinostat (LAQ824)"; None for all. Vehicle cells are always kept.
    path
        An h5ad file in scPerturb's format that you already have: nothing is downloaded, no checksum is compared.
    cache_dir
        Folder of the download; the operating system's cache folder by default.

    Returns
    -------
    AnnData
        - `X`: CSR float32, raw integer counts. Mouse genes of the joint reference are dropped.
        - `obs`: cell_line, perturbation ("control" for vehicle; drugs without the synonym in parentheses),
          dose_value (nM, float; 0 for the control), dose_unit ("nM"), product_name (the label in the file),
          and all other columns of the file, among them replicate. Cells without an assigned cell line, drug
          or dose are dropped.
        - `var`: the file's columns.
        - `uns["source"]`: where the data come from, with the file's own `uns["provenance"]` if it has one.

    Raises
    ------
    FileNotFoundError, OSError
        If there is no such file, it is no h5ad file, or the download fails.
    KeyError, ValueError
        If the file lacks a column or holds other data than expected (checksum, units, a version of scPerturb before
        1.4, issue 7 of sanderlab/scPerturb), or a cell line or drug does not exist (the message lists those that do).

    References
    ----------
    Srivatsan et al. (2020), Science 367, 45-51. Peidli et al. (2024), Nature Methods 21, 531-540 (scPerturb).

    Examples
    --------
    >>> import scgim
    >>> adata = scgim.datasets.sciplex3(cell_line="A549", perturbations=["Dacinostat"])  # doctest: +SKIP
    """
    file = _download(cache_dir) if path is None else Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"path: there is no file {file}.")
    import anndata

    try:
        backed = anndata.read_h5ad(file, backed="r")
    except OSError as error:
        raise OSError(f"path: {file} cannot be read as an h5ad file ({error}); is it complete?") from error
    try:
        _check_gene_labels(backed.var)
        obs = _harmonise(backed.obs)
        keep = _select(obs, cell_line, perturbations)
        with log_duration(f"sciplex3: read {keep.sum():,} of {len(obs):,} cells from {file.name}"):
            adata = _read(backed, obs, keep)
    finally:
        if backed.isbacked:
            backed.file.close()
    told = backed.uns.get("provenance")
    adata.uns["source"] = f"SciPlex3 (Srivatsan et al. 2020), scPerturb format, read from {file.name}" + (
        f", which says of itself: {told}" if isinstance(told, str) else ""
    )
    return adata


def _download(cache_dir: str | Path | None) -> Path:
    pooch = optional_import("pooch", extra="datasets")
    folder = Path(cache_dir).expanduser() if cache_dir is not None else pooch.os_cache("scgim")
    remedy = f"Download {URL} on a machine with network access and pass path='.../{FILE_NAME}'."
    logger.info("sciplex3: %s in %s (2.5 GB when it is not there yet)", FILE_NAME, folder)
    try:
        file = pooch.retrieve(URL, known_hash=f"sha256:{SHA256}", fname=FILE_NAME, path=folder, progressbar=True)
    except OSError as error:
        raise OSError(f"SciPlex3 could not be downloaded ({error}). {remedy}") from error
    except ValueError as error:
        raise InvalidValue(f"SciPlex3 was downloaded but is not the expected file ({error}). {remedy}") from error
    return Path(file)


def _check_gene_labels(var: pd.DataFrame) -> None:
    first = [*map(str, var.index[:1]), *(str(var[column].iloc[0]) for column in var.columns if len(var))]
    if any("gene_short_name" in label for label in first):
        raise InvalidValue(
            "this file is a version of scPerturb before 1.4: the header of the gene table became a gene, so "
            f"that every column carries the name of its neighbour. Get version 1.4: {URL}"
        )


def _harmonise(raw: pd.DataFrame) -> pd.DataFrame:
    """The file's obs with uniform cell_line, perturbation and dose_value (nM); NaN where unassigned."""
    missing = [column for column in _REQUIRED if column not in raw.columns]
    if missing:
        raise NotFound(
            f"obs lacks {missing}, columns of scPerturb's SciPlex3; it has {sorted(raw.columns)}. Other "
            "versions of the data use other names (product_name, cell_type, dose): rename them, or use "
            "scPerturb's file."
        )
    obs = raw.copy()
    for column in ("cell_line", "perturbation"):
        text = obs[column].astype(object).where(obs[column].notna(), "").astype(str).str.strip()
        obs[column] = text.mask(text.str.lower().isin(_MISSING)).astype(object)
    is_control = np.array([str(label).lower() in _CONTROL_LABELS for label in obs["perturbation"]], dtype=bool)
    short = _short_names(obs["perturbation"].dropna().unique())
    obs["product_name"] = obs["perturbation"].where(~is_control, CONTROL)
    obs["perturbation"] = obs["perturbation"].map(short).astype(object).where(~is_control, CONTROL)
    obs["dose_value"] = _nanomolar(obs["dose_value"], obs["dose_unit"], is_control)
    obs["dose_unit"] = "nM"
    return obs


def _short_names(labels: Sequence[str]) -> dict[str, str]:
    """'Quisinostat (JNJ-26481585) 2HCl' -> 'Quisinostat', unless two drugs would then share a name."""
    short = pd.Series({label: re.sub(r"\s+\(.*$", "", label) for label in labels}, dtype=object)
    clash = short.duplicated(keep=False)
    return {**short.to_dict(), **{label: label for label in short.index[clash]}}


def _nanomolar(dose: pd.Series, unit: pd.Series, is_control: np.ndarray) -> np.ndarray:
    text = dose.astype(object)
    values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=float)
    present = text.notna().to_numpy() & ~text.astype(str).str.strip().str.lower().isin(_MISSING).to_numpy()
    bad = sorted({str(value) for value in text[present & np.isnan(values) & ~is_control]})
    if bad:
        raise InvalidValue(f"obs['dose_value'] holds {bad[:5]}, which are not numbers.")
    labels = unit.astype(object).where(unit.notna(), "").astype(str).str.strip()
    factor = labels.str.lower().map(_NANOMOLAR).to_numpy(dtype=float)
    unknown = sorted(set(labels[np.isnan(factor) & present & ~is_control]))
    if unknown:
        raise InvalidValue(f"obs['dose_unit'] holds {unknown}; known are pM, nM, uM and mM.")
    values = np.where(is_control, 0.0, values * factor)
    values[~is_control & ~(values > 0)] = np.nan
    # 0.01 uM must be 10 nM exactly, or two doses would arise from one.
    return np.round(values, 9)


def _select(
    obs: pd.DataFrame, cell_line: str | Sequence[str] | None, perturbations: str | Sequence[str] | None
) -> np.ndarray:
    """Boolean (cells,): assigned cells of the wanted lines and drugs, and their vehicle."""
    assigned = obs[["cell_line", "perturbation", "dose_value"]].notna().all(axis=1).to_numpy()
    if not assigned.all():
        logger.info("sciplex3: %d cells without cell line, drug or dose are dropped", (~assigned).sum())
    if not assigned.any():
        raise InvalidValue("no cell has a cell_line, a perturbation and a dose_value: is this SciPlex3?")
    keep = assigned.copy()
    if cell_line is not None:
        lines = [cell_line] if isinstance(cell_line, str) else list(cell_line)
        _check_names("cell_line", lines, obs.loc[assigned, "cell_line"].unique())
        keep &= obs["cell_line"].isin(lines).to_numpy()
    if perturbations is not None:
        wanted = [perturbations] if isinstance(perturbations, str) else list(perturbations)
        known = obs.loc[keep, "perturbation"], obs.loc[keep, "product_name"]
        _check_names("perturbations", wanted, known[0].unique(), also=known[1].unique())
        keep &= (obs["perturbation"].isin([*wanted, CONTROL]) | obs["product_name"].isin(wanted)).to_numpy()
    return keep


def _check_names(argument: str, wanted: Sequence[str], known: Sequence[str], also: Sequence[str] = ()) -> None:
    absent = [name for name in wanted if name not in set(known) | set(also)]
    if absent or not wanted:
        raise InvalidValue(f"{argument} = {absent or list(wanted)} not found; there are {sorted(known)}.")


def _read(backed: AnnData, obs: pd.DataFrame, keep: np.ndarray) -> AnnData:
    from anndata import AnnData

    var = backed.var.copy()
    mouse = var.get("ensembl_id", var.index.to_series()).astype(str).str.startswith("ENSMUSG").to_numpy()
    x = sparse.csr_matrix(backed[keep].to_memory().X, dtype=np.float32)
    table = obs.loc[keep].copy()
    for column in ("cell_line", "perturbation", "product_name", "dose_unit"):
        table[column] = table[column].astype(str).astype("category")
    for column in table.columns[table.dtypes == "category"]:
        table[column] = table[column].cat.remove_unused_categories()
    adata = AnnData(x[:, ~mouse] if mouse.any() else x, obs=table, var=var.loc[~mouse])
    if mouse.any():
        logger.info("sciplex3: %d mouse genes of the joint reference are dropped", mouse.sum())
    adata.obs_names_make_unique()
    adata.var_names_make_unique()
    return adata
