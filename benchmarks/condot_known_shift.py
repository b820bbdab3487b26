"""CondOT where the optimal map is known: a shift, and an affine map, that change smoothly with the context."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from recording import Note, make_parser, mean_and_spread, use_threads
from scipy.linalg import expm, sqrtm

from scgim.baselines import Condition, TrainingData
from scgim.baselines.condot import CondOT

GENES = 10
TRAINED = [np.array([a, b]) for a in np.linspace(0, 1, 5) for b in np.linspace(0, 1, 5)]
BETWEEN = [np.array([a, b]) for a in np.linspace(0.125, 0.875, 4) for b in np.linspace(0.125, 0.875, 4)]
#: Mean length of the shift over the trained contexts; the genes' standard deviations are 1.
LENGTH = 4.0


class Truth:
    """Control N(0, S) with unit variances; condition c is N(m(c), A(c) S A(c)), A(c) = identity in the first case."""

    def __init__(self, case: str, rng: np.random.Generator):
        loadings = rng.standard_normal((GENES, 3))
        covariance = loadings @ loadings.T + np.eye(GENES)
        deviation = np.sqrt(np.diag(covariance))
        self.control = covariance / np.outer(deviation, deviation)
        self.directions = rng.standard_normal((GENES, 4))
        self.directions *= LENGTH / np.mean([np.linalg.norm(self.shift(c)) for c in TRAINED])
        self.logs = np.zeros((2, GENES, GENES))
        if case == "affine map":
            noise = rng.standard_normal((2, GENES, GENES))
            self.logs = noise + noise.transpose(0, 2, 1)
            self.logs *= 0.7 / np.linalg.norm(self.logs, ord=2, axis=(1, 2))[:, None, None]

    def shift(self, context: np.ndarray) -> np.ndarray:
        """m(c): linear, quadratic, product and wave."""
        a, b = context
        return self.directions @ np.array([1 + a, b**2, a * b, np.sin(np.pi * b)])

    def matrix(self, context: np.ndarray) -> np.ndarray:
        """A(c): symmetric, with eigenvalues between exp(-1.4) and exp(1.4)."""
        return expm(np.tensordot(context, self.logs, axes=1))

    def covariance(self, context: np.ndarray) -> np.ndarray:
        """Of the cells of a condition."""
        matrix = self.matrix(context)
        return matrix @ self.control @ matrix

    def cells(self, context: np.ndarray | None, n: int, rng: np.random.Generator) -> np.ndarray:
        """Cells of a condition; None: control cells."""
        x = rng.multivariate_normal(np.zeros(GENES), self.control, size=n)
        return x if context is None else x @ self.matrix(context) + self.shift(context)

    def best(self, context: np.ndarray, unit: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The optimal map for squared distances in units of `unit`, one per gene (closed form, normal cells)."""
        scale = np.outer(unit, unit)
        root = sqrtm(self.control / scale).real
        inverse = np.linalg.inv(root)
        linear = inverse @ sqrtm(root @ (self.covariance(context) / scale) @ root).real @ inverse
        return lambda x: (x / unit) @ linear * unit + self.shift(context)


def training_data(truth: Truth, n: int, n_control: int, rng: np.random.Generator) -> TrainingData:
    """Control cells, then the trained contexts."""
    cells = [truth.cells(None, n_control, rng), *(truth.cells(c, n, rng) for c in TRAINED)]
    labels = ["control", *map(label, TRAINED)]
    table = pd.DataFrame({"condition": labels, "perturbation": labels, "dose": np.nan})
    table["is_control"] = table["condition"] == "control"
    codes = np.repeat(np.arange(len(labels)), [len(own) for own in cells])
    return TrainingData(np.vstack(cells), codes, table, np.vstack([np.zeros(2), *TRAINED]))


def label(context: np.ndarray) -> str:
    return "c_" + "_".join(f"{value:g}" for value in context)


def relative(error: np.ndarray, size: np.ndarray) -> float:
    """Length of one array relative to that of another."""
    return float(np.linalg.norm(error) / np.linalg.norm(size))


