"""Drugs never seen: predicted from their fingerprints, with 4, 10 and 40 drugs in training and leaving one drug out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent / "field"))  # where fits are kept
from keeping import (
    Arrays,
    Note,
    about,
    commits,
    data_file,
    fitted,
    gim,
    kept,
    make_parser,
    mean_and_spread,
    use_threads,
)

from scgim.baselines import Baseline
from scgim.benchmark import Method, extract
from scgim.metrics import METRICS

if TYPE_CHECKING:
    from anndata import AnnData

    from scgim.baselines import Condition, TrainingData

STANDIN = "sciplex3_standin.h5ad"
DRUGS = ("Belinostat", "Dacinostat", "Givinostat", "Quisinostat")
#: Class -> structure without its substituent. The structures are enumerated, what they do is simulated.
CLASSES = {
    "hydroxamate": "ONC(=O)CCCCCCC(=O)N{}", "quinazoline": "COc1cc2ncnc(N{})c2cc1OC",
    "purine": "CC(C)n1cnc2c(N{})ncnc12", "oestrane": "CC12CCC3c4ccc(O)cc4CCC3C1CCC2N{}",
    "penam": "CC1(C)SC2C(NC(=O){})C(=O)N2C1C(=O)O", "benzimidazole": "COC(=O)Nc1nc2cc({})ccc2[nH]1",
    "phenothiazine": "{}N1c2ccccc2Sc2ccccc21", "sulphonylurea": "Cc1ccc(S(=O)(=O)NC(=O)N{})cc1",
    "coumarin": "O=C1C=C({})c2ccccc2O1",
}  # fmt: skip
SUBSTITUENTS = (
    "c1ccccc1", "c1ccc(F)cc1", "c1ccc(Cl)c(C)c1", "CCN1CCOCC1", "CC1CCCCC1", "Cc1cccnc1", "CCc1ccccc1",
)  # fmt: skip
#: Training drugs -> (classes, drugs of each); held out are two drugs of each of the first two, and of the last class.
SCREENS = {4: (2, 2), 10: (5, 2), 40: (8, 5)}
N_GENES, N_BACKGROUND, N_CELLS, N_CONTROL = 20, 280, 150, 800
KNOWN, NEW = "drugs of a class in training", "drugs of a class never seen"
SIMULATED = ["mean_distance", "pearson_delta", "e_distance", "wasserstein", "target_f1"]
TITLES = {
    "mean_distance": "mean distance ↓", "pearson_delta": "Pearson of changes ↑", "e_distance": "E-distance ↓",
    "wasserstein": "Wasserstein ↓", "target_f1": "targets (F1) ↑",
}  # fmt: skip
HALF = "the other half of the truth"


@dataclass(kw_only=True, eq=False)
class OtherDrugs(Baseline):
    """Training cells of other drugs at the same dose: of all, each as often, or of the `nearest` to the one asked."""

    name: ClassVar[str] = "other_drugs"
    can_predict_unseen: ClassVar[bool] = True

    nearest: Mapping[str, str] | None = None

    def fit(self, data: TrainingData, rng: Any = 0) -> Self:
        """Keep the cells."""
        conditions = [data.condition(row) for row in data.trained]
        self.cells_ = {
            (one.perturbation, one.label.removeprefix(one.perturbation)): data.x[data.codes == row]
            for row, one in zip(data.trained, conditions, strict=True)
        }
        return self

    def sample(self, condition: Condition, n: int, rng: Any = 0) -> np.ndarray:
        """With replacement."""
        dose = condition.label.removeprefix(condition.perturbation)
        drugs = [drug for drug, own in self.cells_ if own == dose]
        if self.nearest is not None:
            drugs = [self.nearest[condition.perturbation]]
        generator = np.random.default_rng(rng)
        found = [self.cells_[drug, dose] for drug in generator.choice(drugs, size=n)]
        return np.stack([cells[generator.integers(len(cells))] for cells in found])


@dataclass(frozen=True)
class Setting:
    """A preparation with drugs held out: how they are grouped (drug -> group), and their true targets where known."""

    data: str
    name: str
    seed: int
    load: Callable[[], AnnData]
    groups: Mapping[str, str]
    columns: Mapping[str, Any]


def screen(n_drugs: int, seed: int) -> AnnData:
    """Counts of a screen of `n_drugs` and the drugs held out; `uns["targets"]` has the direct targets of each.

    The drugs of a class share two targets and the direction of their effects, which differ in strength (0.6 to 1.2);
    half of them have a target of their own. Graph, targets and held-out cells are the same for every `n_drugs`.
    """
    from anndata import AnnData

    from scgim.datasets._simulated import LATENT_VARIANCE, NETWORK_OVERDISPERSION, UP, _draw_basal
    from scgim.simulate import ancestral_sample, count_cells, draw_depths, draw_mechanisms, draw_target_sets, random_dag

    rng, *of_drugs = np.random.default_rng([seed, 17]).spawn(2 + len(CLASSES) * len(SUBSTITUENTS))
    graph = random_dag(N_GENES, kind="er", rng=rng)
    mechanisms = draw_mechanisms(graph, family="saturating", rng=rng)
    mechanisms["noise_variance"][:] = LATENT_VARIANCE
    n_all = N_GENES + N_BACKGROUND
    basal = _draw_basal(n_all, np.arange(N_GENES), np.ones(N_GENES, dtype=bool), rng)
    overdispersion = np.repeat([NETWORK_OVERDISPERSION, 1.0], [N_GENES, N_BACKGROUND])
    shared = draw_target_sets(N_GENES, len(CLASSES), sizes=(2,), rng=rng)
    height = rng.uniform(1.3, 2.4, (len(CLASSES), 2)) * np.where(rng.random((len(CLASSES), 2)) < UP, 1, -1)
    n_classes, n_members = SCREENS[n_drugs]
    blocks, rows, truth, last = [], [], {}, len(CLASSES) - 1
    designs = [("control", 0, -1, of_drugs[-1])]
    for drug, own in enumerate(of_drugs[:-1]):
        of_class, member = divmod(drug, len(SUBSTITUENTS))
        if (of_class < n_classes and member < n_members) or (of_class in (0, 1, last) and member >= 5):
            designs.append((f"{list(CLASSES)[of_class]} {member}", of_class, member, own))
    for name, of_class, member, own in designs:
        effect = np.zeros(N_GENES)
        if member >= 0:
            if own.random() < 0.5:
                effect[own.integers(N_GENES)] = own.uniform(1.3, 2.4) * own.choice([-1, 1])
            effect[list(shared[of_class])] = height[of_class] * own.uniform(0.6, 1.2) * own.uniform(0.85, 1.15, 2)
            truth[name] = (effect != 0).astype(int)
        # Twice as many cells where they are split into halves.
        n = N_CONTROL if member < 0 else N_CELLS * (2 if member >= 5 else 1)
        many = np.tile(effect, (n, 1))
        z = ancestral_sample(graph, mechanisms, targets=many != 0, effects=many, hard_variance=LATENT_VARIANCE, rng=own)
        rates = draw_depths(n, median=1_000.0, rng=own)[:, None] * basal
        rates[:, :N_GENES] *= np.exp(z)
        blocks.append(count_cells(rates, overdispersion=overdispersion, rng=own).toarray())
        smiles = list(CLASSES.values())[of_class].format(SUBSTITUENTS[member]) if member >= 0 else ""
        rows += [(name, smiles)] * n
    names = [f"g{i:03d}" for i in range(n_all)]
    obs = pd.DataFrame(rows, columns=["perturbation", "smiles"], index=[f"c{i}" for i in range(len(rows))])
    adata = AnnData(np.concatenate(blocks).astype(np.float32), obs=obs, var=pd.DataFrame(index=names))
    adata.uns["targets"] = pd.DataFrame(truth, index=names[:N_GENES]).T
    return adata


def simulated(args: Any) -> Iterator[Setting]:
    """Screens of 4, 10 and 40 drugs."""

    def load(n_drugs: int, groups: Mapping[str, str], seed: int) -> AnnData:
        import scgim

        adata = screen(n_drugs, seed)
        scgim.pp.prepare(
            adata, features="fingerprint", smiles_key="smiles", genes=list(adata.var_names[:N_GENES]),
            hold_out=list(groups), rng=seed,
        )  # fmt: skip
        return adata

    first, second, *_, last = CLASSES
    groups = {f"{name} {i}": NEW if name == last else KNOWN for name in (first, second, last) for i in (5, 6)}
    for seed in args.seeds:
        for n in args.drugs:
            loaded = partial(load, n, groups, seed)
            yield Setting("simulated", f"screen{n}-seed{seed}", seed, loaded, groups, {"drugs in training": n})


def stand_in(args: Any) -> Iterator[Setting]:
    """SciPlex3's four inhibitors, each left out with all of its doses."""

    def load(file: str, drug: str, seed: int) -> AnnData:
        import anndata as ad

        import scgim

        adata = ad.read_h5ad(file)
        scgim.pp.prepare(
            adata, dose_key="dose_value", dose_unit_key="dose_unit", features="fingerprint", smiles_key="smiles",
            hold_out={drug: None}, n_genes=20, small_conditions="drop", rng=seed,
        )  # fmt: skip
        return adata

    for seed in args.seeds:
        for line in extract(data_file(args.data, STANDIN), args.work / "extracts", drugs=DRUGS):
            for drug in DRUGS:
                name, loaded = f"{line.cell_line}-{drug}-seed{seed}", partial(load, line.file, drug, seed)
                yield Setting("stand-in", name, seed, loaded, {drug: drug}, {"cell line": line.cell_line})


