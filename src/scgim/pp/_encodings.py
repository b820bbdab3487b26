"""Encodings: what the intervention network sees of each part (perturbation and dose), one class for each kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from .._errors import InvalidType, InvalidValue
from .._logging import logger
from .._validation import listing, suggestion
from ..slots.codec import from_storable
from ._descriptors import look_up, morgan_bits, new_fingerprints, new_table_rows, table_rows
from ._doses import Responses, dose_one_hot, fit_potency, hill_curves, rescaled_dose
from ._labels import Part, part_label


def _empty() -> np.ndarray:
    return np.zeros(0)


@dataclass(kw_only=True)
class Encoding:
    """A block of features of the perturbation, then columns of the dose; the fields are entries of `feature_spec`.

    A kind of its own is a subclass with `block_names` and `block`, if it needs them `begin` and `train`, and a line in
    `ENCODINGS`.
    """

    kind: str
    has_dose: bool
    perturbations: np.ndarray  # names, sorted
    dose_low: float
    dose_high: float
    dose_levels: np.ndarray = field(default_factory=_empty)  # the doses of training
    dose_one_hot: bool = False  # whether these columns follow
    rescaled_dose: bool = False

    def begin(self, parts: list[Part], given: Any) -> None:
        """What no choice of held-out conditions changes; `given`: a DataFrame, or the SMILES of the perturbations."""

    def train(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray) -> None:
        """What depends on which parts are trained on; the arguments are those of `fit`."""

    def block_names(self) -> list[str]:
        """Names of the features in `block`."""
        raise NotImplementedError

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        """(parts, features) of the perturbation, whatever follows for the dose."""
        raise NotImplementedError

    def fit(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray | None = None) -> None:
        """Fix everything that depends on which parts are trained on.

        `trained`, (parts,) bool: the part occurs in a training condition; `alone`: in one that has it alone (None: the
        same). A dose that is held out altogether is interpolated like any other: its column would have no training.
        """
        doses = [dose for (_, dose), use in zip(parts, trained, strict=True) if use and self.has_dose]
        self.dose_levels = np.unique(np.array(doses, dtype=float))
        self.train(parts, trained, trained if alone is None else alone)

    @property
    def feature_names(self) -> list[str]:
        """Names of all features, after `fit`."""
        levels = [f"dose={dose:g}" for dose in self.dose_levels] if self.dose_one_hot else []
        return [*self.block_names(), *levels, *["rescaled_dose"] * self.rescaled_dose]

    def transform(self, parts: list[Part], user_features: Any = None) -> np.ndarray:
        """(parts, p) float32 features of any parts, see `featurize`."""
        names, doses = [str(name) for name, _ in parts], np.array([dose for _, dose in parts], dtype=float)
        if self.has_dose:
            bad = [name for name, dose in zip(names, doses, strict=True) if not (math.isfinite(dose) and dose > 0)]
            if bad:
                raise InvalidValue(f"These perturbations need a dose that is positive and finite: {listing(bad)}.")
        elif not np.isnan(doses).all():
            raise InvalidValue(
                "The data were prepared without doses (dose_key=None): leave the dose out, or set it to NaN."
            )
        blocks = [self.block(names, doses, user_features)]
        if self.dose_one_hot:
            blocks.append(dose_one_hot(doses, np.asarray(self.dose_levels, dtype=float)))
        if self.rescaled_dose:
            blocks.append(rescaled_dose(doses, self.dose_low, self.dose_high)[:, None])
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The entries of `feature_spec`."""
        entries = {f.name: getattr(self, f.name) for f in fields(self)}
        return entries | {"feature_names": np.array(self.feature_names, dtype=object)}

    @staticmethod
    def from_dict(spec: Mapping[str, Any]) -> Encoding:
        """What `to_dict` gave, read from a file or not."""
        spec = from_storable(dict(spec))
        kind = ENCODINGS[spec["kind"]]
        return kind(**{f.name: spec[f.name] for f in fields(kind) if f.name in spec})

    def _one_hot(self, names: list[str]) -> np.ndarray:
        """(parts, perturbations) 0/1; refuses perturbations that `prepare` did not see."""
        known = list(map(str, self.perturbations))
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise InvalidValue(
                f"{listing(unknown)} was not seen by prepare, and one-hot features (features={self.kind!r}) say "
                f"nothing about a new perturbation.{suggestion(unknown[0], known)} Known perturbations: "
                f"{listing(known, most=30)}. For new drugs run "
                'prepare with features="fingerprint" (SMILES in obs) or with a DataFrame of features.'
            )
        return np.eye(len(known))[pd.Index(known).get_indexer(names)]

    def _is_trained(self, parts: list[Part], trained: np.ndarray) -> np.ndarray:
        """(perturbations,) bool"""
        names = {name for (name, _), use in zip(parts, trained, strict=True) if use}
        return np.array([name in names for name in self.perturbations])


