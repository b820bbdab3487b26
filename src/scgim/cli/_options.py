"""The options of each command, made from the arguments of the functions behind it and their documentation."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scgim import __version__

from ._shell import in_shell, literal, perturbation, seeds, whole

#: Arguments whose option is not called after them.
_RENAMED = {"max_steps": "--steps", "tune_trials": "--tune", "report_only": "--report"}
_EPILOG = """\
examples:
  # the whole workflow on simulated data
  scgim demo
  # learn from your cells; Dacinostat at 10000 is kept for testing
  scgim fit screen.h5ad --dose-key dose_value --hold-out Dacinostat=10000 --out fit.h5ad
  # predict 500 cells under it
  scgim sample fit.h5ad --perturbation Dacinostat=10000 -n 500 --out cells.h5ad

each command has its own help: scgim fit --help
exit codes: 0 done, 1 unexpected error, 2 bad usage or bad input, 130 interrupted
"""
#: Command -> its help, usage and description; examples follow after an empty line.
_TEXTS = {
    "demo": """\
the whole workflow on simulated data
scgim demo [--quick] [--out DIR] [...]
Runs the whole workflow on simulated data whose truth is known: four drugs at four
doses and a vehicle, the design of SciPlex3. One dose is held out of the fit and
predicted; cells, graph and targets are compared with the truth and with baselines.""",
    "fit": """\
fit a model to an h5ad
scgim fit H5AD --out FILE [--dose-key COL] [--hold-out NAME=DOSE] [...]
Reads an h5ad, finds conditions and doses, chooses genes, fits a generative
intervention model, and writes the h5ad with the fit in it. The input file is
left as it is; the output file is the model.

examples:
  # drugs with doses; one dose of one drug is kept for testing
  scgim fit screen.h5ad --dose-key dose_value --dose-unit-key dose_unit \\
      --control vehicle --hold-out Dacinostat=10000 --out fit.h5ad
  # knock-outs, no dose
  scgim fit crispr.h5ad --perturbation-key target --control non-targeting --out fit.h5ad
  # one model per cell line
  scgim fit lines.h5ad --dose-key dose_value --groupby cell_line --out fit.h5ad
  # log-normalised values, three genes, one setting of the fit changed
  scgim fit log.h5ad --input log1p --genes MYC,CDKN1A,TP53 --set graph_sparsity=5 --out fit.h5ad
  # every setting
  scgim fit --settings
""",
    "sample": """\
predict cells with a fitted model
scgim sample H5AD --perturbation NAME[=DOSE] [-n N] --out FILE [...]
Draws cells under perturbations from a file that `scgim fit` wrote (or write_h5ad
after scgim.tl.fit_gim).

examples:
  scgim sample fit.h5ad --perturbation Dacinostat=10000 -n 500 --out cells.h5ad
  # two perturbations, and a dose that was never measured
  scgim sample fit.h5ad --perturbation Dacinostat=500 --perturbation Belinostat=500 --out cells.h5ad
  # combinations, with doses and without
  scgim sample fit.h5ad --perturbation Dacinostat=100+Belinostat=1000 --out cells.h5ad
  scgim sample crispr.h5ad --perturbation KLF1+MAP2K6 --out cells.h5ad
""",
    "benchmark": """\
an experiment of the paper, with baselines
scgim benchmark EXPERIMENT [--small] [--jobs N] [--out DIR] [...]
Every method on every data set, in processes of their own, then tables. What is
finished is kept in the output folder: run the same command again to go on.

examples:
  # see it run: small systems, minutes
  scgim benchmark synthetic --small --out try
  # ten systems, two processes, other methods (some need: pip install "scgim[baselines]")
  scgim benchmark synthetic --experiments designs --seeds 400:410 --methods gim ut_igsp condot --jobs 2
  # the twelve settings of the paper's single-cell experiment, tuned with four trials each
  scgim benchmark sciplex3 --data SrivatsanTrapnell2020_sciplex3.h5ad --tune 4 --jobs 2
