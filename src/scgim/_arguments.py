"""The arguments of the command line: the parsers, and what their values mean."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scgim import __version__
from scgim._benchmark_arguments import add_benchmark

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
Runs the whole workflow on simulated data that carry their truth: four drugs at
four doses and a vehicle, the design of SciPlex3. One dose is held out of the
fit, predicted, and compared with the cells that were held out, beside baselines;
the learned graph and targets are compared with the true ones.
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
  # all that --set takes
  scgim fit --settings
"""

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


class InputError(Exception):
    """Bad usage or bad input: the message is for the user."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="scgim",
        description="Causal graph, targets and predicted cells from single-cell perturbation data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scgim {__version__}")
    commands = parser.add_subparsers(prog="scgim", dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_fit(commands)
    _add_sample(commands)
    add_benchmark(commands, _add_common, _whole)
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviated options (scripts would break when an option is added), and errors without the usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.set_defaults(parser=self)  # the command's own one: messages are in the words of its options

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _add_common(
    parser: argparse.ArgumentParser, *, device: str | None = "auto", seed: bool = True, threads: bool = True
) -> None:
    group = parser.add_argument_group("running")
    if seed:
        group.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="seed (default: 0)")
    if device is not None:
        group.add_argument("--device", default=device, help="auto, cpu, cuda (default: auto)")
    if threads:
        group.add_argument("--threads", type=_whole(1), metavar="N", help="CPU threads (default: all cores)")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="the whole workflow on simulated data",
        description=_DEMO,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("scgim-demo"), metavar="DIR", help="folder (default: scgim-demo)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_whole(1), metavar="N", help="training steps at most")
    length.add_argument("--quick", action="store_true", help="few genes and steps: shows that it runs, not how well")
    _add_common(parser)


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="scgim fit H5AD --out FILE [--dose-key COL] [--hold-out NAME=DOSE] [...]",
        help="fit a model to an h5ad",
        description=_FIT,
        epilog=_FIT_EPILOG,
    )
    # An option is called after its argument of `pp.prepare` or `tl.fit_gim`. What is not given keeps their default,
    # and they check the values: nothing here needs to change with them.
    add = parser.add_argument
    add("h5ad", type=Path, metavar="H5AD", help="cells with perturbations in obs")
    add("--out", type=Path, required=True, metavar="FILE", help="h5ad to write")
    add("--force", action="store_true", help="overwrite FILE")

    add = partial(parser.add_argument_group("what is in the file").add_argument, default=argparse.SUPPRESS)
    add("--perturbation-key", metavar="COL", help="obs column (default: perturbation)")
    add("--dose-key", metavar="COL", help="obs column with doses; none if there are no doses")
    add("--dose-unit-key", metavar="COL", help="obs column with the unit of each dose")
    add("--control", action="append", metavar="LABEL", help="label of unperturbed cells (default: control)")
    add("--groupby", action="append", metavar="COL", help="obs column (cell line, donor): one model per group")
    add("--layer", metavar="NAME", help="layer to use instead of X")
    add("--input", metavar="KIND", help="counts, log1p or continuous (default: counts)")
    add("--combination-sep", metavar="SEP", help="between combined perturbations (default: +)")
    add("--smiles-key", metavar="COL", help="obs column with SMILES, for --features fingerprint")

    add = partial(parser.add_argument_group("what is modelled").add_argument, default=argparse.SUPPRESS)
    add(
        "--hold-out",
        action="append",
        metavar="NAME[=DOSE]",
        help="condition kept for testing; without a dose, all doses. May be repeated",
    )
    add("--genes", metavar="A,B,...", help="these genes, or 'all' (default: the strongest markers)")
    add("--n-genes", type=_whole(2), metavar="N", help="number of markers (default: 50)")
    add("--features", metavar="KIND", help="auto, onehot, rescaled, fingerprint, hill or potency (default: auto)")
    add("--min-counts", type=literal, metavar="N", help="fewest counts of a cell; lower it for a panel of genes")
    add("--min-cells", type=literal, metavar="N", help="fewest cells of a gene (default: 20)")
    add("--min-cells-per-condition", type=_whole(2), metavar="N", help="fewest cells (default: 10)")
    add("--small-conditions", metavar="WHAT", help="what to do with smaller ones: error or drop (default: error)")
    add(
        "--silent-genes",
        metavar="WHAT",
        help="with genes that no control expresses: error or drop (default: error)",
    )

    add = partial(parser.add_argument_group("the fit").add_argument, default=argparse.SUPPRESS)
    add("--preset", metavar="NAME", help="default or paper (default: default)")
    add("--mechanism", metavar="KIND", help="auto, linear, mlp or ziln (default: auto)")
    add("--intervention", metavar="KIND", help="hard or shift (default: hard)")
    add("--steps", dest="max_steps", type=_whole(1), metavar="N", help="training steps at most (default: 2000)")
    add("--checkpoint", type=Path, metavar="FILE", help="saved now and then; a later run goes on from it")
    add("--key-added", metavar="KEY", help="prefix of all that is stored (default: gim)")
    add = parser.add_argument_group("everything else").add_argument
    add(
        "--set",
        "--prepare",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="any argument of scgim.pp.prepare or scgim.tl.fit_gim. May be repeated",
    )
    add("--settings", action=_Settings, help="list what --set takes, with its defaults, and exit")
    _add_common(parser, device=argparse.SUPPRESS)


class _Settings(argparse.Action):
    """Prints and exits, like --help; `scgim --help` must not wait for the libraries that it imports."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from scgim._settings import describe

        print(describe())
        parser.exit()


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser(
        "sample",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="scgim sample H5AD --perturbation NAME[=DOSE] [-n N] --out FILE [...]",
        help="predict cells with a fitted model",
        description=_SAMPLE,
        epilog=_SAMPLE_EPILOG,
    )
    add = parser.add_argument
    add("h5ad", type=Path, metavar="H5AD", help="file with a fit in it")
    add("--out", type=Path, required=True, metavar="FILE", help="h5ad to write")
    add("--force", action="store_true", help="overwrite FILE")
    add(
        "--perturbation",
        action="append",
        required=True,
        metavar="NAME[=DOSE]",
        help="a perturbation, a condition's label, or a combination A+B. May be repeated",
    )
    add("-n", type=_whole(1), default=500, metavar="N", help="cells of each (default: 500)")
    add("--key", default="gim", help="prefix of the fit in the file (default: gim)")
    add("--group", metavar="NAME", help="which model, where there is one per group")
    _add_common(parser, device=None)