@dataclass(kw_only=True)
class OneHot(Encoding):
    """One-hot perturbation."""

    def train(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray) -> None:
        unseen = self.perturbations[~self._is_trained(parts, trained)]
        if len(unseen):
            logger.warning(
                f"held out altogether: {listing(unseen)}. One-hot features say nothing about a perturbation never seen "
                'in training; features="fingerprint" or a DataFrame can.'
            )

    def block_names(self) -> list[str]:
        return [f"perturbation={name}" for name in self.perturbations]

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        return self._one_hot(names)


@dataclass(kw_only=True)
class Hill(Encoding):
    """Per perturbation, curves that saturate at the same doses for all (own)."""

    half_doses: np.ndarray = field(default_factory=_empty)

    def train(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray) -> None:
        low, high = self.dose_low, self.dose_high
        self.half_doses = np.array([low]) if low == high else np.geomspace(low, high, 3)

    def block_names(self) -> list[str]:
        return [f"perturbation={name}:hill_{k:g}" for name in self.perturbations for k in self.half_doses]

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        curves = hill_curves(doses, np.asarray(self.half_doses, dtype=float))
        return (self._one_hot(names)[:, :, None] * curves[:, None, :]).reshape(len(names), -1)


@dataclass(kw_only=True)
class Potency(Encoding):
    """Curves around the dose at which each perturbation reaches half of its effect, read from training cells (own)."""

    responses: dict[str, np.ndarray] = field(default_factory=dict)  # of each part; empty before genes are chosen
    half_doses: np.ndarray = field(default_factory=_empty)  # (perturbations,)
    exponent: float = 1.0
    #: The curves saturate at these multiples of a perturbation's own half-dose.
    multiples: ClassVar = np.array([0.2, 1.0, 5.0])

    def train(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray) -> None:
        names = [str(name) for name in self.perturbations]
        if self.responses:
            self.half_doses, self.exponent = fit_potency(Responses(**self.responses), parts, alone, names)
        else:
            self.half_doses, self.exponent = np.full(len(names), self.dose_low), 1.0

    def block_names(self) -> list[str]:
        own = [f"perturbation={name}:activity" for name in self.perturbations]
        return [*own, *(f"activity_{multiple:g}" for multiple in self.multiples)]

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        one_hot = self._one_hot(names)
        half = np.asarray(self.half_doses, dtype=float)[one_hot.argmax(axis=1), None] * self.multiples
        curves = hill_curves(doses, half, float(self.exponent))
        return np.hstack([one_hot * curves[:, [1]], curves])


@dataclass(kw_only=True)
class Fingerprint(Encoding):
    """Morgan fingerprint instead of the one-hot perturbation, as long as it on average (own; extra `chem`)."""

    smiles: np.ndarray = field(default_factory=_empty)  # (perturbations,)
    fingerprint: dict[str, int] = field(default_factory=lambda: {"radius": 2, "n_bits": 1024})
    matrix: np.ndarray = field(default_factory=_empty)  # (perturbations, bits)
    bits: np.ndarray = field(default_factory=_empty)  # those that vary in training; nothing trains others
    scale: float = 1.0  # of a bit: at 1 the networks learn drugs by heart, from dozens of bits

    def begin(self, parts: list[Part], given: Any) -> None:
        self.smiles = np.array(given, dtype=object)
        self.matrix = morgan_bits(dict(zip(self.perturbations, given, strict=True)), **self.fingerprint)

    def train(self, parts: list[Part], trained: np.ndarray, alone: np.ndarray) -> None:
        bits = self.matrix[self._is_trained(parts, trained)]
        varies = (bits != bits[0]).any(axis=0)
        self.bits = np.flatnonzero(varies if varies.any() else bits[0] > 0)
        self.scale = 1.0 / max(1.0, float(np.linalg.norm(bits[:, self.bits], axis=1).mean()))
        same = len(bits) - len(np.unique(bits, axis=0))
        if same:
            logger.warning(
                f"perturbations with the same fingerprint as another: {same}; the model cannot tell them apart."
            )

    def block_names(self) -> list[str]:
        return [f"morgan_{bit}" for bit in self.bits]

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        size = {name: int(value) for name, value in self.fingerprint.items()}
        return look_up(
            names,
            self.perturbations,
            self.matrix,
            lambda new, known: new_fingerprints(new, known, user_features, **size),
        )[:, self.bits] * float(self.scale)


