"""What a shell user reads and gives: every message in the words of options, every argument within reach."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgim
from scgim import _shell, cli
from scgim._shell import in_shell

PACKAGE = Path(scgim.__file__).parent
#: Parts whose messages `scgim fit` and `scgim sample` can end in.
PARTS = ["pp", "tl", "inference", "model"]
REQUIRED = {"fit": ["a.h5ad", "--out", "b.h5ad"], "sample": ["a.h5ad", "--out", "b.h5ad", "--perturbation", "A"]}


def parsed(command: str, *words: str) -> argparse.Namespace:
    return cli.build_parser([command]).parse_args([command, *REQUIRED[command], *words])


@pytest.fixture(scope="module")
def options() -> dict[str, str]:
    return cli._fit_spellings()


def arguments() -> dict[str, _shell.Argument]:
    """Everything that `scgim fit` takes for `prepare` and `fit_gim`."""
    prepare, fit, settings = cli.fit_arguments()
    return {**prepare, **fit, **settings}


def messages() -> Iterator[str]:
    """Every text in a raise statement or a call of the logger, with `1` for what is filled in."""
    files = [*PACKAGE.glob("_*.py"), *(path for part in PARTS for path in (PACKAGE / part).rglob("*.py"))]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            logged = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
            if isinstance(node, ast.Raise) or logged:
                for part in ast.walk(node):
                    if isinstance(part, ast.JoinedStr):
                        yield "".join(p.value if isinstance(p, ast.Constant) else "1" for p in part.values)
                    elif isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value:
                        yield part.value


def test_no_message_speaks_python_to_a_shell_user(options: dict[str, str]) -> None:
    texts = sorted(set(messages()))
    assert len(texts) > 150
    parser = parsed("fit").parser
    known = {option for action in parser._actions for option in action.option_strings}
    known |= {option for action in parsed("sample").parser._actions for option in action.option_strings}
    names = "|".join(options)
    for text in texts:
        shown = in_shell(text, options)
        bare = re.sub(r"--(set|prepare) \w+(=\S*)?", "", shown)
        assert not re.search(rf"(?<![\w.\-(])(?:{names})=(?!=)", bare), shown
        assert not re.search(r"\b(scgim\.)?(pp|tl)\.(prepare|fit_gim|sample_cells|hold_out)\b", shown), shown
        prose = re.sub(_shell._CODE, "", shown)
        assert not re.search(r"\badata\.(obs|var|X|uns|layers|obs_names|var_names)\b(?!\()", prose), shown
        assert in_shell(shown, options) == shown, text
        written = re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)
        assert set(written) <= {*known, "--upgrade"}, shown


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Lower min_counts; this is a panel.", "Lower --min-counts; this is a panel."),
        ('Pass silent_genes="drop" to go on.', "Pass --silent-genes drop to go on."),
        ("control='no guide' is not a label in adata.obs['x'].", "--control 'no guide' is not a label in obs['x']."),
        ("Name the genes with genes=.", "Name the genes with --genes."),
        ("The genes are few; control cells too.", "The genes are few; control cells too."),
        ("groupby=['line', 'time'] is unknown.", "--groupby line --groupby time is unknown."),
        ("Leave layer out, or run scgim.pp.prepare(adata, layer='raw').", "Leave --layer out, or run scgim fit."),
        ("dose_key=None: there are no doses.", "no --dose-key: there are no doses."),
        ("rng must not be negative, got -1.", "--seed must not be negative, got -1."),
        ("graph_sparsity must be at least 0.", "--set graph_sparsity must be at least 0."),
        ("Lower graph_sparsity.", "Lower graph_sparsity (--set)."),
        ("Take valid_fraction=0.2.", "Take --set valid_fraction=0.2."),
        ("'A' needs a dose: write ('A', dose).", "'A' needs a dose: write A=DOSE."),
        ("adata has 1 gene.", "The file has 1 gene."),
        ("Call adata.obs_names_make_unique() first.", "Call adata.obs_names_make_unique() first."),
        ("Run adata.X = adata.X.round() first.", "Run adata.X = adata.X.round() first."),
        (
            "adata.raw does: adata.layers['r'] = adata.raw[:, adata.var_names].X, then pass layer='r'. Tell adata.",
            "raw does: adata.layers['r'] = adata.raw[:, adata.var_names].X, then pass --layer r. Tell the file.",
        ),
        ("obs['min_counts'] and layers[\"control\"]", "obs['min_counts'] and layers[\"control\"]"),
    ],
)
def test_messages_in_the_words_of_the_shell(python: str, shell: str, options: dict[str, str]) -> None:
    assert in_shell(python, options) == shell


def test_what_a_message_says_to_write_can_be_written(options: dict[str, str]) -> None:
    """`name=value` of any argument, as the shell user reads it, is read back as that value."""
    for name, default in {**_settings.prepare_defaults(), **_settings.fit_defaults()}.items():
        if name == "hold_out":  # NAME=DOSE in the shell, a dict in Python
            continue
        for value in (3,) if isinstance(default, int) else ("a b", 3):
            words = shlex.split(in_shell(f"{name}={value!r}", options))
            args = parsed("fit", *words)
            given = {**vars(args), **dict(args.set)}
            if name in ("control", "groupby"):
                given[name] = given[name][0]
            assert str(given[name]) == str(value), words


@pytest.mark.parametrize("function", [scgim.pp.prepare, scgim.tl.fit_gim])
def test_every_argument_is_within_reach(function: object) -> None:
    """Of functions that may get new ones: an argument is offered, or left out on purpose."""
    offered = {*_settings.prepare_defaults(), *_settings.fit_defaults()}
    assert {*inspect.signature(function).parameters} <= offered | {*_settings._NOT_OFFERED}
    assert set(scgim.inference.FitConfig.__dataclass_fields__) <= offered


def test_the_defaults_that_the_help_states_are_those_of_the_functions() -> None:
    defaults = {**_settings.prepare_defaults(), **_settings.fit_defaults()}
    seen = 0
    for action in parsed("fit").parser._actions:
        stated = re.search(r"\(default: ([^)]*)\)", action.help or "")
        if stated and action.dest in defaults and defaults[action.dest] is not None:
            assert stated[1] == str(defaults[action.dest]), action.dest
            seen += 1
    assert seen >= 10


def test_the_listing_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--settings"]) == 0
    printed = capsys.readouterr().out
    for name, default in {**_settings.prepare_defaults(), **_settings.fit_defaults()}.items():
        (line,) = re.findall(rf"^  {name}={re.escape(str(default))}\n      (.*)$", printed, flags=re.M)
        assert len(line) >= 5
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "mni_counts=5"], "Did you mean 'min_counts'?"),
        (["--set", "graph_sparsty=5"], "Did you mean 'graph_sparsity'?"),
        (["--prepare", "n_top_gene=5"], "Did you mean 'n_top_genes'?"),
        (["--set", "min-counts=-5"], "--min-counts must be at least 0"),
        (["--min-counts", "few"], "--min-counts must be a whole number"),
        (["--set", "valid_fraction=2"], "--set valid_fraction must be at least 0 and below 1"),
        (["--small-conditions", "dorp"], "--small-conditions dorp is unknown"),
        (["--features", "hill"], "--features hill needs --dose-key"),
        (["--mechanism", "cubic"], "--mechanism must be one of"),
        (["--set", "linear_skip=maybe"], "--set linear_skip must be True or False"),
        (["--set", "network_hidden=5"], "--set network_hidden must be widths"),
        (["--set", "known_targets=A"], "--set known_targets must be a dict"),
        (["--set", "checkpoint=3"], "--checkpoint must be the name of a file"),
        (["--device", "abacus"], "--device abacus is not a torch device"),
        (["--min-counts", "5", "--set", "min_counts=6"], "--min-counts is given twice"),
        (["--hold-out", "A=10"], "--dose-key"),
        (["--combination-sep", "+", "--set", "combination_sep=3"], "given twice"),
        (["--set", "adata=3"], "there is no such setting"),
    ],
)
def test_values_are_checked_before_a_file_is_read(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fit", str(tmp_path / "absent.h5ad"), "--out", str(tmp_path / "fit.h5ad"), *words]) == 2
    error = capsys.readouterr().err
    assert says in error and "absent.h5ad" not in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", sorted(scgim.inference.FitConfig.__dataclass_fields__))
def test_no_setting_takes_nonsense(name: str) -> None:
    for value in ("'banana'", "-1", "[]", "None", "{}"):
        if name in ("network_hidden",) and value == "[]":  # no hidden layer
            continue
        with pytest.raises((ValueError, TypeError, InputError)) as caught:
            _settings.gather(parsed("fit", "--set", f"{name}={value}"))
        assert cli.is_bad_input(caught.value), (name, value, caught.value)


def test_options_and_settings_reach_their_functions(tmp_path: Path) -> None:
    words = ["--groupby", "line", "--groupby", "time", "--control", "NT", "--min-counts", "20", "--steps", "7"]
    words += ["--genes", "A, B", "--combination-sep", "", "--hold-out", "X+Y", "--seed", "4", "--device", "cpu"]
    words += ["--set", "valid_fraction=0.2", "--set", "known_targets={'A': 'B'}", "--prepare", "warmup_steps=3"]
    prepare, fit = _settings.gather(parsed("fit", *words))
    assert prepare == {
        "groupby": ["line", "time"], "control": "NT", "min_counts": 20, "genes": ["A", "B"], "combination_sep": None,
        "hold_out": ["X+Y"], "valid_fraction": 0.2, "rng": 4,
    }  # fmt: skip
    expected = {"max_steps": 7, "device": "cpu", "known_targets": {"A": "B"}, "warmup_steps": 3, "rng": 4}
    assert fit == expected
    assert _settings.gather(parsed("fit")) == ({"rng": 0}, {"rng": 0})


def test_the_shell_lines_of_the_readme_give_the_fit_of_its_quick_start(tmp_path: Path, monkeypatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"^## Quick start\n\n```python\n(.*?)^```", readme, flags=re.M | re.S)[1]
    (line,) = re.findall(r"^(scgim fit (?:[^\n\\]|\\\n)*)", readme, flags=re.M)
    adata = scgim.datasets.simulated_sciplex3(n_genes=100)
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("screen.h5ad")
    words = shlex.split(line.replace("\\\n", " "))[1:]
    assert cli.main([*words, "--n-genes", "8", "--steps", "12", "--quiet"]) == 0
    for call, extra in (("prepare", {"n_genes": 8}), ("fit_gim", {"max_steps": 12, "progress": False})):
        (node,) = (
            node for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f".{call}")
        )  # fmt: skip
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
        getattr(scgim.pp if call == "prepare" else scgim.tl, call)(adata, **{**arguments, **extra})
    assert int(adata.var["gim"].sum()) == 8
    mine, other = adata.uns["gim"], ad.read_h5ad("fit.h5ad").uns["gim"]
    assert set(mine["state"]) == set(other["state"])
    for name, value in mine["state"].items():
        if name != "record":  # the text with the arguments as they were given, and the seconds
            np.testing.assert_array_equal(value, other["state"][name], err_msg=name)
    np.testing.assert_array_equal(mine["features"], other["features"])
    for table in ("graph", "conditions", "targets"):
        assert mine[table].astype(str).equals(other[table].astype(str)), table
    splits = (found.obs["gim_split"].astype(object).fillna("none") for found in (ad.read_h5ad("fit.h5ad"), adata))
    assert np.array_equal(*splits)