def perturbation(text: str) -> Any:
    """A perturbation as written on the command line.

    Parameters
    ----------
    text
        `NAME`, `NAME=DOSE`, the label of a condition, or several of them joined by `+`.

    Returns
    -------
    What `scgim.tl.sample_cells` takes: a name, a pair of name and dose, or a list of such pairs.

    Examples
    --------
    >>> from scgim._arguments import perturbation
    >>> perturbation("Dacinostat=10 uM"), perturbation("A=1+B=2")
    (('Dacinostat', '10 uM'), [('A', '1'), ('B', '2')])
    """
    if text.count("=") > 1:
        return [_pair(piece) for piece in text.split("+")]
    return _pair(text) if "=" in text else text


def held_out(texts: Sequence[str], *, has_dose: bool) -> dict[str, Any] | list[str] | None:
    """`--hold-out` as `scgim.pp.prepare` takes it.

    Parameters
    ----------
    texts
        `NAME=DOSE`, or `NAME` for the condition (all its doses, where there are doses).
    has_dose
        Whether the data have doses.

    Examples
    --------
    >>> from scgim._arguments import held_out
    >>> held_out(["A=10", "A=100", "B"], has_dose=True)
    {'A': ['10', '100'], 'B': None}
    """
    if not has_dose:
        with_dose = [text for text in texts if "=" in text]
        if with_dose:
            raise InputError(f"--hold-out {with_dose[0]} names a dose, so --dose-key is needed too.")
        return list(texts) or None
    wanted: dict[str, Any] = {}
    for text in texts:
        name, dose = _pair(text) if "=" in text else (text, None)
        wanted[name] = None if dose is None or wanted.get(name, []) is None else [*wanted.get(name, []), dose]
    return wanted or None


def _pair(text: str) -> tuple[str, str]:
    name, _, dose = text.rpartition("=")
    if not name.strip() or not dose.strip()[:1].isdigit():
        raise InputError(f"{text!r} is not NAME=DOSE, as in Dacinostat=10000.")
    return name.strip(), dose.strip()


def gene_list(text: str | None) -> Any:
    if text is None or text == "all":
        return text
    return [gene.strip() for gene in text.split(",") if gene.strip()]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip().replace("-", "_"), literal(value.strip())


def literal(text: str) -> Any:
    """A number, None, True, a list or a dict as Python writes them; anything else is text.

    Examples
    --------
    >>> from scgim._arguments import literal
    >>> literal("0.5"), literal("mlp"), literal("[50, 50]")
    (0.5, 'mlp', [50, 50])
    """
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):  # a word, such as mlp
        return text


def _whole(least: int) -> Any:
    def whole_number(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return whole_number