@dataclass(kw_only=True)
class Table(Encoding):
    """A user's matrix, by perturbation or by part."""

    by: str = "perturbation"
    rows: np.ndarray = field(default_factory=_empty)
    columns: np.ndarray = field(default_factory=_empty)
    matrix: np.ndarray = field(default_factory=_empty)  # (rows, columns)

    def begin(self, parts: list[Part], given: Any) -> None:
        self.by, self.rows, self.columns, self.matrix = table_rows(given, parts)

    def block_names(self) -> list[str]:
        return [str(column) for column in self.columns]

    def block(self, names: list[str], doses: np.ndarray, user_features: Any) -> np.ndarray:
        wanted = [part_label(*part) for part in zip(names, doses, strict=True)] if self.by == "part" else names
        columns = self.block_names()
        return look_up(wanted, self.rows, self.matrix, lambda new, _: new_table_rows(new, columns, user_features))


#: Kind -> its class. `"auto"`, `"onehot"` and `"rescaled"` differ in the columns of the dose only.
ENCODINGS: dict[str, type[Encoding]] = {
    "auto": OneHot,
    "onehot": OneHot,
    "rescaled": OneHot,
    "fingerprint": Fingerprint,
    "hill": Hill,
    "potency": Potency,
    "user": Table,
}
#: Kinds that a user can name; a DataFrame is the other.
KINDS = tuple(kind for kind in ENCODINGS if kind != "user")
#: Kinds that are made of doses, and have no one-hot dose.
DOSE_KINDS = ("rescaled", "hill", "potency")


def new_encoding(
    features: str | pd.DataFrame, parts: list[Part], *, has_dose: bool, smiles: list[str] | None = None
) -> Encoding:
    """An encoding before `fit`; `smiles`: of each perturbation, in alphabetical order, for fingerprints."""
    kind = features if isinstance(features, str) else "user"
    if kind in DOSE_KINDS and not has_dose:
        raise InvalidValue(f'features="{kind}" needs doses: pass dose_key=, or features="auto".')
    encoding = ENCODINGS[kind](
        kind=kind,
        has_dose=has_dose,
        perturbations=np.array(sorted({name for name, _ in parts}), dtype=object),
        dose_low=float(min(dose for _, dose in parts)) if has_dose else 0.0,
        dose_high=float(max(dose for _, dose in parts)) if has_dose else 0.0,
    )
    encoding.begin(parts, smiles if isinstance(features, str) else features)
    # A user's matrix that is indexed by part may well encode the dose itself.
    dosed = has_dose and not (isinstance(encoding, Table) and encoding.by == "part")
    encoding.dose_one_hot = dosed and kind not in DOSE_KINDS
    encoding.rescaled_dose = dosed and kind != "onehot"
    return encoding


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
    (parts, p) float32. A seen dose gets exactly its one-hot code, one between two seen doses the linear interpolation
    of their codes in log dose, and one outside of the range the code of the nearest (own).

    Raises
    ------
    ValueError
        If a perturbation is unknown to the features, a dose is missing, or a feature is not finite.

    Examples
    --------
    >>> import scgim
    >>> from scgim.pp._encodings import new_encoding
    >>> parts = [("A", 10.0), ("A", 1000.0)]
    >>> encoding = new_encoding("auto", parts, has_dose=True)
    >>> encoding.fit(parts, [True, True])
    >>> scgim.pp.featurize(encoding.to_dict(), [("A", 100.0)])
    array([[1.   , 0.5  , 0.5  , 0.625]], dtype=float32)
    """
    if user_features is not None and not isinstance(user_features, pd.DataFrame | Mapping):
        raise InvalidType(f"user_features must be a dict of SMILES by name or a DataFrame, got {user_features!r}.")
    return Encoding.from_dict(spec).transform(parts, user_features)
