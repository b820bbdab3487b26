"""What counting noise does to the learned graph and targets: the demo's simulation at greater depths.

A parent acts through its expression, but only its count is seen. The deeper a cell is sequenced, the less the two
differ; all else, graph, targets, doses and numbers of cells, stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from recording import Note, fit_settings, make_parser, mean_and_spread, use_threads

FACTORS = (1.0, 10.0, 100.0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, data=False)
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), help="multiples of the depth")
    parser.add_argument("--n-genes", type=int, default=50)
    args = parser.parse_args(argv)
    import scgim
    from scgim.demo import DOSE, DRUG, compare_with_truth

    use_threads(args.threads)
    note = Note(
        "Counting noise: graph and targets of the demo at greater depths (simulated)",
        data="**simulated** (`scgim.datasets.simulated_sciplex3`): no real cell is in these numbers",
        argv=argv,
        script="counting_noise.py",
        seeds=args.seeds,
    )
    frames = []
    for factor in args.factors:
        for seed in args.seeds:
            adata = scgim.datasets.simulated_sciplex3(depth_factor=factor, rng=seed)
            scgim.pp.prepare(
                adata, dose_key="dose_value", dose_unit_key="dose_unit", hold_out={DRUG: DOSE}, features="potency",
                n_genes=args.n_genes, rng=seed,
            )  # fmt: skip
            scgim.tl.fit_gim(adata, rng=seed, **fit_settings(args))
            values = adata[:, adata.var["gim"].to_numpy(dtype=bool)].X
            zeros = 1 - values.nnz / (values.shape[0] * values.shape[1])
            frames.append(compare_with_truth(adata).assign(factor=factor, seed=seed, zeros=zeros))
    table = pd.concat(frames, ignore_index=True)
    rows = []
    for factor, part in table.groupby("factor", sort=False):
        row = {"depth": f"x {factor:g}", "zeros": mean_and_spread(part.groupby("seed")["zeros"].first())}
        for what, own in part.groupby("what", sort=False):
            row[f"{what}: F1"] = mean_and_spread(own["f1"])
            row[f"{what}: learned of true"] = f"{own['learned'].mean():.0f} of {own['true'].mean():.0f}"
        rows.append(row)
    note.table("Learned against true structure, among the modelled genes", pd.DataFrame(rows))
    note.write(args.out, "counting_noise", table)


if __name__ == "__main__":
    main()
