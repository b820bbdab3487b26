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
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgim._errors import InvalidValue, ScgimError
from scgim._logging import logger

from ._options import arguments_of, build_parser, fit_arguments
from ._shell import held_out, in_shell, spellings

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
    >>> main(["--version"])  # doctest: +ELLIPSIS
    scgim ...
    0
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv:
        build_parser(["--help"]).print_help(sys.stderr)
        return 2
    name, debug = f"scgim {argv[0]}", "--debug" in argv
    refusals: tuple[type[Exception], ...] = (ScgimError, OSError)
    args = argparse.Namespace(argv=argv, command="", parser=argparse.ArgumentParser())
    root, ours = logging.getLogger(), logging.getLogger("scgim")
    before = root.handlers[:], root.level, ours.level
    try:
        _limit_threads(argv)
        build_parser(argv).parse_args(argv, args)
        _set_up(args)
        _RUN[args.command](args)
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
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
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

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handler.addFilter(translate)
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    level = logging.WARNING if args.quiet else logging.DEBUG if args.debug else logging.INFO
    logging.getLogger("scgim").setLevel(level)


def _in_shell(text: str, args: argparse.Namespace) -> str:
    """A message in the words of the command's options; a file that `scgim fit` wrote may need another fit."""
    options = _fit_spellings() if args.command in ("fit", "sample") else {}
    doses = any(word.startswith(("--dose-key", "dose_key=", "dose-key=")) for word in args.argv)
    return in_shell(text, {**options, **spellings(args.parser)}, doses=doses)


@cache
def _fit_spellings() -> dict[str, str]:
    return spellings(build_parser(["fit"]).parse_args(["fit", "-", "--out", "-"]).parser)


def _sentence(error: BaseException) -> str:
    """The message on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}."
    return " ".join(text.split()) or type(error).__name__


def _demo(args: argparse.Namespace) -> None:
    from scgim.demo import run_demo

    given = {name: getattr(args, name) for name in ("seed", "steps", "quick", "device")}
    run_demo(args.out, progress=_show_progress(args), **given)


def _fit(args: argparse.Namespace) -> None:
    preparation, settings = _given(args)
    _check_files(args)
    logger.info("reading %s", args.h5ad)
    adata = _read(args.h5ad)
    from scgim import pp, tl
    from scgim._validation import plural
    from scgim.slots.keys import Keys

    logger.info("preparing %s x %s", plural(adata.n_obs, "cell"), plural(adata.n_vars, "gene"))
    pp.prepare(adata, rng=args.seed, progress=_show_progress(args), **preparation)
    shared = {name: preparation[name] for name in ("groupby", "key_added") if name in preparation}
    tl.fit_gim(adata, rng=args.seed, progress=_show_progress(args), **shared, **settings)
    _write(adata, args.out)
    print(f"wrote the fit to {args.out}")
    # After Ctrl-C the file holds the best state until then.
    key = preparation.get("key_added", "gim")
    for group in adata.uns[key].get("groups", [None]):
        if str(adata.uns[Keys(key, group).uns]["params"]["fit"]["stopped"]) == "interrupted":
            raise KeyboardInterrupt


def _given(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `pp.prepare` and of `tl.fit_gim`, from options and --set, checked as far as no data are needed."""
    from scgim.pp._prepare import check_settings as check_prepare
    from scgim.tl._settings import check_settings as check_fit

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
        given["hold_out"] = held_out(args.hold_out, has_dose=has_dose)
    for_prepare = {name: value for name, value in given.items() if name in prepare}
    for_fit = {name: value for name, value in given.items() if name not in prepare}
    check_prepare({name: argument.default for name, argument in prepare.items()} | for_prepare)
    check_fit(**for_fit)
    return for_prepare, for_fit


def _sample(args: argparse.Namespace) -> None:
    _check_files(args)
    adata = _read(args.h5ad)
    from scgim import tl
    from scgim._validation import plural

    given = {name: getattr(args, name) for name in ("perturbations", "n", "key", "group")}
    cells = tl.sample_cells(adata, rng=args.seed, **given)
    _write(cells, args.out)
    print(f"wrote {plural(cells.n_obs, 'cell')} x {plural(cells.n_vars, 'gene')} to {args.out}")


def _benchmark(args: argparse.Namespace) -> None:
    from scgim import benchmark as bm

    given, synthetic = vars(args), args.experiment == "synthetic"
    if "small" in given:
        given = {key: [400 if synthetic else 0] for key in ("seeds", "sweep_seeds")} | given
    if "seeds" in given:
        given = {"slow_seeds": given["seeds"][:1]} | given

    def of(function: Any) -> dict[str, Any]:
        return {name: given[name] for name in arguments_of(function) if name in given}

    if args.out.is_file():
        raise InvalidValue(f"--out {args.out} is a file; give a folder.")
    experiment: Any
    if synthetic:
        experiment = bm.SyntheticExperiment(**of(bm.SyntheticExperiment))
    else:
        extracts = bm.extract(args.path, args.out / "data", **of(bm.extract))
        experiment = bm.SciPlex3Experiment(extracts, **of(bm.SciPlex3Experiment))
    command = shlex.join(["scgim", *_without_place(args.argv)])
    how = {"progress": _show_progress(args), "command": command, **of(bm.run_experiment)}
    report = bm.run_experiment(experiment, args.out, **how)
    print(report.read_text())
    print(f"wrote {report.name}, results.csv, summary.csv and settings.json to {args.out}")


def _without_place(argv: Sequence[str]) -> list[str]:
    """The arguments without `--out`, and of `--data` the name alone: a page must not name a place on one machine."""
    joined = re.sub(r"(?m)^--(?:out[=\n].*|report)\n?", "", "\n".join(argv))
    return re.sub(r"(?m)^(--data[=\n]).*/", r"\1", joined).strip("\n").split("\n")


def _show_progress(args: argparse.Namespace) -> bool:
    return not args.quiet and sys.stderr.isatty()  # a bar is noise in the log of a cluster job


def _read(path: Path) -> AnnData:
    from anndata import read_h5ad

    try:
        return read_h5ad(path)
    except Exception as error:  # whatever h5py and anndata make of a file of another kind
        raise InvalidValue(f"{path} cannot be read as h5ad: {_sentence(error)}") from error


def _check_files(args: argparse.Namespace) -> None:
    """Everything that could go wrong with input and output, before any work."""
    out: Path = args.out
    for wrong, message in (
        (not args.h5ad.is_file(), f"there is no file {args.h5ad}."),
        (out.suffix != ".h5ad", f"--out {out}: the name must end in .h5ad."),
        (out.exists() and not args.force, f"{out} exists; pass --force to overwrite it."),
        (not out.parent.is_dir(), f"--out {out}: there is no folder {out.parent}."),
        (not os.access(out.parent, os.W_OK), f"--out {out}: the folder {out.parent} cannot be written to."),
    ):
        if wrong:
            raise InvalidValue(message)


def _write(adata: AnnData, out: Path) -> None:
    """Write to a second file and rename it, so that an interruption leaves no half of a file."""
    logger.info("writing %s", out)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.part.h5ad")
    try:
        adata.write_h5ad(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


_RUN = {"demo": _demo, "fit": _fit, "sample": _sample, "benchmark": _benchmark}