SETS = {"simulated": simulated, "stand-in": stand_in}


def similarity(adata: AnnData, held_out: Mapping[str, str]) -> pd.DataFrame:
    """Tanimoto similarity of all bits, (held-out drugs, drugs in training)."""
    spec = adata.uns["gim"]["feature_spec"]
    names, bits = np.array(spec["perturbations"], dtype=str), np.asarray(spec["matrix"], dtype=float)
    both, size = bits @ bits.T, bits.sum(1)
    similar = pd.DataFrame(both / (size[:, None] + size - both), names, names)
    return similar.loc[list(held_out), ~np.isin(names, list(held_out))]


def judge(setting: Setting, methods: Sequence[Method], work: Path) -> tuple[pd.DataFrame, list[str]]:
    """Fit and score every method of a setting that has no kept scores; one row per method, condition and metric."""
    from scgim.baselines import prepared_condition, training_data
    from scgim.slots import read_entry

    adata = setting.load()
    entry, train, truth = read_entry(adata), training_data(adata, counts=True), adata.uns.get("targets")
    table, codes, control = entry.conditions, entry.codes(adata), train.x[train.control]
    rows = np.flatnonzero(table["perturbation"].isin(setting.groups))
    halves = {}
    for row in rows:
        own = np.random.default_rng([setting.seed, 2, row]).permutation(np.flatnonzero(codes == row))
        halves[row] = [entry.expression(adata, part) for part in np.array_split(own, 2)]
    names = SIMULATED if truth is not None else SIMULATED[:-1]

    def values(row: int, cells: np.ndarray) -> list[float]:
        true = halves[row][0]
        options: dict[str, Any] = {"e_distance": {"unbiased": True}, "wasserstein": {"tolerance": 1e-3}}
        few = {"wasserstein": cells[: len(true)]}
        return [METRICS[m](true, few.get(m, cells), control, **options.get(m, {})) for m in SIMULATED[:-1]]

    def scores(method: Method | None) -> Arrays:
        seconds, found = 0.0, np.full((len(rows), len(names)), np.nan)
        baseline = None
        if method is not None:
            baseline, seconds = fitted(method, train, setting.seed)
        for i, row in enumerate(rows):
            condition = prepared_condition(adata, entry.labels[row])
            cells = halves[row][1]
            if baseline is not None:
                cells = baseline.sample(condition, 500, np.random.default_rng([setting.seed, 1, i]))
            found[i, : len(SIMULATED) - 1] = values(row, cells)
            if truth is not None and baseline is not None and baseline.gives_targets:
                called = np.asarray(baseline.targets([condition])) > 0.5
                true = truth.loc[[condition.perturbation], entry.genes].to_numpy().astype(bool)
                found[i, -1] = METRICS["target_f1"](true, called)
        return {"values": found, "cpu_seconds": np.array(seconds)}

    near, frames, found_at = similarity(adata, setting.groups), [], []
    similar = Method("most similar drug", OtherDrugs, {"nearest": near.idxmax(axis=1).to_dict()})
    for method in (*methods, similar, None):
        name = HALF if method is None else method.name
        what = {"data": about(train), "truth": f"{sum(float(a.sum()) for a, _ in halves.values()):.6g}"}
        what |= {"options": {} if method is None else method.options}
        found, code = kept(work / setting.name, name, what, partial(scores, method))
        found_at.append(code)
        frame = table.iloc[rows][["perturbation", "dose"]].reset_index(drop=True).assign(method=name, **setting.columns)
        frame["group"], frame["similarity"] = (
            frame["perturbation"].map(own) for own in (setting.groups, near.max(axis=1))
        )
        frame = frame.assign(
            **dict(zip(names, found["values"].T, strict=True)), cpu_seconds=float(found["cpu_seconds"])
        )
        frames.append(frame.assign(data=setting.data, setting=setting.name, seed=setting.seed))
    print(f"{setting.name}: done", flush=True)
    return pd.concat(frames, ignore_index=True), found_at


