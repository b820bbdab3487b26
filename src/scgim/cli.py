"""The command line: `scgim demo`, `scgim fit`, `scgim sample`, `scgim benchmark`.

Exit codes: 0 done, 1 unexpected error, 2 bad usage or bad input (one sentence on standard error), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import dis
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgim._arguments import InputError, build_parser, perturbation
from scgim._keys import Keys
from scgim._logging import logger
from scgim._shell import ShellFormatter, in_shell, spellings

if TYPE_CHECKING:
    from anndata import AnnData


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
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    try:
        args = parser.parse_args(argv)
        args.argv = list(argv)
    except SystemExit as stop:  # argparse has printed the help, or what is wrong
        return int(stop.code or 0)
    name = f"scgim {args.command}"
    try:
        _set_up(args)
        _COMMANDS[args.command](args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `scgim ... | head`: nobody reads on, and Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        if is_bad_input(error):
            print(f"{name}: error: {in_shell(_sentence(error), _options(args))}", file=sys.stderr)
            return 2
        print(f"{name}: unexpected error: {type(error).__name__}: {_sentence(error)}", file=sys.stderr)
        if not args.debug:
            print(f"{name}: run it again with --debug to see where", file=sys.stderr)
        return 1
    return 0


def is_bad_input(error: BaseException) -> bool:
    """Whether an error is a refusal that scgim wrote for the user, not a fault inside it or elsewhere.

    A refusal is what a `raise` statement in a file of scgim raised; a fault is what came out of an expression
    (a failed lookup, a wrong call) or from another library.
    """
    if isinstance(error, InputError):
        return True
    if not isinstance(error, ValueError | TypeError | KeyError | ImportError) or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    by_raise = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return by_raise and Path(code.co_filename).is_relative_to(Path(__file__).parent)


def _demo(args: argparse.Namespace) -> None:
    from scgim.demo import run_demo

    run_demo(
        args.out,
        seed=args.seed,
        steps=args.steps,
        quick=args.quick,
        device=args.device,
        progress=_show_progress(args),
    )


def _fit(args: argparse.Namespace) -> None:
    from scgim._settings import gather

    preparation, settings = gather(args)
    _check_files(args)
    logger.info("reading %s", args.h5ad)
    adata = _read(args.h5ad)
    from scgim import pp, tl
    from scgim._validation import plural

    logger.info("preparing %s x %s", plural(adata.n_obs, "cell"), plural(adata.n_vars, "gene"))
    pp.prepare(adata, **preparation)
    shared = {name: preparation[name] for name in ("groupby", "key_added") if name in preparation}
    tl.fit_gim(adata, progress=_show_progress(args), **shared, **settings)
    _write(adata, args.out)
    print(f"wrote the fit to {args.out}")
    # After Ctrl-C the file holds the best state until then.
    if "interrupted" in _endings(adata, preparation.get("key_added", "gim")):
        raise KeyboardInterrupt


def _sample(args: argparse.Namespace) -> None:
    perturbations = [perturbation(text) for text in args.perturbation]
    _check_files(args)
    adata = _read(args.h5ad)
    from scgim import tl
    from scgim._validation import plural

    cells = tl.sample_cells(
        adata,
        perturbations=perturbations,
        n=args.n,
        rng=args.seed,
        key=args.key,
        group=args.group,
    )
    _write(cells, args.out)
    print(f"wrote {plural(cells.n_obs, 'cell')} x {plural(cells.n_vars, 'gene')} to {args.out}")


def _endings(adata: AnnData, key: str) -> set[str]:
    """Why the fits under `key` ended."""
    groups = adata.uns[key].get("groups", [None])
    return {str(adata.uns[Keys(key, group).uns]["params"]["fit"]["stopped"]) for group in groups}


def _benchmark(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is a file; give a folder.")
    page = {"synthetic": _synthetic, "sciplex3": _sciplex3}[args.experiment](args)
    print(page.read_text())
    print(f"wrote {page.name}, results.csv, summary.csv and settings.json to {args.out}")


def _sciplex3(args: argparse.Namespace) -> Path:
    from scgim.benchmark import SciPlex3Experiment, extract, run_sciplex3

    if args.data is not None and not args.data.is_file():
        raise InputError(f"--data {args.data}: there is no such file.")
    chosen = args.seeds or ([0] if args.small else [0, 1, 2])
    experiment = SciPlex3Experiment(
        extract(args.data, args.out / "data", cell_lines=args.cell_lines, drugs=args.drugs),
        drugs=args.drugs,
        dose=args.dose,
        encodings=args.encodings,
        seeds=chosen,
        slow_seeds=args.slow_seeds or chosen[:1],
        n_genes=args.n_genes,
        small=args.small,
        **({} if args.methods is None else {"methods": args.methods}),
    )
    return run_sciplex3(experiment, args.out, tune_trials=args.tune, **_how(args))


def _how(args: argparse.Namespace) -> dict[str, Any]:
    """What all experiments take."""
    return {
        "jobs": args.jobs,
        "time_limit": args.time_limit,
        "retry_failed": args.retry_failed,
        "report_only": args.report,
        "progress": _show_progress(args),
        "command": shlex.join(["scgim", *_without_place(args.argv)]),
    }


def _synthetic(args: argparse.Namespace) -> Path:
    from scgim.benchmark import SyntheticExperiment, run_synthetic

    chosen = {} if args.methods is None else {"methods": args.methods}
    experiment = SyntheticExperiment(
        experiments=args.experiments,
        mechanisms=args.mechanisms,
        graphs=args.graphs,
        interventions=args.interventions,
        seeds=args.seeds or ([400] if args.small else list(range(400, 405))),
        sweep_seeds=args.sweep_seeds or ([400] if args.small else list(range(400, 403))),
        small=args.small,
        **chosen,
    )
    return run_synthetic(experiment, args.out, tune_trials=args.tune, tune_seeds=args.tune_seeds, **_how(args))


def _without_place(argv: Sequence[str]) -> list[str]:
    """The arguments without `--out`, and of `--data` the name alone: a page must not name a place on one machine."""
    kept: list[str] = []
    before = ""
    for word in argv:
        option, found, value = word.partition("=")
        if before == "--data" or option == "--data":
            kept.append(f"--data={Path(value).name}" if found and option == "--data" else Path(word).name)
        elif before != "--out" and option not in ("--out", "--report"):  # a report is of a run without it
            kept.append(word)
        before = word
    return kept


_COMMANDS = {"demo": _demo, "fit": _fit, "sample": _sample, "benchmark": _benchmark}


def _set_up(args: argparse.Namespace) -> None:
    """Threads (before torch and NumPy are imported), figures and messages."""
    if getattr(args, "threads", None) is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(args.threads)
        import torch

        torch.set_num_threads(args.threads)
    os.environ.setdefault("MPLBACKEND", "Agg")  # a cluster node has no display
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShellFormatter(_options(args)))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    level = logging.WARNING if args.quiet else logging.DEBUG if args.debug else logging.INFO
    logging.getLogger("scgim").setLevel(level)


def _options(args: argparse.Namespace) -> dict[str, str]:
    """Argument in Python -> option of the command; a file that `scgim fit` wrote may need another fit."""
    if args.command not in ("fit", "sample"):
        return spellings(args.parser)
    from scgim._settings import fit_defaults, prepare_defaults

    fit = build_parser().parse_args(["fit", "-", "--out", "-"]).parser
    return {**spellings(fit, {**prepare_defaults(), **fit_defaults()}), **spellings(args.parser)}


def _show_progress(args: argparse.Namespace) -> bool:
    return not args.quiet and sys.stderr.isatty()  # a bar is noise in the log of a cluster job


def _read(path: Path) -> AnnData:
    from anndata import read_h5ad

    try:
        return read_h5ad(path)
    except Exception as error:  # whatever h5py and anndata make of a file that is none of theirs
        raise InputError(f"{path} cannot be read as h5ad: {_sentence(error)}") from error


def _check_files(args: argparse.Namespace) -> None:
    """Everything that could go wrong with input and output, before any work."""
    if not args.h5ad.is_file():
        raise InputError(f"there is no file {args.h5ad}.")
    out: Path = args.out
    if out.suffix != ".h5ad":
        raise InputError(f"--out {out}: the name must end in .h5ad.")
    if out.exists() and not args.force:
        raise InputError(f"{out} exists; pass --force to overwrite it.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}.")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: the folder {out.parent} cannot be written to.")


def _write(adata: AnnData, out: Path) -> None:
    """Write beside the file and rename, so that an interruption leaves no half of a file."""
    logger.info("writing %s", out)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.part.h5ad")
    try:
        adata.write_h5ad(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _sentence(error: BaseException) -> str:
    """The message without the quotes that KeyError adds, on one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(str(text).split()) or type(error).__name__
