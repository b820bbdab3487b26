"""The SciPlex3 experiment on a small file in scPerturb's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from quick_fits import quick_fits
from scipy import sparse

from scgim import benchmark as bm
from scgim.benchmark.sciplex3 import SPLIT
from scgim.cli import main

pytestmark = pytest.mark.usefixtures("quick_fits")

matplotlib.use("Agg")
DRUGS = ("Belinostat (PXD101)", "Dacinostat (LAQ824)")
METHODS = ("gim", "ridge", "next_lower_dose", "control")


def screen(n: int = 40, genes: int = 25, few: int = 40) -> ad.AnnData:
    """Two lines x two drugs x three doses; five genes rise with the dose. `few` cells at the top dose of Dacinostat."""
    rng = np.random.default_rng(0)
    rows = []
    for line in ("A549", "K562"):
        rows += [(line, "control", 0.0)] * (3 * n)
        for drug in DRUGS:
            for dose in (100.0, 1_000.0, 10_000.0):
                rows += [(line, drug, dose)] * (few if drug.startswith("Dac") and dose == 10_000 else n)
    obs = pd.DataFrame(rows, columns=["cell_line", "perturbation", "dose_value"])
    obs["dose_unit"], obs["replicate"] = "nM", "rep1"
    obs.index = [f"cell{i}" for i in range(len(obs))]
    for column in ("cell_line", "perturbation", "dose_unit"):
        obs[column] = pd.Categorical(obs[column], categories=[*sorted(set(obs[column])), "never used"])
    rate = np.tile(rng.uniform(8, 20, genes), (len(obs), 1))
    strength = np.log10(obs["dose_value"].to_numpy().clip(10)) - 1
    rate[:, :5] *= (1 + strength)[:, None]
    x = sparse.csr_matrix(rng.poisson(rate * (rng.random(rate.shape) > 0.2)), dtype=np.int64)
    var = pd.DataFrame({"ensembl_id": [f"ENSG{i:011}" for i in range(genes)]}, index=[f"G{i}" for i in range(genes)])
    return ad.AnnData(x, obs=obs, var=var, uns={"provenance": "simulated for a test"})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    screen().write_h5ad(path)
    return path


def experiment(file: Path, out: Path, **settings: object) -> bm.SciPlex3Experiment:
    found = bm.extract(file, out / "data", cell_lines=("A549", "XX"), drugs=("Belinostat", "Dacinostat"))
    wanted = {"drugs": ("Belinostat",), "methods": METHODS, "seeds": (0,), "small": True, **settings}
    return bm.SciPlex3Experiment(found, **wanted)


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    with quick_fits():
        bm.run_experiment(
            experiment(file, out), out, jobs=0, progress=False, command="scgim benchmark sciplex3 --small"
        )
    return out


@pytest.fixture
def write_page(script: Callable[[str], ModuleType]) -> Callable[[Path, Path], str]:
    """The page of a run, as `python benchmarks/paper/sciplex3.py` writes it."""
    return lambda run, out: script("sciplex3").main([str(run), "--name", "mine", "--out", str(out)]).read_text()


def test_page_has_scores_targets_figures_and_says_that_the_data_are_simulated(
    folder: Path, tmp_path: Path, write_page: Callable[[Path, Path], str]
) -> None:
    page = write_page(folder, tmp_path)
    for text in ("stand-in", "small setting", "two halves of the truth", "Targets per condition", "GIM, potency"):
        assert text in page
    assert "cell_line = ['XX'] not found" in page and str(tmp_path) not in page
    assert page.count("![") == 3
    for line in page.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.split("(")[-1].rstrip(")")).stat().st_size > 5_000


def test_tables_have_every_method_under_its_encodings(folder: Path) -> None:
    assert "Semi-synthetic stand-in, no number is one of SciPlex3" in (folder / "report.txt").read_text()
    table = pd.read_csv(folder / "results.csv")
    held = table[(table["split"] == SPLIT) & (table["cell_line"] == "A549")]
    assert set(held["method"]) == set(METHODS)
    assert set(held.loc[held["method"] == "gim", "features"]) == {"auto", "potency"}
    assert set(held.loc[held["method"] == "control", "features"]) == {"auto"}
    for metric in ("mean_distance", "pearson_delta", "kde_nll", "zero_fraction_error", "coverage"):
        assert np.isfinite(held.loc[held["metric"] == metric, "value"]).all()
    # the drug moves five genes: the dose below must be nearer than the control
    distance = held[held["metric"] == "mean_distance"].groupby("method")["value"].mean()
    assert distance["next_lower_dose"] < distance["control"]


def test_a_line_that_is_absent_is_recorded_and_the_rest_goes_on(folder: Path) -> None:
    table = pd.read_csv(folder / "results.csv")
    failed = table[(table["metric"] == "failed") & (table["value"] == 1)]
    assert set(failed["cell_line"]) == {"XX"}
    assert "cell_line = ['XX'] not found" in (folder / "report.txt").read_text()


def test_a_second_call_fits_nothing_and_another_file_is_told_apart(file: Path, folder: Path, tmp_path: Path) -> None:
    def stamps() -> dict[str, float]:
        return {path.name: path.stat().st_mtime for path in (folder / "cells").glob("*.json")}

    before = stamps()
    bm.run_experiment(experiment(file, folder), folder, jobs=0, progress=False)
    assert stamps() == before
    other = screen()
    other.X = other.X * 2
    other.write_h5ad(tmp_path / "other.h5ad")
    again = experiment(tmp_path / "other.h5ad", tmp_path)
    assert again.extracts[0].digest != experiment(file, folder).extracts[0].digest


def test_report_only_fits_nothing(file: Path, tmp_path: Path, write_page: Callable[[Path, Path], str]) -> None:
    report = bm.run_experiment(experiment(file, tmp_path), tmp_path, report_only=True)
    assert not list(tmp_path.glob("cells/*.json"))
    assert "No fit is finished" in report.read_text()
    assert "none finished" in write_page(tmp_path, tmp_path / "pages")


def test_a_drug_that_is_absent_and_a_condition_that_is_too_small(tmp_path: Path) -> None:
    path = tmp_path / "few.h5ad"
    screen(few=4).write_h5ad(path)
    found = bm.extract(path, tmp_path / "data", cell_lines=("A549",), drugs=("Dacinostat", "Nosuchinib"))
    assert not found[0].problem
    settings = {"drugs": ("Dacinostat", "Nosuchinib"), "methods": ("ridge",), "seeds": (0,), "small": True}
    report = bm.run_experiment(
        bm.SciPlex3Experiment(found, encodings=("auto",), **settings), tmp_path, jobs=0, progress=False
    ).read_text()
    assert "Nosuchinib" in report
    assert "Failed" in report
    with pytest.raises(ValueError, match=r"Nothing can be run.*not found"):
        bm.run_experiment(bm.SciPlex3Experiment(bm.extract(path, tmp_path, cell_lines=("ZZ",))), tmp_path)


def test_tuning_prepares_without_what_it_holds_out(file: Path, tmp_path: Path) -> None:
    """The half-doses, too, are read without the condition that the trials are judged by."""
    ours = experiment(file, tmp_path)
    spec = ours.task(ours.extracts[0], "Belinostat", 500, "potency")
    task = bm.ValidationTask(spec, "highest_dose").load()
    (query,) = task.splits["valid"]
    assert query.condition.label != "Belinostat_10000"
    trained = {task.train.condition(row).label for row in task.train.trained}
    assert not {query.condition.label, "Belinostat_10000"} & trained
    whole = spec.load().train
    assert task.train.graded and whole.graded
    assert (task.train.features != whole.features).any()


def test_reported_seeds_are_not_tuned_on(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Seeds \[0\] are reported"):
        bm.tune_methods(experiment(file, tmp_path), tmp_path, n_trials=1, seeds=(0,))


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["--data", str(file), "--small", "--cell-lines", "K562", "--drugs", "Belinostat", "--out", str(out)]
    code = main(["benchmark", "sciplex3", *asked, "--methods", "ridge", "control", "--quiet"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert str(tmp_path) not in (out / "report.txt").read_text()
    assert main(["benchmark", "sciplex3", "--data", str(tmp_path / "no.h5ad"), "--out", str(out)]) == 2
    assert "no.h5ad: No such file" in capsys.readouterr().err
