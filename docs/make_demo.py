"""Run the demo for several seeds, and renew docs/results/demo.md and the pictures of the README.

    python docs/make_demo.py --threads 1

All data are SIMULATED. Takes a minute or two per seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import subprocess
import tempfile
from pathlib import Path

import make_hero
import pandas as pd
import torch

from scgim.demo import BASELINES, ZILN, run_demo
from scgim.metrics import METRICS

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    printed, evaluations = {}, []
    with tempfile.TemporaryDirectory() as name:
        for seed in args.seeds:
            folder = Path(name) / str(seed)
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                demo = run_demo(folder, seed=seed, progress=False)
            # the last line says where the files went
            printed[seed] = "\n".join(text.getvalue().strip().splitlines()[:-1]).rstrip()
            evaluations.append(demo.evaluation.assign(seed=seed))
            print(printed[seed], flush=True)
        make_hero.draw_both(Path(name) / str(args.seeds[0]), HERE)
    (HERE / "results" / "demo.md").write_text(page(printed, pd.concat(evaluations), args.threads))


def page(printed: dict[int, str], evaluation: pd.DataFrame, threads: int) -> str:
    blocks = [f"## Seed {seed}\n\n```text\n{text}\n```" for seed, text in printed.items()]
    return "\n\n".join([_HEAD.format(**about(threads)), wins(evaluation), *blocks]) + "\n"


_HEAD = """\
# Demo: SciPlex3's design, simulated, one dose held out

- Command: `python docs/make_demo.py --threads {threads}`; each table is what `scgim demo --seed N` prints
- Data: **simulated** (`scgim.datasets.simulated_sciplex3`): no real cell is in these numbers
- Machine: {threads} thread(s) of {machine}; Python {python}, torch {torch}; commit {commit}

In how many seeds each fit predicts the held-out dose better than each baseline does:"""


def about(threads: int) -> dict[str, object]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "../src")
    return {
        "threads": threads,
        "machine": f"{platform.machine()}, shared with other work",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes in src" if changed else ""),
    }


def wins(evaluation: pd.DataFrame) -> str:
    """How often each fit is better, as a Markdown table: fits and baselines x metrics."""
    wide = evaluation.pivot(index=["metric", "seed"], columns="method", values="value")
    metrics = evaluation["metric"].drop_duplicates().tolist()
    rows = ["| fit | against | " + " | ".join(metrics) + " |", "| --- | --- |" + " --- |" * len(metrics)]
    for method, baselines in (("gim", (ZILN, *BASELINES)), (ZILN, BASELINES)):
        for baseline in baselines:
            cells = []
            for metric in metrics:
                pair = wide.loc[metric]
                gain = pair[baseline] - pair[method]
                better = (gain < 0) if METRICS[metric].better == "higher" else (gain > 0)
                cells.append(f"{int(better.sum())} of {len(pair)}")
            rows.append(f"| {method} | {baseline} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
