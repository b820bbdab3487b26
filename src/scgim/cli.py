"""The command line: `scgim demo`, `scgim fit`, `scgim sample`, `scgim benchmark`.

Exit codes: 0 done, 1 unexpected error, 2 bad usage or bad input (one sentence on standard error), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgim import __version__, _shell
from scgim._errors import InvalidValue, NotFound, ScgimError
from scgim._process import logger
from scgim._shell import Argument, whole

if TYPE_CHECKING:
    from anndata import AnnData

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
_DEMO = """\
Runs the whole workflow on simulated data whose truth is known: four drugs at four
doses and a vehicle, the design of SciPlex3. One dose is held out of the fit and
predicted; cells, graph and targets are compared with the truth and with baselines.
"""
_FIT = """\
Reads an h5ad, finds conditions and doses, chooses genes, fits a generative
intervention model, and writes the h5ad with the fit in it. The input file is
left as it is; the output file is the model.
"""
_FIT_EPILOG = """\
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
"""
_SYNTHETIC = {
    "help": "simulated systems with known truth",
    "description": """\
Simulated systems with known graph, targets and dose responses: predicted cells in
distribution, for new doses and for new targets, and learned graphs and targets
against the true ones. Experiments: designs (mechanism x graph x intervention),
paper (the paper's preset and the default), and sweeps of the number of features,
conditions and cells.
""",
    "epilog": """\
examples:
  # see it run: small systems, minutes
  scgim benchmark synthetic --small --out try
  # one design, ten systems, two processes
  scgim benchmark synthetic --experiments designs --mechanisms mlp --graphs er --interventions hard \\
      --seeds 400:410 --jobs 2 --out mlp
  # other methods (some need: pip install "scgim[baselines]")
  scgim benchmark synthetic --experiments designs --methods gim mean_shift ut_igsp condot --out all
""",
}
_SCIPLEX3 = {
    "help": "HDAC inhibitors, the highest dose held out",
    "description": """\
The paper's single-cell experiment: in each of three cell lines each of four HDAC
inhibitors is held out at 10,000 nM and predicted from its lower doses and the
other drugs. The file is scPerturb's SciPlex3 (2.5 GB, downloaded once; extra
"datasets") or one in its format.
""",
    "epilog": """\
examples:
  # see it run: few genes, few steps, minutes
  scgim benchmark sciplex3 --data SrivatsanTrapnell2020_sciplex3.h5ad --small --out try
  # all twelve settings, three seeds, two processes; tuned with four trials each
  scgim benchmark sciplex3 --data SrivatsanTrapnell2020_sciplex3.h5ad --tune 4 --jobs 2
  # also the paper's preset (ten minutes or more a fit)
  scgim benchmark sciplex3 --methods gim gim_paper mean_shift control --out paper
""",
}
_SAMPLE = """\
Draws cells under perturbations from a file that `scgim fit` wrote (or write_h5ad
after scgim.tl.fit_gim).
"""
_SAMPLE_EPILOG = """\
examples:
  scgim sample fit.h5ad --perturbation Dacinostat=10000 -n 500 --out cells.h5ad
  # two perturbations, and a dose that was never measured
  scgim sample fit.h5ad --perturbation Dacinostat=500 --perturbation Belinostat=500 --out cells.h5ad
  # combinations, with doses and without
  scgim sample fit.h5ad --perturbation Dacinostat=100+Belinostat=1000 --out cells.h5ad
  scgim sample crispr.h5ad --perturbation KLF1+MAP2K6 --out cells.h5ad
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments after the program's name; None takes them from the command line.

    Returns
    -------
    int
        The exit code: 0 done, 1 unexpected error, 2 bad usage or bad input, 130 interrupted.

    Examples
    --------
    >>> from scgim.cli import main
    >>> main(["--version"])
    scgim 0.1.0
    0
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv:
        build_parser(["--help"]).print_help(sys.stderr)
        return 2
    name, debug = f"scgim {argv[0]}", "--debug" in argv
    refusals: tuple[type[Exception], ...] = (ScgimError, OSError)
    refusals += (ValueError, TypeError, KeyError)  # TODO-MERGE: until every refusal is a ScgimError
    try:
        _limit_threads(argv)
        args = build_parser(argv).parse_args(argv, argparse.Namespace(argv=argv))
        _set_up(args)
        _COMMANDS[args.command][1](args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has printed the help, or what is wrong
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `scgim ... | head`: nobody reads on, and Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, refusals):
            print(f"{name}: error: {_in_shell(_sentence(error), args)}", file=sys.stderr)
            return 2
        print(f"{name}: unexpected error: {type(error).__name__}: {_sentence(error)}", file=sys.stderr)
        if not debug:
            print(f"{name}: run it again with --debug to see where", file=sys.stderr)
        return 1
    return 0