def summary(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean over conditions for each seed, then mean ± standard deviation over seeds."""
    keys, rows = list(by), []
    per_seed = table.groupby([*keys, "seed"], sort=False)[list(metrics)].mean().reset_index()
    for _, own in per_seed.groupby(keys, sort=False):
        row = {key: own[key].iloc[0] for key in keys}
        row |= {TITLES[m]: mean_and_spread(own[m], 1 if m == "wasserstein" else 2) for m in metrics}
        rows.append(row)
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=["simulated", "stand-in"], choices=["simulated", "stand-in"])
    parser.add_argument("--drugs", nargs="+", type=int, default=list(SCREENS), help="in training, of the simulated")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished fits: an interrupted run goes on")
    args = parser.parse_args(argv)
    use_threads(args.threads)
    note = Note(
        "Drugs never seen", data="**simulated** and **semi-synthetic**, see each table",
        argv=argv, script="unseen_drugs.py", seeds=args.seeds,
    )  # fmt: skip
    own = {**({} if args.steps is None else {"max_steps": args.steps}), **dict(args.set)}
    methods = [gim("GIM (count)", "count", own), Method("ridge"), Method("mean of the drugs", OtherDrugs)]
    methods.append(Method("control"))
    found = {name: [judge(one, methods, args.work) for one in SETS[name](args)] for name in args.sets}
    tables = {name: pd.concat([table for table, _ in own], ignore_index=True) for name, own in found.items()}
    note.text(
        "Mean over conditions, then mean ± standard deviation over seeds. GIM and ridge read the same features "
        '(`features="fingerprint"`: Morgan, radius 2, 1,024 bits, of which those count that vary in training). '
        '"Mean of the drugs": training cells of all drugs at the same dose, each drug as often. "Most similar drug": '
        "those of the one with the most similar fingerprint (Tanimoto). Held-out cells are split into "
        f'halves: all methods are judged by one; "{HALF}" is the limit. 500 cells are predicted (for the Wasserstein '
        "distance, whose costs are squared distances, as many as there are true ones). The E-distance is the unbiased "
        "one, and can be negative."
    )
    if "simulated" in tables:
        table = tables["simulated"]
        for group, held_out in ((KNOWN, "4 drugs of 2 classes"), (NEW, "2 drugs of 1 class")):
            by = summary(table[table["group"] == group], ["drugs in training", "method"], SIMULATED)
            note.table(f"Simulated: {group}", by, f"Held out: {held_out}, the same for every number of drugs.")
        note.text(
            f"{N_GENES} genes of a random graph, {N_BACKGROUND} others that do not respond; about 1,000 counts a cell; "
            f"{N_CELLS} cells of a drug, {N_CONTROL} of control; one system for each seed. A class shares a scaffold "
            "and two direct targets; its drugs differ in substituent, in strength (0.6 to 1.2) and, half of them, by a "
            "target of their own. In training are "
            + ", ".join(f"{c} classes of {d} ({n} drugs)" for n, (c, d) in SCREENS.items())
            + ". The structures are enumerated, what they do is drawn."
        )
    if "stand-in" in tables:
        table = tables["stand-in"]
        note.table(
            "Four inhibitors of one class, each left out (semi-synthetic stand-in)",
            summary(table, ["method"], SIMULATED[:-1]),
            "SciPlex3's design, simulated counts: all doses of a drug are held out, in each of the lines A549, K562 "
            "and MCF7; 20 marker genes. **No number of this table is one on SciPlex3.**",
        )
        for key, heading in (("perturbation", "by drug"), ("dose", "by dose (nM)")):
            wide = summary(table, [key, "method"], ["mean_distance"])
            wide = wide.pivot(index="method", columns=key, values=TITLES["mean_distance"]).reindex(
                table["method"].unique()
            )
            wide.columns = [f"{name:g}" if key == "dose" else str(name) for name in wide.columns]
            note.table(f"The same {heading}: mean distance ↓", wide.reset_index())
    tidy = pd.concat(tables.values(), ignore_index=True)
    like = tidy.groupby(["data", "group"], sort=False)["similarity"].agg(["min", "median", "max"]).round(2)
    note.table("Tanimoto similarity of held-out drugs to the most similar one in training", like.reset_index())
    cost = tidy[tidy["method"].str.startswith("GIM")].drop_duplicates(["setting", "method"])
    cost = cost.groupby("setting", sort=False)["cpu_seconds"].first()
    note.text(f"{len(cost)} fits of GIM took {cost.mean():.0f} CPU seconds each, {cost.sum() / 60:.0f} minutes in all.")
    code = commits([code for own in found.values() for _, codes in own for code in codes])
    note.text(f"Fitted at commit {code}; fits of an interrupted run are kept.")
    note.write(args.out, "unseen_drugs", tidy)


if __name__ == "__main__":
    main()
