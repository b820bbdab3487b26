"""What a shell user reads and gives: every message in the words of options, every argument within reach."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgim
from scgim import cli
from scgim.cli import _options, _shell
from scgim.cli._shell import in_shell

pytestmark = pytest.mark.usefixtures("quick_fits")

PACKAGE = Path(scgim.__file__).parent
#: Parts whose messages `scgim fit` and `scgim sample` can end in.
PARTS = ["pp", "tl", "inference", "model"]
REQUIRED = {"fit": ["a.h5ad", "--out", "b.h5ad"], "sample": ["a.h5ad", "--out", "b.h5ad", "--perturbation", "A"]}


parser_of = cache(lambda command: cli.build_parser([command]))


def parsed(command: str, *words: str) -> argparse.Namespace:
    return parser_of(command).parse_args([command, *REQUIRED[command], *words])


@pytest.fixture(scope="module")
def options() -> dict[str, str]:
    return cli._fit_spellings()


def arguments() -> dict[str, _options.Argument]:
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
    known = {*options.values(), *_shell.spellings(parsed("sample").parser).values(), "--upgrade", "--force"}
    names = "|".join(options)
    for text in texts:
        shown = in_shell(text, options)
        assert not re.search(rf"(?<![\w.\-(])(?:{names})=(?!=)", shown), shown
        assert not re.search(r"\b(scgim\.)?(pp|tl)\.(prepare|fit_gim|sample_cells|hold_out)\b", shown), shown
        prose = re.sub(_shell._CODE, "", shown)
        assert not re.search(r"\badata\.(obs|var|X|uns|layers|obs_names|var_names)\b(?!\()", prose), shown
        assert in_shell(shown, options) == shown, text
        written = re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)
        assert set(written) <= known, shown


def test_one_of_a_thing_is_no_plural() -> None:
    """With 1 filled in for every number, no message says `1 cells`."""
    nouns = "cell|gene|condition|perturbation|edge|step|target|value|name|column|dose|group|part|layer|seed|setting"
    wrong = [text for text in set(messages()) if re.search(rf"(?<![\w.=-])1 (?:{nouns})s\b", text)]
    assert not wrong


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
        ("pass features='fingerprint' or a DataFrame.", "pass --features fingerprint."),
        (
            "preset must be one of default, paper, or a FitConfig; got 3.",
            "--preset must be one of default, paper; got 3.",
        ),
        ("dose_key=None: there are no doses.", "no --dose-key: there are no doses."),
        ("rng must not be negative, got -1.", "--seed must not be negative, got -1."),
        ("graph_sparsity must be at least 0.", "--graph-sparsity must be at least 0."),
        ("Lower graph_sparsity.", "Lower --graph-sparsity."),
        ("Take valid_fraction=0.2.", "Take --valid-fraction 0.2."),
        ("combination_sep=None takes every label as one.", "--combination-sep '' takes every label as one."),
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


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("hold_out: there is no condition 'A_7'. Did you mean 'A_70'?", "'A=7'. Did you mean 'A=70'?"),
        ("fit 'gim': no target found for 'A_1', 'B_1'", "for 'A=1', 'B=1'"),
        ("The conditions are 'B-1_0.5', 'A_10+B_1e06' and 3 more.", "are 'B-1=0.5', 'A=10+B=1e06' and 3 more."),
        ("2 conditions with fewer than 10 cells: 'A_10 (3)', 'A_2_20 (4)'.", ": 'A=10 (3)', 'A_2=20 (4)'."),
        ("prepared:\n  conditions held out    2  A_10, B_1", "held out    2  A=10, B=1"),
        ("of the condition, such as the cell 'AAAC-1_2'", "the cell 'AAAC-1_2'"),
        ("genes: 'HLA_2' is unknown.", "--genes: 'HLA_2' is unknown."),
    ],
)
def test_conditions_as_they_are_written_in_a_shell(python: str, shell: str, options: dict[str, str]) -> None:
    assert in_shell(python, options, doses=True).endswith(shell)
    assert "=" not in in_shell(python, options)  # a name may end in a number where there are no doses


def test_what_a_message_says_to_write_can_be_written(options: dict[str, str]) -> None:
    """`name=value` of any argument, as the shell user reads it, is read back as that value."""
    for name, argument in arguments().items():
        if name == "hold_out":  # NAME=DOSE in the shell, a dict in Python
            continue
        for value in (3,) if isinstance(argument.default, int) else ("a b", 3):
            words = shlex.split(in_shell(f"{name}={value!r}", options))
            given = vars(parsed("fit", *words))[name]
            given = given[0] if name in ("control", "groupby", "genes") else given
            assert str(given) == str(value), words


@pytest.mark.parametrize("function", [scgim.pp.prepare, scgim.tl.fit_gim, scgim.inference.FitConfig])
def test_every_argument_is_within_reach(function: object) -> None:
    """Of functions that may get new ones: an argument is an option, or left out on purpose."""
    left_out = {"adata", "copy", "return_summary", "progress", "group", "settings"}  # --seed is rng
    assert {*inspect.signature(function).parameters} <= {*cli._fit_spellings()} | left_out


def test_the_help_has_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    def described(*words: str) -> dict[str, str]:
        assert cli.main(["fit", *words]) == 0
        text = capsys.readouterr().out.partition("examples:")[0]
        return dict(re.findall(r"^  (--[\w-]+)(?=[ ,\n])((?:.|\n(?!  -|\n))*)", text, flags=re.M))

    daily, everything = described("--help"), described("--settings")
    prepare, fit, settings = cli.fit_arguments()
    assert set(daily) & {argument.option for argument in settings.values()} == set()
    for argument in {**prepare, **fit, **settings}.values():
        text = " ".join(everything[argument.option].split())
        assert len(text) > 10
        default = argument.default
        if default is not None and default is not False and argument.name != "genes":
            assert text.endswith(f"(default: {default})"), argument
    assert all(daily[argument.option] == everything[argument.option] for argument in {**prepare, **fit}.values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "mni_counts=5"], "Did you mean 'min_counts'?"),
        (["--set", "graph_sparsty=5"], "Did you mean 'graph_sparsity'?"),
        (["--prepare", "n_top_gene=5"], "Did you mean 'n_top_genes'?"),
        (["--set", "min-counts=-5"], "--min-counts must be at least 0"),
        (["--min-counts", "few"], "--min-counts must be a whole number"),
        (["--set", "valid_fraction=2"], "--valid-fraction must be at least 0 and below 1"),
        (["--small-conditions", "dorp"], "--small-conditions dorp is unknown"),
        (["--features", "hill"], "--features hill needs --dose-key"),
        (["--mechanism", "cubic"], "--mechanism must be one of"),
        (["--set", "linear_skip=maybe"], "--linear-skip must be True or False"),
        (["--set", "network_hidden=5"], "--network-hidden must be widths"),
        (["--set", "known_targets=A"], "--known-targets must be a dict"),
        (["--set", "checkpoint=3"], "--checkpoint must be the name of a file"),
        (["--device", "abacus"], "--device abacus is not a torch device"),
        (["--min-counts", "5", "--set", "min_counts=6"], "--min-counts is given twice"),
        (["--hold-out", "A=10"], "--dose-key"),
        (["--combination-sep", "+", "--set", "combination_sep=3"], "given twice"),
        (["--set", "adata=3"], "there is no setting 'adata'"),
        (["--set", "rng=3"], "there is no setting 'rng'"),
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
        with pytest.raises((ValueError, TypeError), match=name):
            cli._given(parsed("fit", "--set", f"{name}={value}"))


def test_options_and_settings_reach_their_functions(tmp_path: Path) -> None:
    words = ["--groupby", "line", "--groupby", "time", "--control", "NT", "--min-counts", "20", "--steps", "7"]
    words += ["--genes", "A, B", "--combination-sep", "", "--hold-out", "X+Y", "--seed", "4", "--device", "cpu"]
    words += [
        "--valid-fraction",
        "0.2",
        "--network-hidden",
        "[5, 5]",
        "--set",
        "known_targets={'A': 'B'}",
        "--prepare",
        "warmup_steps=3",
    ]
    prepare, fit = cli._given(parsed("fit", *words))
    assert prepare == {
        "groupby": ["line", "time"], "control": "NT", "min_counts": 20, "genes": ["A", "B"], "combination_sep": None,
        "hold_out": ["X+Y"], "valid_fraction": 0.2,
    }  # fmt: skip
    expected = {"max_steps": 7, "device": "cpu", "known_targets": {"A": "B"}, "warmup_steps": 3}
    expected |= {"network_hidden": [5, 5]}
    assert fit == expected
    assert cli._given(parsed("fit")) == ({}, {})


def test_the_shell_lines_of_the_quick_start_give_its_fit(tmp_path: Path, monkeypatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "quickstart.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S))
    (line,) = re.findall(r"^(scgim fit (?:[^\n\\]|\\\n)*)", page, flags=re.M)
    adata = scgim.datasets.simulated_sciplex3(n_genes=100)[::4].copy()
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