def _limit_threads(argv: Sequence[str]) -> None:
    """Before NumPy and torch are imported, which read these variables once."""
    if found := re.search(r"(?:^|\n)--threads[=\n](\d+)(?:\n|$)", "\n".join(argv)):
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), found[1])


def _set_up(args: argparse.Namespace) -> None:
    """Threads, figures and messages."""
    if getattr(args, "threads", None) is not None:
        import torch

        torch.set_num_threads(args.threads)
    os.environ.setdefault("MPLBACKEND", "Agg")  # a cluster node has no display

    def translate(record: logging.LogRecord) -> bool:
        record.msg, record.args = _in_shell(record.getMessage(), args), ()
        return True

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING, force=True)
    logging.getLogger().handlers[0].addFilter(translate)
    level = logging.WARNING if args.quiet else logging.DEBUG if args.debug else logging.INFO
    logging.getLogger("scgim").setLevel(level)


def _in_shell(text: str, args: argparse.Namespace) -> str:
    """A message in the words of the command's options; a file that `scgim fit` wrote may need another fit."""
    options = _fit_spellings() if args.command in ("fit", "sample") else {}
    doses = any(word.startswith(("--dose-key", "dose_key=", "dose-key=")) for word in args.argv)
    return _shell.in_shell(text, {**options, **_shell.spellings(args.parser)}, doses=doses)


@cache
def _fit_spellings() -> dict[str, str]:
    return _shell.spellings(build_parser(["fit"]).parse_args(["fit", "-", "--out", "-"]).parser)


def _sentence(error: BaseException) -> str:
    """The message on one line."""
    text = str(error)
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else text  # TODO-MERGE
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}."
    return " ".join(text.split()) or type(error).__name__