""",
}


def build_parser(argv: Sequence[str] = ("",)) -> argparse.ArgumentParser:
    """The parser of the whole command line; if `argv` names a command, with the options of that one only.

    Options are read from the functions behind a command, whose libraries take seconds to import.
    """
    parser = _Parser(
        prog="scgim",
        description="Causal graph, targets and predicted cells from single-cell perturbation data.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"scgim {__version__}")
    commands = parser.add_subparsers(prog="scgim", dest="command", metavar="COMMAND", required=True)
    for name, add in _OPTIONS.items():
        text, _, examples = _TEXTS[name].partition("\n\n")
        line, usage, description = text.split("\n", 2)
        own: Any = commands.add_parser(name, help=line, usage=usage, description=description, epilog=examples)
        own.everything = "--settings" in argv
        if argv[0] in ("", name):
            add(own)
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviated options (scripts would break when an option is added), and errors without the usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.set_defaults(parser=self)  # the command's own one: messages are in the words of its options

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _add_common(parser: Any, *, seed: bool = True) -> None:
    add = parser.add_argument_group("running").add_argument
    if seed:
        add("--seed", type=whole(0), default=0, metavar="N", help="seed (default: 0)")
        add("--threads", type=whole(1), metavar="N", help="CPU threads (default: all cores)")
    add("-q", "--quiet", action="store_true", help="only warnings and errors")
    add("--debug", action="store_true", help="show the traceback of an error")


def _add_files(parser: Any, what: str) -> None:
    parser.add_argument("h5ad", type=Path, metavar="H5AD", help=what)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="h5ad to write")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


class Argument(NamedTuple):
    """An argument of a function, or a field of a dataclass."""

    name: str
    default: Any
    annotation: str  # as it is written
    text: str  # its documentation

    @property
    def option(self) -> str:
        """How it is given to a command."""
        return _RENAMED.get(self.name, "--" + self.name.replace("_", "-"))

    @property
    def summary(self) -> str:
        """The first sentence of its documentation, and which values there are."""
        values = re.findall(r'"(\w+)"(?=: )', self.text)
        text = re.sub(r"(?<!\.)\.$", "", re.sub(r" \(own[^)]*\)", "", self.text))
        first = re.match(r"(?:\([^()]*\)|e\.g\.|[^.;]|[.;](?! ))*", text)[0]  # type: ignore[index]
        if text.startswith('"') or len(first) < 20:  # the values or symbols that the next sentences explain
            return text
        return first if len(values) < 2 or values[0] in first else f"{first}: {', '.join(values)}"


def arguments_of(source: Any, *without: str) -> dict[str, Argument]:
    """What a function, or a dataclass, takes and need not be given, with its documentation; `without` some."""
    texts = dict(_documented(source))
    return {
        name: Argument(name, parameter.default, str(parameter.annotation), texts.get(name, ""))
        for name, parameter in inspect.signature(source).parameters.items()
        if parameter.default is not parameter.empty and name not in without
    }


def _documented(source: Any) -> Iterator[tuple[str, str]]:
    """Argument -> its numpydoc description, on one line; of a dataclass, those that it derives from as well."""
    for documented in reversed(getattr(source, "__mro__", [source])):
        text = inspect.cleandoc(documented.__doc__ or "").partition("Parameters\n----------\n")[2]
        text = re.split(r"\n\w+\n---+\n", text)[0] + "\n"
        for names, described in re.findall(r"^(\S.*)\n((?:    .*\n|\n(?=    ))+)", text, flags=re.M):
            plain = " ".join(re.sub(r":\w+:(?=`)|`", "", described).split())
            yield from ((name.strip(), plain) for name in names.split(","))


def add_options(group: Any, arguments: Mapping[str, Argument], *, shown: bool = True, **special: Any) -> None:
    """An option for each argument, absent unless given; `special` says what does not follow from its annotation."""
    options = {name: argument.option for name, argument in arguments.items()}
    for name, argument in arguments.items():
        own = dict(special.get(name, {}))
        text, default = own.pop("help", in_shell(argument.summary, options)), argument.default
        text = re.sub(r"^[A-Z](?![A-Z])", lambda first: first[0].lower(), text)
        if default is not None and default is not False and "(default:" not in text:
            text += f" (default: {' '.join(map(str, default)) if 'Sequence' in argument.annotation else default})"
        text = text.replace("%", "%%") if shown else argparse.SUPPRESS
        given = own or _read_as(argument)
        group.add_argument(argument.option, dest=name, default=argparse.SUPPRESS, help=text, **given)


def _read_as(argument: Argument) -> dict[str, Any]:
    """How the words of an option become the value of its argument."""
    types = set(re.findall(r"\w+", argument.annotation))
    if {"Sequence", "int"} <= types:
        return {"type": seeds, "metavar": "A:B"}
    if "Sequence" in types:
        return {"nargs": "+", "metavar": "NAME"}
    metavar = "COL" if argument.name.endswith("_key") or argument.name == "groupby" else "VALUE"
    if "list" in types:
        return {"action": "append", "metavar": metavar}
    if types & {"int", "float", "bool", "tuple", "Mapping"}:
        return {"type": literal, "metavar": "N" if types <= {"int", "float"} else metavar}
    return {"metavar": metavar}


def _demo(parser: Any) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("scgim-demo"), metavar="DIR", help="folder (default: scgim-demo)")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    add("--steps", type=whole(1), metavar="N", help="maximum number of training steps")
    add("--quick", action="store_true", help="few genes and steps: shows that it runs, not how well")
    _add_common(parser)


@cache
def fit_arguments() -> tuple[dict[str, Argument], dict[str, Argument], dict[str, Argument]]:
    """Arguments of `pp.prepare`, those of `tl.fit_gim` that it does not share, and the other settings of a fit."""
    from scgim import pp, tl
    from scgim.inference import FitConfig

    # No shell can give these, --seed does, or they have no use where one file becomes another.
    left_out = ("copy", "return_summary", "progress", "group", "rng", "settings")
    prepare = arguments_of(pp.prepare, *left_out)
    settings = arguments_of(FitConfig, "mechanism", "intervention")
    fit = arguments_of(tl.fit_gim, *left_out, *prepare, *settings)
    return prepare, {**fit, "max_steps": settings.pop("max_steps")}, settings


def _fit(parser: Any) -> None:
    prepare, fit, settings = fit_arguments()
    _add_files(parser, "cells with perturbations in obs")
    parser.add_argument("--set", "--prepare", type=_setting({**prepare, **fit, **settings}), action="append",
        default=[], metavar="NAME=VALUE", help="an argument or setting, as in Python. May be repeated")  # fmt: skip
    parser.add_argument("--settings", action="help", help="this help with every setting of the fit")
    add_options(
        parser.add_argument_group("the data (arguments of scgim.pp.prepare)"),
        prepare,
        control={"action": "append", "metavar": "LABEL", "help": "label of unperturbed cells. May be repeated"},
        groupby={"action": "append", "metavar": "COL",
                 "help": "column of obs (cell line, donor): one model per group. May be repeated"},
        genes={"type": _genes, "metavar": "A,B,...", "help": "these genes, or 'all' (default: the strongest markers)"},
        hold_out={"type": perturbation, "action": "append", "metavar": "NAME[=DOSE]",
                  "help": "condition kept for testing; without a dose, all doses. May be repeated"},
        combination_sep={"type": lambda text: text or None, "metavar": "SEP",
                         "help": "what separates the perturbations of a combination; '' if nothing does"},
    )  # fmt: skip
    add_options(parser.add_argument_group("the fit (arguments of scgim.tl.fit_gim)"), fit)
    group = parser.add_argument_group("all other settings of the fit (scgim.inference.FitConfig)")
    add_options(group if parser.everything else parser, settings, shown=parser.everything)
    _add_common(parser)


def _genes(text: str) -> str | list[str]:
    return text if text == "all" else [gene.strip() for gene in text.split(",") if gene.strip()]


def _setting(known: dict[str, Argument]) -> Callable[[str], tuple[str, Any]]:
    """What reads NAME=VALUE: a name that does not exist is found before anything else."""
    from scgim._validation import suggestion

    def read(text: str) -> tuple[str, Any]:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not equals or not name:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no setting {name!r}.{suggestion(name, known)}")
        return name, literal(value)

    return read


def _sample(parser: Any) -> None:
    _add_files(parser, "file with a fit in it")
    add = parser.add_argument
    add("--perturbation", dest="perturbations", type=perturbation, action="append", required=True,
        metavar="NAME[=DOSE]",
        help="a perturbation, a condition's label, or a combination A+B. May be repeated")  # fmt: skip
    add("-n", type=whole(1), default=500, metavar="N", help="cells of each (default: 500)")
    add("--key", default="gim", help="prefix of the fit in the file (default: gim)")
    add("--group", metavar="NAME", help="which model, where there is one per group")
    _add_common(parser)


def _benchmark(parser: Any) -> None:
    from scgim import benchmark as bm

    experiments = parser.add_subparsers(prog="scgim benchmark", dest="experiment", metavar="EXPERIMENT", required=True)
    how = arguments_of(bm.run_experiment, "progress", "command") | arguments_of(bm.run, "progress")
    flags: dict[str, Any] = {key: {"action": "store_true"} for key in ("small", "retry_failed", "report_only")}
    for name, experiment in (("synthetic", bm.SyntheticExperiment), ("sciplex3", bm.SciPlex3Experiment)):
        text = inspect.cleandoc(experiment.__doc__ or "").partition("\n\nParameters\n")[0]
        text = "\n\n".join(textwrap.fill(paragraph, 84) for paragraph in text.split("\n\n"))
        usage = f"scgim benchmark {name} [--small] [--jobs N] [--out DIR] [...]"
        own = experiments.add_parser(name, help=text.partition(".\n")[0], usage=usage, description=text)
        out, what = Path(f"benchmark-{name}"), arguments_of(experiment, "tuned")
        own.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder (default: {out})")
        if name == "sciplex3":
            own.add_argument("--data", dest="path", type=Path, metavar="FILE",
                             help="h5ad in scPerturb's format (default: download it)")  # fmt: skip
            what = arguments_of(bm.extract) | what
        add_options(own.add_argument_group("what is run"), what, **flags)
        add_options(own.add_argument_group("how"), how, **flags)
        _add_common(own, seed=False)


_OPTIONS = {"demo": _demo, "fit": _fit, "sample": _sample, "benchmark": _benchmark}
