"""Features: what the intervention network sees of each part (perturbation and dose)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .._logging import logger
from .._storage import from_storable
from .._validation import listing, suggestion
from .doses import dose_one_hot, hill_curves, rescaled_dose
from .fingerprints import N_BITS, RADIUS, morgan_bits
from .labels import Part, part_label
from .potency import Responses, fit_potency

KINDS = ("auto", "onehot", "rescaled", "fingerprint", "hill", "potency")
#: Kinds that are made of doses.
DOSE_KINDS = ("rescaled", "hill", "potency")
#: `"potency"` has curves that saturate at these multiples of a perturbation's own half-dose (`own`).
_MULTIPLES = np.array([0.2, 1.0, 5.0])


def feature_source(
    features: str | pd.DataFrame,
    parts: list[Part],
    *,
    has_dose: bool,
    smiles: list[str] | None = None,
    responses: Responses | None = None,
) -> dict[str, Any]:
    """The part of a feature spec that no choice of held-out conditions changes.

    Parameters
    ----------
    features
        A kind (see `prepare`) or a user's matrix.
    parts
        (name, dose) of each part of the data.
    has_dose
        Whether parts have doses.
    smiles
        For `"fingerprint"`: the SMILES of each perturbation, in alphabetical order of the names.
    responses
        For `"potency"`: of each part, see `scgim.pp.potency.part_responses`; None: not known yet.
    """
    names = sorted({name for name, _ in parts})
    doses = np.array([dose for _, dose in parts])
    source: dict[str, Any] = {
        "kind": features if isinstance(features, str) else "user",
        "has_dose": has_dose,
        "perturbations": np.array(names, dtype=object),
        "dose_low": float(doses.min()) if has_dose else 0.0,
        "dose_high": float(doses.max()) if has_dose else 0.0,
    }
    if source["kind"] in DOSE_KINDS and not has_dose:
        raise ValueError(f'features="{features}" needs doses: pass dose_key=, or features="auto".')
    if source["kind"] == "hill":
        low, high = source["dose_low"], source["dose_high"]
        source["half_doses"] = np.array([low]) if low == high else np.geomspace(low, high, 3)
    if source["kind"] == "potency":
        source["responses"] = {} if responses is None else responses._asdict()
    if source["kind"] == "fingerprint":
        texts = smiles or []
        source["smiles"] = np.array(texts, dtype=object)
        source["fingerprint"] = {"radius": RADIUS, "n_bits": N_BITS}
        source["matrix"] = morgan_bits(dict(zip(names, texts, strict=True)))
    if isinstance(features, pd.DataFrame):
        source |= _user_matrix(features, parts)
    # A user's matrix that is indexed by part may well encode the dose itself.
    dosed = has_dose and source.get("by") != "part"
    source["dose_one_hot"] = dosed and source["kind"] not in DOSE_KINDS
    source["rescaled_dose"] = dosed and source["kind"] != "onehot"
    return source


def complete_spec(
    source: Mapping[str, Any], parts: list[Part], trained: np.ndarray, alone: np.ndarray | None = None
) -> dict[str, Any]:
    """Fix everything that depends on which parts are trained on.

    The doses of the one-hot code are those of training: a dose that is held out altogether is interpolated
    like any other dose never seen, instead of having a column whose weights nothing has trained.

    Parameters
    ----------
    source
        From `feature_source`, or an earlier spec.
    parts
        (name, dose) of each part of the data.
    trained
        (parts,) bool: the part occurs in a training condition.
    alone
        (parts,) bool: the condition that has the part alone is trained on; None: as `trained`.

    Returns
    -------
    Everything that `featurize` needs, for parts of the data and for any other.
    """
    spec = dict(source)
    kind = spec["kind"]
    seen = [part for part, use in zip(parts, trained, strict=True) if use]
    trained_names = {name for name, _ in seen}
    spec["dose_levels"] = np.unique(np.array([dose for _, dose in seen if spec["has_dose"]], dtype=float))
    blocks: list[str] = []
    if kind in ("auto", "onehot", "rescaled"):
        blocks += [f"perturbation={name}" for name in spec["perturbations"]]
        unseen = [name for name in spec["perturbations"] if name not in trained_names]
        if unseen:
            logger.warning(
                "held out altogether: %s. One-hot features say nothing about a perturbation never seen in "
                "training; "
                'features="fingerprint" or a DataFrame can.',
                listing(unseen),
            )
    elif kind == "fingerprint":
        bits = spec["matrix"][[name in trained_names for name in spec["perturbations"]]]
        # A bit that never varies in training has weights that nothing trains.
        varies = (bits != bits[0]).any(axis=0)
        spec["bits"] = np.flatnonzero(varies if varies.any() else bits[0] > 0)
        blocks += [f"morgan_{bit}" for bit in spec["bits"]]
        same = len(bits) - len(np.unique(bits, axis=0))
        if same:
            logger.warning(
                "perturbations with the same fingerprint as another: %d; the model cannot tell them apart.",
                same,
            )
    elif kind == "hill":
        blocks += [f"perturbation={name}:hill_{k:g}" for name in spec["perturbations"] for k in spec["half_doses"]]
    elif kind == "potency":
        names = [str(name) for name in spec["perturbations"]]
        known = from_storable(dict(spec.get("responses") or {}))
        if known:
            own = trained if alone is None else alone
            spec["half_doses"], spec["exponent"] = fit_potency(Responses(**known), parts, own, names)
        else:  # before genes are chosen
            spec["half_doses"], spec["exponent"] = np.full(len(names), spec["dose_low"]), 1.0
        blocks += [f"perturbation={name}:activity" for name in names]
        blocks += [f"activity_{multiple:g}" for multiple in _MULTIPLES]
    else:
        blocks += [str(column) for column in spec["columns"]]
    if spec["dose_one_hot"]:
        blocks += [f"dose={dose:g}" for dose in spec["dose_levels"]]
    if spec["rescaled_dose"]:
        blocks.append("rescaled_dose")
    spec["feature_names"] = np.array(blocks, dtype=object)
    return spec


def featurize(
    spec: Mapping[str, Any], parts: list[Part], user_features: pd.DataFrame | Mapping[str, str] | None = None
) -> np.ndarray:
    """Features of any parts, seen or not.

    Parameters
    ----------
    spec
        `adata.uns["gim"]["feature_spec"]`.
    parts
        (name, dose) of each part; the dose is NaN where there are none.
    user_features
        For perturbations that `prepare` did not see: with fingerprints, a mapping from name to SMILES; with
        a user's matrix, a DataFrame with the same columns, indexed like it.

    Returns
    -------
    (parts, p) float32. A dose between two seen ones gets the linear interpolation of their one-hot codes in
    log dose, and one outside of the range the code of the nearest; a seen dose gets exactly its one-hot code
    (own).

    Raises
    ------
    ValueError
        If a perturbation is unknown to the features, a dose is missing, or a feature is not finite.

    Examples
    --------
    >>> import scgim
    >>> from scgim.pp.features import complete_spec, feature_source
    >>> parts = [("A", 10.0), ("A", 1000.0)]
    >>> spec = complete_spec(feature_source("auto", parts, has_dose=True), parts, [True, True])
    >>> scgim.pp.featurize(spec, [("A", 100.0)])
    array([[1.   , 0.5  , 0.5  , 0.625]], dtype=float32)
    """
    if user_features is not None and not isinstance(user_features, pd.DataFrame | Mapping):
        raise TypeError(f"user_features must be a dict of SMILES by name or a DataFrame, got {user_features!r}.")
    spec = from_storable(dict(spec))
    parts = [(str(name), float(dose)) for name, dose in parts]
    kind, has_dose = spec["kind"], bool(spec["has_dose"])
    doses = np.array([dose for _, dose in parts], dtype=float)
    if has_dose:
        bad = [name for name, dose in parts if not (math.isfinite(dose) and dose > 0)]
        if bad:
            raise ValueError(f"These perturbations need a dose that is positive and finite: {listing(bad)}.")
    elif not np.isnan(doses).all():
        raise ValueError("The data were prepared without doses (dose_key=None): leave the dose out, or set it to NaN.")
    blocks: list[np.ndarray]
    if kind in ("auto", "onehot", "rescaled", "hill", "potency"):
        known = list(map(str, spec["perturbations"]))
        _refuse_unknown(parts, known, kind)
        one_hot = np.zeros((len(parts), len(known)))
        which = pd.Index(known).get_indexer([name for name, _ in parts])
        one_hot[np.arange(len(parts)), which] = 1
        blocks = [one_hot]
        if kind == "hill":
            curves = hill_curves(doses, np.asarray(spec["half_doses"], dtype=float))
            blocks = [(one_hot[:, :, None] * curves[:, None, :]).reshape(len(parts), -1)]
        if kind == "potency":
            half = np.asarray(spec["half_doses"], dtype=float)[which, None] * _MULTIPLES
            curves = hill_curves(doses, half, float(spec["exponent"]))
            blocks = [one_hot * curves[:, [1]], curves]
    elif kind == "fingerprint":
        blocks = [_fingerprint_rows(spec, parts, user_features)]
    else:
        blocks = [_user_rows(spec, parts, user_features)]
    if spec["dose_one_hot"]:
        blocks.append(dose_one_hot(doses, np.asarray(spec["dose_levels"], dtype=float)))
    if spec["rescaled_dose"]:
        blocks.append(rescaled_dose(doses, spec["dose_low"], spec["dose_high"])[:, None])
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _refuse_unknown(parts: list[Part], known: list[str], kind: str) -> None:
    unknown = sorted({name for name, _ in parts} - set(known))
    if unknown:
        raise ValueError(
            f"{listing(unknown)} was not seen by prepare, and one-hot features (features={kind!r}) say "
            f"nothing about a new perturbation.{suggestion(unknown[0], known)} Known are "
            f"{listing(known, most=30)}. For new drugs run "
            'prepare with features="fingerprint" (SMILES in obs) or with a DataFrame of features.'
        )


def _fingerprint_rows(spec: Mapping[str, Any], parts: list[Part], user_features: Any) -> np.ndarray:
    known = {str(name): row for name, row in zip(spec["perturbations"], spec["matrix"], strict=True)}
    new = sorted({name for name, _ in parts} - set(known))
    if new:
        if isinstance(user_features, pd.DataFrame):
            raise TypeError("user_features must be a dict of SMILES by name here (fingerprints), got a DataFrame.")
        smiles = {} if user_features is None else dict(user_features)
        missing = [name for name in new if name not in smiles]
        if missing:
            raise ValueError(
                f"{listing(missing)} was not seen by prepare, and its SMILES is not known. Pass it as "
                f"user_features={{{missing[0]!r}: SMILES}}. Known are {listing(known, most=30)}."
            )
        size = {key: int(value) for key, value in spec["fingerprint"].items()}
        known |= dict(zip(new, morgan_bits({name: smiles[name] for name in new}, **size), strict=True))
    return np.stack([known[name] for name, _ in parts])[:, spec["bits"]]


def _user_matrix(frame: pd.DataFrame, parts: list[Part]) -> dict[str, Any]:
    """The rows that the data need of a user's matrix, found by part label or by name."""
    if not frame.index.is_unique or not frame.columns.is_unique:
        raise ValueError("features: the index and the columns of the DataFrame must be unique.")
    if frame.shape[1] == 0:
        raise ValueError("features: the DataFrame has no columns.")
    index = list(map(str, frame.index))
    labels = [part_label(*part) for part in parts]
    rows, names = set(index), {name for name, _ in parts}
    # Some labels among the rows mean that all were meant to be: the message then lists those that lack.
    by = "part" if set(labels) <= rows or (set(labels) & rows and not names <= rows) else "perturbation"
    wanted = labels if by == "part" else sorted(names)
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise ValueError(
            f"features: the DataFrame has no row for {listing(missing)}. Index it by perturbation "
            f"({listing(sorted(names), most=3)}) "
            f"or by part ({listing(labels, most=3)}), and give every one a row."
        )
    matrix = _numeric(frame.iloc[[index.index(name) for name in wanted]], wanted)
    return {
        "by": by,
        "rows": np.array(wanted, dtype=object),
        "columns": np.array([str(column) for column in frame.columns], dtype=object),
        "matrix": matrix,
    }


