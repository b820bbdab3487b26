"""The arguments of `scgim benchmark`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Runs an experiment of the paper: every method on every data set, in processes of
their own, then tables, figures and a page. What is finished is kept in the
output folder: interrupt, and run the same command again to go on.
"""

_SYNTHETIC = """\
Simulated systems with known graph, targets and dose responses: predicted cells in
distribution, for new doses and for new targets, and learned graphs and targets
against the true ones. Experiments: designs (mechanism x graph x intervention),
paper (the paper's preset beside the default), and sweeps of the number of
features, conditions and cells.
"""

_SYNTHETIC_EPILOG = """\
examples:
  # see it run: small systems, minutes
  scgim benchmark synthetic --small --out try
  # one design, ten systems, two processes
  scgim benchmark synthetic --experiments designs --mechanisms mlp --graphs er --interventions hard \\
      --seeds 400:410 --jobs 2 --out mlp
  # other methods (some need: pip install "scgim[baselines]")
  scgim benchmark synthetic --experiments designs --methods gim mean_shift ut_igsp condot --out all
"""

_SCIPLEX3 = """\
The paper's single-cell experiment: in each of three cell lines each of four HDAC
inhibitors is held out at 10,000 nM and predicted from its lower doses and the
other drugs. The file is scPerturb's SciPlex3 (2.5 GB, downloaded once; extra
"datasets") or one in its format.
"""

_SCIPLEX3_EPILOG = """\
examples:
  # see it run: few genes, few steps, minutes
  scgim benchmark sciplex3 --data SrivatsanTrapnell2020_sciplex3.h5ad --small --out try
  # all twelve settings, three seeds, two processes; tuned with four trials each
  scgim benchmark sciplex3 --data SrivatsanTrapnell2020_sciplex3.h5ad --tune 4 --jobs 2
  # also the paper's preset (ten minutes or more a fit)
  scgim benchmark sciplex3 --methods gim gim_paper mean_shift control --out paper
"""


def add_benchmark(commands: Any, add_common: Callable[..., None], whole: Callable[[int], Any]) -> None:
    """Add `benchmark` and its experiments to the commands."""
    parser = commands.add_parser(
        "benchmark",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="an experiment of the paper, with baselines",
        description=_DESCRIPTION,
    )
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    synthetic = experiments.add_parser(
        "synthetic",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="scgim benchmark synthetic [--small] [--jobs N] [--out DIR] [...]",
        help="simulated systems with known truth",
        description=_SYNTHETIC,
        epilog=_SYNTHETIC_EPILOG,
    )
    add = synthetic.add_argument_group("what is run").add_argument
    add("--small", action="store_true", help="small systems and short fits: shows that it runs, not how well")
    names = ("designs", "paper", "features", "conditions", "cells")
    add("--experiments", nargs="+", choices=names, default=list(names), metavar="NAME", help="(default: all)")
    add("--mechanisms", nargs="+", choices=("linear", "mlp", "ziln"), default=["linear", "mlp"], metavar="NAME",
        help="linear, mlp, ziln (default: linear mlp)")  # fmt: skip
    add("--graphs", nargs="+", choices=("er", "sf"), default=["er", "sf"], metavar="NAME",
        help="er, sf (default: both)")  # fmt: skip
    add("--interventions", nargs="+", choices=("hard", "shift"), default=["hard", "shift"], metavar="NAME",
        help="hard, shift (default: both)")  # fmt: skip
    add("--methods", nargs="+", metavar="NAME",
        help="methods of the designs (default: gim mean_shift ridge next_lower_dose control)")  # fmt: skip
    add("--seeds", type=seeds, metavar="A:B", help="systems of the designs (default: 400:405; --small: 400)")
    add("--sweep-seeds", type=seeds, metavar="A:B", help="of the others (default: 400:403; --small: 400)")
    add("--tune", type=whole(0), default=0, metavar="N",
        help="choose hyper-parameters first, N trials for every method (default: 0, keep the defaults)")  # fmt: skip
    add("--tune-seeds", type=seeds, default="500:501", metavar="A:B", help="systems for that (default: 500:501)")
    _add_run(synthetic, add_common, whole, Path("benchmark-synthetic"))
    _add_sciplex3(experiments, add_common, whole)


def _add_sciplex3(experiments: Any, add_common: Callable[..., None], whole: Callable[[int], Any]) -> None:
    parser = experiments.add_parser(
        "sciplex3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="scgim benchmark sciplex3 [--data FILE] [--small] [--jobs N] [--out DIR] [...]",
        help="HDAC inhibitors, the highest dose held out",
        description=_SCIPLEX3,
        epilog=_SCIPLEX3_EPILOG,
    )
    add = parser.add_argument_group("what is run").add_argument
    add("--data", type=Path, metavar="FILE", help="h5ad in scPerturb's format (default: download it)")
    add("--small", action="store_true", help="few genes and steps, one seed: shows that it runs, not how well")
    add("--cell-lines", nargs="+", default=["A549", "K562", "MCF7"], metavar="NAME", help="(default: A549 K562 MCF7)")
    add("--drugs", nargs="+", default=["Belinostat", "Dacinostat", "Givinostat", "Quisinostat"], metavar="NAME",
        help="(default: Belinostat Dacinostat Givinostat Quisinostat)")  # fmt: skip
    add("--dose", type=float, default=10_000.0, metavar="NM", help="held out of each drug, nM (default: 10000)")
    add("--n-genes", type=whole(2), default=50, metavar="N", help="marker genes (default: 50)")
    add("--methods", nargs="+", metavar="NAME",
        help="(default: gim mean_shift ridge condot next_lower_dose control); gim_paper: paper's preset")  # fmt: skip
    add("--encodings", nargs="+", metavar="NAME", default=["auto", "potency"],
        help="how features describe a dose: auto (the paper's nine), potency, rescaled, onehot, hill; "
        "several are compared (default: auto potency)")  # fmt: skip
    add("--seeds", type=seeds, metavar="A:B", help="(default: 0:3; --small: 0)")
    add("--slow-seeds", type=seeds, metavar="A:B", help="of condot and gim_paper (default: the first seed)")
    add("--tune", type=whole(0), default=0, metavar="N",
        help="choose hyper-parameters first, N trials for every method (default: 0, keep the defaults)")  # fmt: skip
    _add_run(parser, add_common, whole, Path("benchmark-sciplex3"))


def _add_run(parser: Any, add_common: Callable[..., None], whole: Callable[[int], Any], out: Path) -> None:
    add = parser.add_argument_group("how").add_argument
    add("--out", type=Path, default=out, metavar="DIR", help=f"folder (default: {out})")
    add("--jobs", type=whole(1), default=1, metavar="N", help="fits at a time, one thread each (default: 1)")
    add("--time-limit", type=float, metavar="S", help="seconds for one fit; a longer one is recorded as failed")
    add("--retry-failed", action="store_true", help="run again what failed before")
    add("--report", action="store_true", help="fit nothing: write the page from what is finished")
    add_common(parser, device=None, seed=False, threads=False)


def seeds(text: str) -> list[int]:
    """`3`, `3,5` or `3:6` (the end is left out).

    Examples
    --------
    >>> from scgim._benchmark_arguments import seeds
    >>> seeds("400:403"), seeds("1,7")
    ([400, 401, 402], [1, 7])
    """
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            found = list(range(first, last))
        else:
            found = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 400:405 or a list such as 1,7") from None
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seed, or a negative one")
    return found