def build_parser(argv: Sequence[str] = ("",)) -> argparse.ArgumentParser:
    """The parser of the whole command line; options are there for the command that `argv` names only, if it names one.

    They are read from the functions behind the command, whose libraries take seconds to import.
    """
    parser = _Parser(
        prog="scgim",
        description="Causal graph, targets and predicted cells from single-cell perturbation data.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"scgim {__version__}")
    commands = parser.add_subparsers(prog="scgim", dest="command", metavar="COMMAND", required=True)
    for name, (add_options, _, texts) in _COMMANDS.items():
        own = commands.add_parser(name, **texts)
        own.everything = "--settings" in argv
        if argv[0] in ("", name):
            add_options(own)
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviated options (scripts would break when an option is added), and errors without the usage."""

    everything = False  # the help of `scgim fit` shows every setting

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.set_defaults(parser=self)  # the command's own one: messages are in the words of its options

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _add_common(parser: argparse.ArgumentParser, *, seed: bool = True, threads: bool = True) -> None:
    add = parser.add_argument_group("running").add_argument
    if seed:
        add("--seed", type=whole(0), default=0, metavar="N", help="seed (default: 0)")
    if threads:
        add("--threads", type=whole(1), metavar="N", help="CPU threads (default: all cores)")
    add("-q", "--quiet", action="store_true", help="only warnings and errors")
    add("--debug", action="store_true", help="show the traceback of an error")


def _demo_options(parser: Any) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("scgim-demo"), metavar="DIR", help="folder (default: scgim-demo)")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=whole(1), metavar="N", help="maximum number of training steps")
    length.add_argument("--quick", action="store_true", help="few genes and steps: shows that it runs, not how well")
    _add_common(parser)


def _demo(args: argparse.Namespace) -> None:
    from scgim.demo import run_demo

    given = {name: getattr(args, name) for name in ("seed", "steps", "quick", "device")}
    run_demo(args.out, progress=_show_progress(args), **given)


@cache
def fit_arguments() -> tuple[dict[str, Argument], dict[str, Argument], dict[str, Argument]]:
    """Arguments of `pp.prepare`, those of `tl.fit_gim` that it does not share, and the other settings of a fit."""
    from scgim import pp, tl
    from scgim.inference import FitConfig

    # No shell can give these, --seed does, or they have no use where one file becomes another.
    left_out = ("copy", "return_summary", "progress", "group", "rng", "settings")
    prepare = _shell.arguments_of(pp.prepare, *left_out)
    settings = _shell.arguments_of(FitConfig, "mechanism", "intervention")
    fit = _shell.arguments_of(tl.fit_gim, *left_out, *prepare, *settings)
    return prepare, {**fit, "max_steps": settings.pop("max_steps")}, settings


def _fit_options(parser: Any) -> None:
    prepare, fit, settings = fit_arguments()
    add = parser.add_argument
    add("h5ad", type=Path, metavar="H5AD", help="cells with perturbations in obs")
    add("--out", type=Path, required=True, metavar="FILE", help="h5ad to write")
    add("--force", action="store_true", help="overwrite FILE")
    add("--set", "--prepare", type=_setting({**prepare, **fit, **settings}), action="append", default=[],
        metavar="NAME=VALUE", help="an argument or setting, its value as in Python. May be repeated")  # fmt: skip
    add("--settings", action="help", help="this help with every setting of the fit")
    _shell.add_options(
        parser.add_argument_group("the data (arguments of scgim.pp.prepare)"),
        prepare,
        control={"action": "append", "metavar": "LABEL", "help": "label of unperturbed cells. May be repeated"},
        groupby={"action": "append", "metavar": "COL",
                 "help": "column of obs (cell line, donor): one model per group. May be repeated"},
        genes={"type": _genes, "metavar": "A,B,...", "help": "these genes, or 'all' (default: the strongest markers)"},
        hold_out={"type": _shell.perturbation, "action": "append", "metavar": "NAME[=DOSE]",
                  "help": "condition kept for testing; without a dose, all doses. May be repeated"},
        combination_sep={"type": lambda text: text or None, "metavar": "SEP",
                         "help": "what separates the perturbations of a combination; '' if nothing does"},
    )  # fmt: skip
    _shell.add_options(
        parser.add_argument_group("the fit (arguments of scgim.tl.fit_gim)"),
        fit,
        preset={"help": "default, or paper: random start and log-mean-exp objective"},
    )
    group = parser.add_argument_group("all other settings of the fit (scgim.inference.FitConfig)")
    _shell.add_options(group if parser.everything else parser, settings, shown=parser.everything)
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
        return name, _shell.literal(value)

    return read


def gather(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `pp.prepare` and of `tl.fit_gim`, from options and --set, checked as far as no data are needed."""
    from scgim.pp.inputs import check_settings as check_prepare
    from scgim.tl._fit_gim import check_settings as check_fit

    prepare, fit, settings = fit_arguments()
    given = {name: value for name, value in vars(args).items() if name in {**prepare, **fit, **settings}}
    for name in ("control", "groupby"):
        if len(given.get(name, ())) == 1:
            given[name] = None if given[name] == [""] else given[name][0]
    for name, value in args.set:
        if name in given:
            raise InvalidValue(f"{name} is given twice.")
        given[name] = value
    if "hold_out" in vars(args):
        has_dose = given.get("dose_key") is not None
        if not has_dose and not all(isinstance(entry, str) for entry in args.hold_out):
            raise InvalidValue("hold_out names a dose, so dose_key= is needed as well.")
        given["hold_out"] = _shell.held_out(args.hold_out, has_dose=has_dose)
    for_prepare = {name: value for name, value in given.items() if name in prepare}
    for_fit = {name: value for name, value in given.items() if name not in prepare}
    check_prepare({name: argument.default for name, argument in prepare.items()} | for_prepare)
    check_fit(**for_fit)
    return {**for_prepare, "rng": args.seed}, {**for_fit, "rng": args.seed}


def _fit(args: argparse.Namespace) -> None:
    preparation, settings = gather(args)
    _check_files(args)
    logger.info("reading %s", args.h5ad)
    adata = _read(args.h5ad)
    from scgim import pp, tl
    from scgim._keys import Keys
    from scgim._validation import plural

    logger.info("preparing %s x %s", plural(adata.n_obs, "cell"), plural(adata.n_vars, "gene"))
    pp.prepare(adata, **preparation)
    shared = {name: preparation[name] for name in ("groupby", "key_added") if name in preparation}
    tl.fit_gim(adata, progress=_show_progress(args), **shared, **settings)
    _write(adata, args.out)
    print(f"wrote the fit to {args.out}")
    # After Ctrl-C the file holds the best state until then.
    key = preparation.get("key_added", "gim")
    for group in adata.uns[key].get("groups", [None]):
        if str(adata.uns[Keys(key, group).uns]["params"]["fit"]["stopped"]) == "interrupted":
            raise KeyboardInterrupt


def _sample_options(parser: Any) -> None:
    add = parser.add_argument
    add("h5ad", type=Path, metavar="H5AD", help="file with a fit in it")
    add("--out", type=Path, required=True, metavar="FILE", help="h5ad to write")
    add("--force", action="store_true", help="overwrite FILE")
    add("--perturbation", dest="perturbations", type=_shell.perturbation, action="append", required=True,
        metavar="NAME[=DOSE]",
        help="a perturbation, a condition's label, or a combination A+B. May be repeated")  # fmt: skip
    add("-n", type=whole(1), default=500, metavar="N", help="cells of each (default: 500)")
    add("--key", default="gim", help="prefix of the fit in the file (default: gim)")
    add("--group", metavar="NAME", help="which model, where there is one per group")
    _add_common(parser)


def _sample(args: argparse.Namespace) -> None:
    _check_files(args)
    adata = _read(args.h5ad)
    from scgim import tl
    from scgim._validation import plural

    given = {name: getattr(args, name) for name in ("perturbations", "n", "key", "group")}
    cells = tl.sample_cells(adata, rng=args.seed, **given)
    _write(cells, args.out)
    print(f"wrote {plural(cells.n_obs, 'cell')} x {plural(cells.n_vars, 'gene')} to {args.out}")


def _benchmark_options(parser: Any) -> None:
    from scgim import benchmark as bm

    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    data = _shell.arguments_of(bm.extract)
    for name, run, what, texts in (
        ("synthetic", bm.run_synthetic, _shell.arguments_of(bm.SyntheticExperiment, "options", "tuned"), _SYNTHETIC),
        ("sciplex3", bm.run_sciplex3, data | _shell.arguments_of(bm.SciPlex3Experiment, "tuned"), _SCIPLEX3),
    ):
        usage = f"scgim benchmark {name} [--small] [--jobs N] [--out DIR] [...]"
        own = experiments.add_parser(name, usage=usage, **texts)
        out = Path(f"benchmark-{name}")
        own.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder (default: {out})")
        if name == "sciplex3":
            own.add_argument("--data", type=Path, metavar="FILE", help="h5ad in scPerturb's format (default: download)")
        how = _shell.arguments_of(run, "progress", "command") | _shell.arguments_of(bm.run, "progress")
        flags = {flag: {"action": "store_true"} for flag in ("small", "retry_failed", "report_only")}
        _shell.add_options(own.add_argument_group("what is run"), what, **flags)
        _shell.add_options(own.add_argument_group("how"), how, **flags)
        _add_common(own, seed=False, threads=False)


def _benchmark(args: argparse.Namespace) -> None:
    from scgim import benchmark as bm

    if args.out.exists() and not args.out.is_dir():
        raise InvalidValue(f"--out {args.out} is a file; give a folder.")
    given = vars(args)
    command = shlex.join(["scgim", *_without_place(args.argv)])
    how: dict[str, Any] = {"progress": _show_progress(args), "command": command}
    if args.experiment == "synthetic":
        seeds = {"seeds": [400], "sweep_seeds": [400]} if "small" in given else {}
        experiment: Any = bm.SyntheticExperiment(**seeds | _of(bm.SyntheticExperiment, given))
        page = bm.run_synthetic(experiment, args.out, **how, **_of(bm.run_synthetic, given))
    else:
        if args.data is not None and not args.data.is_file():
            raise NotFound(f"--data {args.data}: there is no such file.")
        seeds = {"seeds": [0]} if "small" in given else {}
        extracts = bm.extract(args.data, args.out / "data", **_of(bm.extract, given))
        experiment = bm.SciPlex3Experiment(extracts, **seeds | _of(bm.SciPlex3Experiment, given))
        page = bm.run_sciplex3(experiment, args.out, **how, **_of(bm.run_sciplex3, given))
    print(page.read_text())
    print(f"wrote {page}, results.csv and figures to {args.out}")


def _of(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the given options that a function takes."""
    return {name: given[name] for name in _shell.arguments_of(function) if name in given}


def _without_place(argv: Sequence[str]) -> list[str]:
    """The arguments without `--out`, and of `--data` the name alone: a page must not name a place on one machine."""
    joined = re.sub(r"(?m)^--(?:out[=\n].*|report)\n?", "", "\n".join(argv))
    return re.sub(r"(?m)^(--data[=\n]).*/", r"\1", joined).split("\n")


def _show_progress(args: argparse.Namespace) -> bool:
    return not args.quiet and sys.stderr.isatty()  # a bar is noise in the log of a cluster job


def _read(path: Path) -> AnnData:
    from anndata import read_h5ad

    try:
        return read_h5ad(path)
    except Exception as error:  # whatever h5py and anndata make of a file that is none of theirs
        raise InvalidValue(f"{path} cannot be read as h5ad: {_sentence(error)}") from error


def _check_files(args: argparse.Namespace) -> None:
    """Everything that could go wrong with input and output, before any work."""
    out: Path = args.out
    if not args.h5ad.is_file():
        raise NotFound(f"there is no file {args.h5ad}.")
    if out.suffix != ".h5ad":
        raise InvalidValue(f"--out {out}: the name must end in .h5ad.")
    if out.exists() and not args.force:
        raise InvalidValue(f"{out} exists; pass --force to overwrite it.")
    if not out.parent.is_dir():
        raise NotFound(f"--out {out}: there is no folder {out.parent}.")
    if not os.access(out.parent, os.W_OK):
        raise InvalidValue(f"--out {out}: the folder {out.parent} cannot be written to.")


def _write(adata: AnnData, out: Path) -> None:
    """Write beside the file and rename, so that an interruption leaves no half of a file."""
    logger.info("writing %s", out)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.part.h5ad")
    try:
        adata.write_h5ad(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


#: Command -> what adds its options, what runs it, and its help.
_COMMANDS: dict[str, tuple[Callable[[Any], None], Callable[[argparse.Namespace], None], dict[str, str]]] = {
    "demo": (_demo_options, _demo, {"help": "the whole workflow on simulated data", "description": _DEMO}),
    "fit": (_fit_options, _fit, {
        "help": "fit a model to an h5ad",
        "usage": "scgim fit H5AD --out FILE [--dose-key COL] [--hold-out NAME=DOSE] [...]",
        "description": _FIT, "epilog": _FIT_EPILOG,
    }),
    "sample": (_sample_options, _sample, {
        "help": "predict cells with a fitted model",
        "usage": "scgim sample H5AD --perturbation NAME[=DOSE] [-n N] --out FILE [...]",
        "description": _SAMPLE, "epilog": _SAMPLE_EPILOG,
    }),
    "benchmark": (_benchmark_options, _benchmark, {
        "help": "an experiment of the paper, with baselines",
        "description": """\
Runs an experiment of the paper: every method on every data set, in processes of
their own, then tables, figures and a page. What is finished is kept in the
output folder: interrupt, and run the same command again to go on.
""",
    }),
}  # fmt: skip