def _numeric(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    text = [str(name) for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if text:
        raise ValueError(
            f"features: the columns {listing(text)} are not numeric. Leave them out or encode them as numbers."
        )
    matrix = frame.to_numpy(dtype=np.float32, na_value=np.nan)
    bad = [name for name, fine in zip(names, np.isfinite(matrix).all(axis=1), strict=True) if not fine]
    if bad:
        raise ValueError(
            f"features: missing or infinite values for {listing(bad)}. Fill them, or leave those perturbations out."
        )
    return matrix


def _user_rows(spec: Mapping[str, Any], parts: list[Part], user_features: Any) -> np.ndarray:
    rows = {str(name): row for name, row in zip(spec["rows"], spec["matrix"], strict=True)}
    columns = list(map(str, spec["columns"]))
    wanted = [part_label(*part) if spec["by"] == "part" else part[0] for part in parts]
    new = sorted(set(wanted) - set(rows))
    if new:
        if not isinstance(user_features, pd.DataFrame):
            raise ValueError(
                f"{listing(new)} has no row in the features given to prepare. Pass user_features=, a "
                f"DataFrame with its row and the columns {listing(columns, most=5)}."
            )
        given = user_features.rename(index=str, columns=str)
        lacking = [*(set(new) - set(given.index)), *(set(columns) - set(given.columns))]
        if lacking or not given.index.is_unique or not given.columns.is_unique:
            raise ValueError(
                f"user_features: rows or columns are missing or occur twice ({listing(sorted(lacking))}). "
                "It needs one row "
                f"for each of {listing(new)} and the columns {listing(columns, most=5)}."
            )
        rows |= dict(zip(new, _numeric(given.loc[new, columns], new), strict=True))
    return np.stack([rows[name] for name in wanted])
