"""Which mechanism and intervention continuous cells choose, of the four families from which they were drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product

import pandas as pd
import torch
from recording import Note, make_parser

from scgim.benchmark import SyntheticTask
from scgim.inference import TrainingData, make_config
from scgim.inference.families import choose_family

MECHANISMS, INTERVENTIONS = ("linear", "mlp"), ("hard", "shift")
#: The paper's design, and a quarter of its cells.
SIZES = {"all cells": {}, "a quarter": {"n_control": 200, "cells_per_condition": 12}}


def choose(size: str, mechanism: str, intervention: str, seed: int) -> dict[str, object]:
    """One system, and what its training cells choose."""
    task = SyntheticTask(mechanism=mechanism, intervention=intervention, seed=seed, **SIZES[size])  # type: ignore[arg-type]
    data = TrainingData.of(task.load().train)
    start = time.process_time()
    found, evidence = choose_family(data, make_config("default"), MECHANISMS, INTERVENTIONS)
    return {
        "cells": size, "drawn": f"{mechanism}, {intervention}", "seed": seed, "n": len(data.x),
        "chosen": f"{found.mechanism}, {found.intervention}", **evidence, "CPU s": time.process_time() - start,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False, fit=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(720, 730)], help="four systems for each")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    note = Note(
        "Linear or not, hard or shift: what continuous cells choose (simulated)",
        data="**simulated**: systems of 20 genes, 40 perturbations (`scgim.simulate`)",
        argv=argv,
        script="families.py",
        seeds=args.seeds,
    )
    settings = product(SIZES, MECHANISMS, INTERVENTIONS, args.seeds)
    rows = pd.DataFrame([choose(*setting) for setting in settings])
    lines = []
    for (size, drawn), part in rows.groupby(["cells", "drawn"], sort=False):
        nats = {name: f"{part[name].min():.0f} to {part[name].max():.0f}" for name in rows.filter(like=" over ")}
        right = f"{int((part['chosen'] == drawn).sum())} of {len(part)}"
        seconds = f"{part['CPU s'].mean():.1f}"
        lines.append({"cells": size, "drawn from": drawn, "chosen rightly": right, **nats, "CPU s": seconds})
    note.table("Ten systems each; nats, smallest and largest", pd.DataFrame(lines))
    note.write(args.out, "families", rows)


if __name__ == "__main__":
    main()
