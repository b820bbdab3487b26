"""Every benchmark script runs, on tiny made-up files of the same format, and writes what it says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.usefixtures("quick_fits")

SCRIPTS = {
    "real_dose_series": "a549_dex_sciplex2.h5ad",
    "real_knockouts": "papalexi2021_thp1_eccite_299genes.h5ad",
    "many_genes": "sciplex3_standin.h5ad",
}
FAST = ["--seeds", "0", "--steps", "3", "--threads", "1"]


def counts(conditions: list[str], genes: list[str], n: int, changed: dict[str, str], seed: int = 0) -> ad.AnnData:
    """`n` cells per condition; `changed` names the gene that a condition triples."""
    rng = np.random.default_rng(seed)
    label = np.repeat(conditions, n)
    rate = np.tile(rng.uniform(2, 8, len(genes)), (len(label), 1))
    for condition, gene in changed.items():
        rate[label == condition, genes.index(gene)] *= 3
    x = rng.poisson(rate).astype(np.float32)
    obs = pd.DataFrame({"label": pd.Categorical(label)}, index=[f"cell{i}" for i in range(len(label))])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture
def dose_series(tmp_path: Path) -> Path:
    genes = ["ANGPTL4", *(f"G{i}" for i in range(7))]
    adata = counts(["0", "1", "10", "50"], genes, 40, {"10": "ANGPTL4", "50": "ANGPTL4"})
    adata.obs["dose"] = adata.obs.pop("label").astype(str).astype(float)
    adata.obs["treatment"] = pd.Categorical(["Dex"] * adata.n_obs)
    adata.var["gene_short_name"] = adata.var_names
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / SCRIPTS["real_dose_series"])
    return tmp_path


@pytest.fixture
def knockouts(tmp_path: Path) -> Path:
    genes = ["IFNGR2", "JAK2", "STAT1", "UBE2L6", "STAT2", "PSMB9", "G1", "G2"]
    adata = counts(["non-targeting", "JAK2", "STAT1", "CAV1"], genes, 40, {"JAK2": "JAK2", "STAT1": "STAT1"})
    adata.obs["target"] = adata.obs.pop("label")
    adata.var["is_target"] = adata.var_names.isin(["JAK2", "STAT1"])
    adata.write_h5ad(tmp_path / SCRIPTS["real_knockouts"])
    return tmp_path


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    genes = [f"G{i}" for i in range(12)]
    names = ["control_0", "Dacinostat_1000", "Dacinostat_10000", "Belinostat_10000"]
    adata = counts(names, genes, 40, {"Dacinostat_1000": "G1", "Dacinostat_10000": "G1"})
    parts = adata.obs.pop("label").astype(str).str.split("_")
    adata.obs["perturbation"] = pd.Categorical(parts.str[0])
    adata.obs["dose_value"] = parts.str[1].astype(float)
    adata.obs["dose_unit"] = "nM"
    adata.obs["cell_line"] = "A549"
    adata.X *= 5  # cells need 200 counts
    adata.write_h5ad(tmp_path / SCRIPTS["many_genes"])
    return tmp_path


def written(folder: Path, name: str) -> tuple[str, pd.DataFrame]:
    return (folder / f"{name}.md").read_text(), pd.read_csv(folder / f"{name}.csv")


def test_dose_series(script, dose_series, tmp_path, capsys):
    out = tmp_path / "out"
    script("real_dose_series").main(["--data", str(dose_series), "--out", str(out), "--samples", "50", *FAST])
    page, table = written(out, "real_dose_series")
    assert page.strip() in capsys.readouterr().out  # the command prints the table again
    assert "**real**" in page and "Ceiling" in page and "50 (held out)" in page
    assert str(tmp_path) not in page
    held_out = table[(table["table"] == "held-out dose") & (table["metric"] == "mean_distance")]
    methods = {"gim", "control", "next_lower_dose", "mean_shift", "ridge"}
    assert set(held_out["method"]) == methods | {"own control", "two halves"}
    assert "| own control |" in page and "| two halves |" in page
    assert (
        held_out.set_index("method").loc["next_lower_dose", "value"]
        < held_out.set_index("method").loc["control", "value"]
    )
    observed = table[(table["metric"] == "observed") & (table["gene"] == "ANGPTL4")].set_index("dose")["value"]
    assert observed[50.0] > observed[1.0]
    assert (out / "real_dose_series.png").stat().st_size > 0


def test_knockouts(script, knockouts, tmp_path):
    out = tmp_path / "out"
    script("real_knockouts").main(["--data", str(knockouts), "--out", str(out), "--n-genes", "all", *FAST])
    page, table = written(out, "real_knockouts")
    assert "2 in-panel and 1 off-panel" in page
    ranks = table[table["table"] == "rank of the true gene"]
    assert set(ranks["method"]) == {
        "probability",
        "evidence",
        "specific_change",
        "ut_igsp",
        "change",
        "t",
        "specific_t",
    }
    assert (ranks.loc[ranks["method"].isin(["t", "specific_change"]), "rank"] == 1).all()
    assert {path.name for path in out.glob("*.png")} == {
        "real_knockouts_graph.png",
        "real_knockouts_targets.png",
    }


def test_knockouts_go_on_from_kept_fits(script, knockouts, tmp_path, monkeypatch):
    import scgim

    module, fits = script("real_knockouts"), tmp_path / "fits"
    argv = ["--data", str(knockouts), "--out", str(tmp_path / "out"), "--n-genes", "all", "--fits", str(fits), *FAST]
    module.main(argv)
    page, table = written(tmp_path / "out", "real_knockouts")
    assert str(tmp_path) not in page
    assert len(list(fits.glob("*.h5ad"))) == 1
    monkeypatch.setattr(scgim.tl, "fit_gim", lambda *_, **__: pytest.fail("fitted again"))
    module.main(argv)
    pd.testing.assert_frame_equal(written(tmp_path / "out", "real_knockouts")[1], table)


def test_knockouts_put_the_known_targets_in(script, knockouts):
    from argparse import Namespace

    module = script("real_knockouts")
    adata = ad.read_h5ad(knockouts / SCRIPTS["real_knockouts"])
    missing = module.prepare(adata, Namespace(n_genes=7, min_counts=0), seed=0)
    assert adata.var["gim"].sum() == 7
    assert {"JAK2", "STAT1"} <= set(adata.var_names[adata.var["gim"]])
    assert set(missing) <= set(adata.var_names[adata.var["gim"]])


def test_tied_probabilities_are_no_success(script):
    module = script("real_knockouts")
    assert module.rank_of(pd.Series(0.0, index=list("abcde")), "a") == 3
    assert module.rank_of(pd.Series([0.1, 0.9], index=list("ab")), "b") == 1


def test_pathway_order_tells_cause_from_effect(script):
    module = script("real_knockouts")
    forward = nx.DiGraph([("IFNGR2", "JAK2"), ("JAK2", "STAT1"), ("STAT1", "PSMB9")])
    table = module.pathway_order(forward).set_index(["cause", "effect"])
    assert table.loc[("STAT1", "PSMB9"), "edge"] and table.loc[("IFNGR2", "PSMB9"), "path"]
    assert not table["reversed path"].any()
    backward = module.pathway_order(forward.reverse()).set_index(["cause", "effect"])
    assert backward.loc[("STAT1", "PSMB9"), "reversed edge"] and not backward["path"].any()


def test_calibration_judges_cells_that_were_set_apart(script, standin, tmp_path, monkeypatch):
    module, out = script("sciplex3_calibration"), tmp_path / "out"
    monkeypatch.setattr(module, "SETTINGS", (("A549", "Dacinostat"), ("K562", "Dacinostat")))
    module.main(["--data", str(standin), "--out", str(out), "--n-genes", "6", "--samples", "100", *FAST])
    page, table = written(out, "sciplex3_calibration")
    assert "trained conditions, cells set apart" in page
    where = table.groupby("where")["condition"].unique()
    assert set(where["held-out dose"]) == {"Dacinostat_10000"}
    assert set(where["trained conditions, cells set apart"]) == {"Dacinostat_1000", "Belinostat_10000"}
    assert (table.loc[table["where"] != "held-out dose", "cells"] == 20).all()
    assert table[["error", "from sampling alone", "coverage"]].stack().between(0, 1).all()
    label = np.repeat(["a", "b"], [10, 30])
    first, again, other = (module.set_apart(label, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and first[:10].sum() == 5 and first[10:].sum() == 15


def test_counting_noise(script, tmp_path):
    out = tmp_path / "out"
    argv = ["--out", str(out), "--n-genes", "8", "--factors", "1", "20", *FAST]
    script("counting_noise").main(argv)
    page, table = written(out, "counting_noise")
    assert "no real cell" in page and "x 20" in page
    zeros = table.groupby("factor")["zeros"].first()
    assert zeros[20.0] < zeros[1.0]
    assert set(table["what"]) == {"edges", "edges without direction", "targets", "targets, held-out dose"}


def test_many_genes(script, standin, tmp_path):
    out = tmp_path / "out"
    argv = ["--data", str(standin), "--out", str(out), "--genes", "5", "10", "--drugs", "Dacinostat", "--steps", "5"]
    script("many_genes").main([*argv, "--jobs", "0"])
    page, table = written(out, "many_genes")
    assert "stand-in" in page and "No number below is a number on SciPlex3" in page and "Failed" not in page
    assert set(table["genes"]) == {5, 10} and set(table["shared_genes"]) == {5}
    distance = table[table["metric"] == "mean distance"].set_index(["method", "genes"])["value"]
    # what needs no fit predicts the same for the shared genes, however many others there are
    assert distance["control", 5] == pytest.approx(distance["control", 10], abs=0.5)
    assert distance["next_lower_dose", 5] < distance["control", 5]
    cost = table[(table["method"] == "gim") & (table["metric"] == "targets per condition, %")]["value"]
    assert cost.between(0, 100).all() and len(cost) == 2


def test_errors_are_told_apart_by_what_training_shows(script):
    module = script("sciplex3_errors")
    rows = pd.DataFrame(
        {
            "n_true": 400, "next_lower_dose": [0.9, 0.9, 0.9, 0.2],
            "others": 0.3, "others_low": 0.2, "others_high": 0.4,
            "true": [0.35, 0.85, 0.05, 0.31], "predicted": [0.45, 0.45, 0.45, 0.31],
        }
    )  # fmt: skip
    found = module.judge(rows)
    kinds = ["as the other drugs", "as the next lower dose", "beyond both", "as the other drugs"]
    assert found["kind"].tolist() == kinds and set(kinds) == set(module.KINDS)
    assert found["error"].tolist() == pytest.approx([0.1, 0.4, 0.4, 0.0])
    # shares of 400 cells drawn again and again: how far they are from their expectation
    drawn = np.abs(np.random.default_rng(0).binomial(400, 0.45, 20_000) / 400 - 0.45).mean()
    assert found["sampling"][0] == pytest.approx(drawn, rel=0.03)


def test_speed(script, tmp_path, monkeypatch):
    speed = script("speed")
    monkeypatch.setattr(speed, "alone", lambda function, *args: function(*args))
    monkeypatch.setattr(speed, "sciplex3_like", partial(speed.sciplex3_like, all_genes=150))
    argv = [
        "--cells",
        "300",
        "--genes",
        "6",
        "--seeds",
        "0",
        "--steps",
        "2",
        "--threads",
        "1",
        "--rounds",
        "2",
    ]
    speed.main([*argv, "--samples", "500", "--prepare-size", "1500", "150", "--out", str(tmp_path)])
    page, table = written(tmp_path, "speed")
    assert {"fit", "prepare", "pyro", "sample"} <= set(table["part"])
    assert "load average" in page and "GPU" in page
    ratio = table[(table["part"] == "pyro") & (table["quantity"] == "ratio")]["value"].astype(float)
    assert len(ratio) == 2 and (ratio > 0).all()


def test_scaling(script, tmp_path, monkeypatch):
    scaling = script("scaling")
    # time = genes^2 exactly
    genes = pd.Series([10, 20, 40])
    assert scaling.exponent(genes, genes**2.0) == pytest.approx(2)
    monkeypatch.setattr(scaling, "SERIES", {"genes": ((6, 9), {"n_perturbations": 5, "cells_per_condition": 20})})
    monkeypatch.setattr(scaling, "alone", lambda function, *args: function(*args))
    monkeypatch.setattr(scaling, "system", partial(scaling.system, n_features=6))
    scaling.main(["--vary", "genes", "--steps", "2", "--threads", "1", "--out", str(tmp_path)])
    page, table = written(tmp_path, "scaling")
    assert table["genes"].tolist() == [6, 9] and (table["step (ms)"] > 0).all() and (table["search (s)"] > 0).all()
    assert "genes^" in page
    row = scaling.fit_counts("genes", 6, 1, 0, max_steps=2, n_shakes=0)
    assert (row["genes"], row["cells"], row["conditions"]) == (6, 16 * 20 + 5 * 4 * 20, 21)
    assert row["fit (CPU s)"] > 0 and row["peak memory (GiB)"] > 0.1
    monkeypatch.setattr(scaling, "fit_counts", partial(scaling.fit_counts, max_steps=2, n_shakes=0))
    scaling.main(["--vary", "genes", "--mechanism", "count", "--threads", "1", "--out", str(tmp_path)])
    page, table = written(tmp_path, "scaling_counts")
    assert table["genes"].tolist() == [6, 9] and "genes^" in page


def test_uncertainty(script, tmp_path, monkeypatch):
    uncertainty = script("uncertainty")
    # 10 entries said to be .3 of which 3 are true, and 10 said to be .9 of which 8 are
    said, true = np.repeat([0.3, 0.9], 10), np.repeat([1, 0, 1, 0], [3, 7, 8, 2])
    assert uncertainty.calibration_error(true, said) == pytest.approx((0 + 0.1) / 2)
    tiny = {"n_genes": 5, "n_perturbations": 4, "n_features": 4, "n_new_targets": 2}
    monkeypatch.setattr(uncertainty, "SyntheticTask", partial(uncertainty.SyntheticTask, **tiny))
    argv = ["--mechanisms", "linear", "--seeds", "0", "--shares", "0.4", "--belief-shares", "0.4"]
    uncertainty.main([*argv, "--members", "3", "--steps", "2", "--threads", "1", "--out", str(tmp_path)])
    page, table = written(tmp_path, "uncertainty")
    assert table["fit"].dropna().tolist() == ["one fit", "3 members"]
    assert table["beliefs"].dropna().tolist() == ["none", "100% true", "50% true", "0% true"]
    assert table["edge ECE"].dropna().between(0, 1).all() and table["covered, new_dose"].dropna().between(0, 1).all()
    assert "**simulated**" in page and (tmp_path / "uncertainty.png").is_file()


@pytest.mark.parametrize("name", SCRIPTS)
def test_absent_data_end_with_a_sentence(script, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SCGIM_SHARED_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as stop:
        script(name).main(["--out", str(tmp_path)])
    assert SCRIPTS[name] in str(stop.value) and "SCGIM_SHARED_DATA" in str(stop.value)


def test_a_page_keeps_its_reading_and_hides_places(script, tmp_path):
    recording = script("recording")

    def page(number: int = 1) -> str:
        argv = ["--data", "somewhere/x.h5ad", "--out=elsewhere", "--steps", "3"]
        note = recording.Note("T", data="made up", argv=argv, script="t.py", seeds=[0])
        note.table("Numbers", pd.DataFrame({"a": [number]}))
        return note.write(tmp_path, "t", pd.DataFrame()).read_text()

    first = page()
    assert "`python benchmarks/t.py --steps 3`" in first
    (tmp_path / "t.md").write_text(first + "\n## Reading\n\nBy hand.\n")
    assert page().endswith("## Reading\n\nBy hand.\n")
    for _ in range(2):  # other numbers: kept, and marked once
        changed = page(2)
        assert changed.endswith("By hand.\n") and changed.count("By hand.") == 1
        assert changed.count("earlier run") == 1


def test_settings_of_the_fit_are_passed_on(script):
    recording = script("recording")
    argv = ["--steps", "5", "--target-sparsity", "4", "--set", "search_cells=30", "objective=elbo"]
    settings = recording.fit_settings(recording.make_parser("d").parse_args(argv))
    assert settings["max_steps"] == 5 and settings["target_sparsity"] == 4.0
    assert settings["graph_sparsity"] == "auto"
    assert settings["search_cells"] == 30 and settings["objective"] == "elbo"
