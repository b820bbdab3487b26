"""The command line: help, exit codes, what its arguments mean, and short real runs."""

from __future__ import annotations

import logging
import pickle
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_fits import count_cells, edit_record

from scgim import __version__, _logging, cli, datasets, demo
from scgim._errors import InvalidType, InvalidValue, MissingPackage, NotFound
from scgim.cli import _options
from scgim.cli._shell import held_out, perturbation

pytestmark = pytest.mark.usefixtures("quick_fits")

SHORT = ["--n-genes", "6", "--steps", "5", "--quiet"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file as a user has it: raw counts, doses, a vehicle."""
    adata = datasets.simulated_sciplex3(n_genes=100)
    adata = adata[adata.obs["perturbation"].isin(["control", "Dacinostat", "Quisinostat"])][::3].copy()
    adata.obs = adata.obs[["perturbation", "dose_value"]].rename(columns={"perturbation": "drug"})
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def fitted(screen: Path) -> Path:
    out = screen.with_name("fit.h5ad")
    arguments = ["fit", str(screen), "--perturbation-key", "drug", "--dose-key", "dose_value"]
    arguments += ["--hold-out", "Dacinostat=10000", "--seed", "3", "--out", str(out), *SHORT]
    assert cli.main(arguments) == 0
    return out


def run(*arguments: Any) -> int:
    return cli.main([str(a) for a in arguments])


def one_sentence(text: str, start: str) -> None:
    """What a script's user reads: one line that says which command, and no traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith(start)
    assert "Traceback" not in text


@pytest.mark.parametrize("command", [[], ["demo"], ["fit"], ["sample"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert " ".join(["usage: scgim", *command]) in text
    assert "%" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    if command != ["demo"]:
        assert "examples:" in text


def test_examples_of_the_help_parse() -> None:
    """Every line of the help that starts with scgim is a command that the parser takes."""
    import shlex

    texts = (_options._EPILOG, *_options._TEXTS.values())
    lines = [
        line.strip() for text in texts for line in text.replace("\\\n", " ").splitlines() if line.startswith("  scgim ")
    ]
    assert len(lines) >= 12
    for line in lines:
        if "--settings" not in line:  # which prints and leaves
            cli.build_parser().parse_args(shlex.split(line)[1:])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"scgim {__version__}\n"


def test_a_fit_behind_counts_with_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells, out, predicted = (tmp_path / f"{name}.h5ad" for name in ("cells", "fit", "predicted"))
    count_cells().write_h5ad(cells)
    given = [cells, "--out", out, "--dose-key", "dose", "--genes", "g0,g1,g3", "--min-counts", "1", "--steps", "5"]
    given += ["--mechanism", "count", "--size-key", "depth", "--set", "counting=negative_binomial", "--quiet"]
    assert run("fit", *given, "--batch-key", "plate") == 0
    fit = ad.read_h5ad(out).uns["gim"]["params"]["fit"]
    assert (fit["mechanism"], fit["batch_key"], fit["size_key"]) == ("count", "plate", "depth")
    assert fit["settings"]["counting"] == "negative_binomial"
    assert run("sample", out, "--out", predicted, "--perturbation", "A=10", "-n", "7", "--quiet") == 0
    assert ad.read_h5ad(predicted).shape == (7, 3)
    capsys.readouterr()
    assert run("fit", *given, "--batch-key", "plat", "--force") == 2
    one_sentence(capsys.readouterr().err, "scgim fit: error: --batch-key plat is not a column of obs. Did you mean")
    assert run("fit", *given, "--mechanism", "ziln", "--force") == 2
    one_sentence(capsys.readouterr().err, "scgim fit: error: --size-key depth is for --mechanism count")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["unknown"], "invalid choice"),
        (["fit"], "required: H5AD, --out"),
        (["fit", "a.h5ad", "--out", "b.h5ad", "--n-genes", "many"], "whole number"),
        (["fit", "a.h5ad", "--out", "b.h5ad", "--n-genes", "1"], "at least 2"),
        (["fit", "a.h5ad", "--out", "b.h5ad", "--set", "mechanism"], "NAME=VALUE"),
        (["fit", "--set", "mni_counts=5"], "Did you mean 'min_counts'?"),  # before anything else
        (["fit", "a.h5ad", "--out", "b.h5ad", "--input", "raw"], "use one of 'counts'"),
        (["fit", "a.h5ad", "--out", "b.h5ad", "--step", "5"], "unrecognized"),  # no abbreviations
        (["sample", "a.h5ad", "--out", "b.h5ad"], "required: --perturbation"),
        (["demo", "--seed", "-1"], "at least 0"),
    ],
)
def test_bad_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    one_sentence(captured.err, "scgim")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: scgim" in capsys.readouterr().err


def _not_h5ad(folder: Path) -> Path:
    path = folder / "table.h5ad"
    path.write_text("cell,gene\n")
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"h5ad": lambda folder: folder / "absent.h5ad"}, "there is no file"),
        ({"h5ad": _not_h5ad}, "cannot be read as h5ad"),
        ({"--out": "fit.txt"}, "must end in .h5ad"),
        ({"--out": "absent/fit.h5ad"}, "there is no folder"),
        ({"--perturbation-key": "compound"}, "--perturbation-key compound is not a column"),
        ({"--control": "vehicle", "--dose-key": None}, "--control vehicle is not a label"),
        ({"--hold-out": "Dacinostat=77"}, "there is no condition 'Dacinostat=77'"),
        ({"--hold-out": "Dacinostat=100000"}, "Did you mean 'Dacinostat=10000'"),
        ({"--hold-out": "=10"}, "not NAME=DOSE"),
        ({"--input": "log1p"}, "raw counts"),
        ({"--genes": "MYC"}, "MYC"),
        ({"--set": "colour=blue"}, "colour"),
        ({"--set": "mechanism=cubic"}, "cubic"),
        ({"--device": "abacus"}, "abacus"),
        ({"--prior-edges": "network.csv"}, "--prior-edges network.csv is no file"),
        ({"--n-members": "0"}, "--n-members must be at least 1"),
    ],
)
def test_bad_input(
    change: dict[str, Any], says: str, screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--perturbation-key": "drug", "--dose-key": "dose_value", "--out": "fit.h5ad"} | change
    h5ad = options.pop("h5ad", lambda _: screen)(tmp_path)
    options["--out"] = tmp_path / options["--out"]
    arguments = [item for pair in options.items() if pair[1] is not None for item in pair]
    assert run("fit", h5ad, *arguments, *SHORT) == 2
    error = capsys.readouterr().err
    one_sentence(error, "scgim fit: error:")
    assert says in error
    assert not list(tmp_path.glob("**/*fit*"))  # nothing half done is left


def test_a_held_out_dose_needs_the_dose_column(
    screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--perturbation-key", "drug", "--hold-out", "Dacinostat=10000"]
    assert run("fit", screen, *arguments, "--out", tmp_path / "fit.h5ad") == 2
    assert "--dose-key" in capsys.readouterr().err


def test_the_log_of_a_job_says_what_goes_on_and_when(
    screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_logging, "INTERVAL", 0.0)
    out = tmp_path / "fit.h5ad"
    arguments = ["--perturbation-key", "drug", "--dose-key", "dose_value", "--n-genes", "6", "--steps", "5"]
    assert run("fit", screen, *arguments, "--set", "check_every=2", "--out", out) == 0
    log = capsys.readouterr().err
    lines = [line for line in log.splitlines() if not line.startswith("  ")]  # those of the summary's table
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), log
    steps = ["reading", f"preparing {ad.read_h5ad(screen).n_obs} cells x 100 genes", "prepared"]
    steps += ["fitting 'gim': 6 genes", "structure search: 6 genes"]
    steps += ["structure search: possible parents of gene 6 of 6", "structure search: found", "fit: 5 steps"]
    steps += ["fit: step 2 of 5", "fit: step 4 of 5", "ran all 5 steps", "writing"]
    places = [log.find(step) for step in steps]
    assert min(places) >= 0 and places == sorted(places), dict(zip(steps, places, strict=True))
    assert "settled" not in log and not re.search(r"\b1 (edges|cells|genes|steps|perturbations)\b", log)
    assert ad.read_h5ad(out).uns["gim"]["params"]["fit"]["stopped"] == "max_steps"
    assert run("fit", screen, *arguments, "--force", "--out", out, "--quiet") == 0
    quiet = capsys.readouterr().err
    assert not [step for step in steps if step in quiet]


def test_nothing_is_overwritten_unasked(fitted: Path, screen: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.h5ad"
    out.write_bytes(b"precious")
    command = ["sample", fitted, "--perturbation", "Dacinostat=10000", "-n", "5", "--out", out]
    assert run(*command) == 2
    assert out.read_bytes() == b"precious"
    assert run(*command, "--force") == 0
    assert ad.read_h5ad(out).n_obs == 5


def test_fit_and_sample(fitted: Path, screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(fitted)
    fit = adata.uns["gim"]["params"]["fit"]
    assert (fit["rng"], fit["settings"]["max_steps"]) == (3, 5)
    conditions = adata.uns["gim"]["conditions"]
    assert conditions.loc[conditions["split"] == "test", "condition"].tolist() == ["Dacinostat_10000"]
    assert int(adata.var["gim"].sum()) == 6
    assert "gim" not in ad.read_h5ad(screen).uns  # the input is left as it is

    out, again, other = (tmp_path / f"{name}.h5ad" for name in ("cells", "again", "other"))
    asked = ["--perturbation", "Dacinostat=10000", "--perturbation", "Dacinostat=500+Quisinostat=10"]
    for path, seed in ((out, 1), (again, 1), (other, 2)):
        assert run("sample", fitted, *asked, "-n", "7", "--seed", seed, "--out", path) == 0
    assert "14 cells x 6 genes" in capsys.readouterr().out
    cells = ad.read_h5ad(out)
    assert cells.obs["condition"].value_counts().to_dict() == {
        "Dacinostat_10000": 7,
        "Dacinostat_500+Quisinostat_10": 7,
    }
    np.testing.assert_array_equal(cells.X, ad.read_h5ad(again).X)
    assert not np.array_equal(cells.X, ad.read_h5ad(other).X)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--perturbation", "Dacinostat"], "dose"),
        (["--perturbation", "Aspirin=10"], "Aspirin"),
        (["--perturbation", "Dacinostat=much"], "much"),
        (["--perturbation", "Dacinostat=10", "--key", "other"], "'other'"),
        (["--perturbation", "Dacinostat=10", "--group", "A549"], "A549"),
    ],
)
def test_bad_samples(
    arguments: list[str], says: str, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sample", fitted, *arguments, "--out", tmp_path / "cells.h5ad") == 2
    error = capsys.readouterr().err
    one_sentence(error, "scgim sample: error:")
    assert says in error


def test_sampling_without_a_fit(screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", screen, "--perturbation", "A", "--out", tmp_path / "cells.h5ad") == 2
    one_sentence(capsys.readouterr().err, "scgim sample: error:")


def _raise(error: BaseException) -> Any:
    def command(_: Any) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by zero"), 1),
        (ValueError("a fault elsewhere, not a refusal of scgim"), 1),
        (KeyError("x"), 1),
        (InvalidValue("this is wrong."), 2),
        (InvalidType("this is wrong."), 2),
        (NotFound("this is 'wrong'."), 2),
        (MissingPackage("this is missing."), 2),
        (PermissionError(13, "Permission denied", "cells.h5ad"), 2),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._RUN, "demo", _raise(error))
    assert run("demo") == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.startswith("scgim demo: ")
    assert ("unexpected error" in text) == (code == 1)
    if code == 2:
        said = "cells.h5ad: Permission denied." if isinstance(error, PermissionError) else str(error.args[0])
        assert text == f"scgim demo: error: {said}\n"
    run("demo", "--debug")
    assert ("Traceback" in capsys.readouterr().err) == (code != 130)


def test_every_refusal_is_a_scgim_error() -> None:
    """A file of scgim raises ValueError and its like through their own classes; the command line tells by these."""
    wrong = [
        f"{path.name}: {line.strip()}"
        for path in Path(cli.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"^\s*raise (ValueError|TypeError|KeyError)\b", line)
    ]
    assert not wrong


def test_a_process_has_the_exit_code(tmp_path: Path) -> None:
    """Through `python -m scgim`, as a script sees it."""
    command = [sys.executable, "-m", "scgim", "fit", str(tmp_path / "absent.h5ad"), "--out", "fit.h5ad"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    one_sentence(done.stderr, "scgim fit: error: there is no file")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("KLF1", "KLF1"),
        ("KLF1+MAP2K6", "KLF1+MAP2K6"),
        ("Dacinostat=10000", ("Dacinostat", "10000")),
        ("Dacinostat = 10 uM", ("Dacinostat", "10 uM")),
        ("A+B=10", ("A+B", "10")),
        ("A=1+B=2", [("A", "1"), ("B", "2")]),
    ],
)
def test_perturbations_as_written(text: str, meaning: Any) -> None:
    assert perturbation(text) == meaning


def test_held_out_as_written() -> None:
    assert held_out([], has_dose=True) is None
    assert held_out(["A", ("A", "1")], has_dose=True) == {"A": None}
    assert held_out([("A", "1"), "A"], has_dose=True) == {"A": None}
    assert held_out([("A", "1"), ("A", "2"), "B"], has_dose=True) == {"A": ["1", "2"], "B": None}
    assert held_out(["A+B", "C"], has_dose=False) == ["A+B", "C"]
    combination = [("A", "1"), ("B", "2")]
    assert held_out([combination, ("C", "3")], has_dose=True) == [combination, ("C", "3")]


class Here:
    """`Apart` in this process, without its imports; what would go there and come back is pickled all the same."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = pickle.dumps((function, args))

    def result(self) -> Any:
        function, args = pickle.loads(self._call)
        return pickle.loads(pickle.dumps(function(nullcontext(), *args)))

    def end(self) -> None:
        pass


def test_demo_runs_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(demo, "QUICK", {"n_genes": 8, "max_steps": 5})
    few = datasets.simulated_sciplex3(n_genes=100)[::3].copy()
    monkeypatch.setattr(datasets, "simulated_sciplex3", lambda rng: few)
    monkeypatch.setattr(demo, "Apart", Here)
    out = tmp_path / "deep" / "demo"
    assert run("demo", "--quick", "--quiet", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    evaluation = pd.read_csv(out / "evaluation.csv")
    assert set(evaluation["method"]) == {"gim", demo.ZILN, *demo.BASELINES, "own control", "two halves"}
    assert "Beyond the noise of sampling cells, gim is" in printed
    assert set(evaluation["condition"]) == {"Dacinostat_10000"}
    assert evaluation["value"].notna().all()
    value = evaluation.set_index(["method", "metric"])["value"]["gim", "mean_distance"]
    assert f"{value:.3f}" in printed  # what is printed is what is written
    truth = pd.read_csv(out / "truth.csv").set_index(["method", "what"])
    assert truth["f1"].between(0, 1).all()
    for method, file in (("gim", "fit.h5ad"), (demo.ZILN, "fit_ziln.h5ad")):
        fit = ad.read_h5ad(out / file)
        expected = demo.compare_with_truth(fit).set_index("what")["f1"]
        np.testing.assert_allclose(truth.loc[method, "f1"], expected)
        assert truth.loc[(method, "targets"), "true"] > 0
        assert (fit.uns["gim"]["params"]["fit"]["mechanism"] == "ziln") == (method == demo.ZILN)
    names = "marginals graph graph_ziln targets targets_ziln dose_response history metrics"
    for name in names.split():
        pixels = np.asarray(Image.open(out / f"{name}.png").convert("L"))
        assert pixels.std() > 5, f"{name}.png is blank"
    cells = ad.read_h5ad(out / "cells.h5ad")
    assert set(cells.obs["dose"]) == set(demo.CURVE)
    assert "state" in ad.read_h5ad(out / "fit.h5ad").uns["gim"]


def test_the_truth_scores_one_against_itself(tmp_path: Path) -> None:
    """A fit that holds the true graph and the true targets is compared as perfect, a reversed one is not."""
    from scgim import pp

    adata = datasets.simulated_sciplex3(n_genes=100)
    pp.prepare(adata, dose_key="dose_value", genes="all", hold_out={"Dacinostat": 10_000})
    genes = adata.var_names[adata.var["gim"]]
    graph = adata[:, genes].varp["true_graph"].toarray()
    edges = [(genes[i], genes[j], 1.0) for i, j in np.argwhere(graph)]
    table = adata.uns["truth"]["targets"].astype({"perturbation": str, "gene": str})
    pairs = set(table[["perturbation", "gene"]].itertuples(index=False, name=None))
    rows = [
        (row.condition, gene, (row.perturbation, gene) in pairs)
        for row in adata.uns["gim"]["conditions"].itertuples()
        if not row.is_control
        for gene in genes
    ]
    targets = pd.DataFrame(rows, columns=["condition", "gene", "is_target"])
    targets["probability"] = targets["is_target"].astype(float)
    columns = ["source", "target", "probability"]
    adata.uns["gim"] |= {
        "graph": pd.DataFrame(edges, columns=columns),
        "targets": targets,
        "history": {},
    }
    edit_record(adata, genes=list(genes))
    found = demo.compare_with_truth(adata).set_index("what")
    assert (found["f1"] == 1).all()
    assert (found["f1_random"] < 0.5).all()
    assert demo.count_downstream(adata).loc["called"].tolist() == [0, 0]

    backwards = [(target, source, p) for source, target, p in edges]
    adata.uns["gim"]["graph"] = pd.DataFrame(backwards, columns=columns)
    found = demo.compare_with_truth(adata).set_index("what")
    assert found.loc["edges", "f1"] == 0
    assert found.loc["edges without direction", "f1"] == 1

    # all genes called: of the wrong ones, those that a walk along the true edges reaches are downstream
    adata.uns["gim"]["targets"]["is_target"] = True
    full = adata.varp["true_graph"].toarray() > 0
    wrong = downstream = 0
    for row in adata.uns["gim"]["conditions"].itertuples():
        if row.is_control:
            continue
        start = adata.var_names.isin([gene for drug, gene in pairs if drug == row.perturbation])
        reached = start @ full
        for _ in range(full.shape[0]):
            reached = reached | (reached @ full)
        modelled = adata.var["gim"].to_numpy()
        wrong += int((modelled & ~start).sum())
        downstream += int((modelled & ~start & reached).sum())
    assert demo.count_downstream(adata).to_numpy().tolist() == [[wrong, downstream]] * 2
    assert 0 < downstream < wrong


def test_a_command_leaves_logging_as_it_was(fitted: Path, tmp_path: Path) -> None:
    loggers = logging.getLogger(), logging.getLogger("scgim")

    def state() -> list[tuple[Any, ...]]:
        filters = [handler.filters[:] for one in loggers for handler in one.handlers]
        return [(one.handlers[:], one.level, one.filters[:]) for one in loggers] + [tuple(filters)]

    before = state()
    assert run("sample", fitted, "--perturbation", "Dacinostat=100", "-n", "3", "--out", tmp_path / "cells.h5ad") == 0
    assert state() == before
    assert run("sample", fitted, "--perturbation", "nothing", "--out", tmp_path / "cells.h5ad") == 2
    assert state() == before