def run_one(case: str, n: int, seed: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One experiment and one fit: errors per context, relative to the size of what is to be learned."""
    rng = np.random.default_rng(seed)
    truth = Truth(case, rng)
    data = training_data(truth, n, 8 * n, rng)
    start = time.perf_counter(), time.process_time()
    condot = CondOT(**options).fit(data, rng=seed)
    seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    x = truth.cells(None, 4_000, rng)  # fresh control cells
    own = {label(c): data.x[data.codes == row] for c, row in zip(TRAINED, data.trained, strict=True)}
    rows = []
    for where, contexts in (("trained", TRAINED), ("between", BETWEEN)):
        for context in contexts:
            name, unit, shift = label(context), condot.spread_, truth.shift(context)
            moved = condot.transport(x, Condition(name, name, np.nan, context, (name,)))
            best = truth.best(context, unit)(x)
            row = {"case": case, "cells": n, "seed": seed, "contexts": where, "context": name}
            row["mean"] = relative((moved - x).mean(axis=0) - shift, shift)
            row["map"] = relative((moved - best) / unit, (best - x) / unit)
            change = truth.covariance(context) - truth.control
            changed = np.linalg.norm(change) > 1e-9  # not in the first case, nor at the context (0, 0)
            if changed:
                row["covariance"] = relative(np.cov(moved.T) - truth.covariance(context), change)
            if where == "trained":
                row["own mean"] = relative(own[name].mean(axis=0) - shift, shift)
                if changed:
                    row["own covariance"] = relative(np.cov(own[name].T) - truth.covariance(context), change)
            rows.append(row | {"seconds": seconds, "cpu_seconds": cpu_seconds})
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Percent, mean over contexts; mean ± standard deviation over seeds."""
    columns = {
        "mean": "error of the mean (%)",
        "map": "error of the map, cell by cell (%)",
        "covariance": "error of the covariance (%)",
        "own mean": "the training cells' own error of the mean (%)",
        "own covariance": "the training cells' own error of the covariance (%)",
    }
    table = []
    for (case, cells, where), own in rows.groupby(["case", "cells", "contexts"], sort=False):
        by_seed = 100 * own.groupby("seed")[list(columns)].mean()
        row = {"truth": case, "cells per context": cells, "contexts": f"{where} ({own['context'].nunique()})"}
        row["fits whose mean over contexts is below 10 %"] = f"{(by_seed['mean'] < 10).sum()} of {len(by_seed)}"
        row["largest error of a mean (%)"] = f"{100 * own['mean'].max():.1f}"
        table.append(row | {text: mean_and_spread(by_seed[name], 1) for name, text in columns.items()})
    return pd.DataFrame(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="an experiment and a fit for each"
    )
    parser.add_argument(
        "--cells",
        type=int,
        nargs="+",
        default=[100, 500],
        help="per trained context; of the control eight times as many",
    )
    parser.add_argument("--steps", type=int, help="outer iterations (default: that of CondOT)")
    parser.set_defaults(threads=1)
    args = parser.parse_args(argv)
    use_threads(args.threads)
    note = Note(
        "CondOT where the map is known",
        data=f"**simulated**: {GENES} correlated normal genes of variance 1; {len(TRAINED)} trained contexts (a grid "
        "in two dimensions); eight times as many control cells as cells per context",
        argv=argv,
        script="condot_known_shift.py",
        seeds=args.seeds,
    )
    options = {} if args.steps is None else {"steps": args.steps}
    rows = pd.DataFrame(
        [
            row
            for case in ("shift", "affine map")
            for cells in args.cells
            for seed in args.seeds
            for row in run_one(case, cells, seed, options)
        ]
    )
    note.text(
        "The cells of a context are control cells moved by a shift that is not linear in the context (mean length "
        f"{LENGTH:g}), or moved and stretched along correlated directions. Errors are relative to what is to be "
        "learned: for the mean the shift; for the map, cell by cell, the movement of the optimal map (root mean "
        "squares over 4,000 fresh control cells, in the units that CondOT uses, one standard deviation of each gene); "
        "for the covariance its change (Frobenius). The contexts between lie in the middle of every square of trained "
        "ones. The last two columns are the errors that the moments of a context's training cells have themselves."
    )
    fits = rows.drop_duplicates(["case", "cells", "seed"])
    below = (
        f"Mean over contexts, then mean ± standard deviation over fits. A fit took {fits['seconds'].median():.0f} s "
        f"(median; {fits['cpu_seconds'].median():.0f} s of processor time)."
    )
    note.table("Errors", summary(rows), below)
    note.write(args.out, "condot_known_shift", rows)


if __name__ == "__main__":
    main()
