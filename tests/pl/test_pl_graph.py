"""The picture of the graph."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pytest
import small_fits
from example_fit import HELD_OUT, LONG_GENES, gene_names, make_fit
from figure_checks import assert_legible, assert_same_adata, drawn_texts
from matplotlib.colors import to_rgb
from matplotlib.patches import ArrowStyle, FancyArrowPatch, FancyBboxPatch
from small_fits import edit_graph

import scgim
from scgim.pl._layout import arrange, assign_layers, crossings, order_columns, place, with_trunks
from scgim.pl._style import luminance, palette
from scgim.tl._stored import load

pytestmark = pytest.mark.usefixtures("quick_fits")


@pytest.fixture(scope="module")
def picture(fitted):
    """Axes with the whole graph; only looked at."""
    return scgim.pl.graph(fitted)


def arrows(ax) -> dict[tuple[str, str], FancyArrowPatch]:
    found = [patch for patch in ax.patches if str(patch.get_gid()).startswith("edge:")]
    assert all(isinstance(patch, FancyArrowPatch) for patch in found)
    return {tuple(patch.get_gid().removeprefix("edge:").split("->")): patch for patch in found}


def signs(adata) -> dict[tuple[str, str], float]:
    """Sign of the slope of each edge's effect along its cause, in the fitted model."""
    model = load(adata)
    slopes, genes = model.fitted.slopes(), model.entry.genes
    return {(genes[i], genes[j]): np.sign(slopes[i, j]) for i, j in np.argwhere(model.fitted.graph)}


def boxes(ax) -> dict[str, FancyBboxPatch]:
    found = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    return {patch.get_gid().removeprefix("gene:"): patch for patch in found}


def test_every_edge_is_one_arrow_and_every_gene_one_box(fitted, picture):
    dag = scgim.get.graph(fitted)
    assert sum(str(patch.get_gid()).startswith("edge:") for patch in picture.patches) == dag.number_of_edges()
    assert set(arrows(picture)) == set(dag.edges)
    assert set(boxes(picture)) == set(dag)
    names = [text for text, _ in drawn_texts(picture.figure)]
    assert all(names.count(gene) == 1 for gene in dag)


def test_every_arrow_points_to_the_right_and_ends_at_its_target(fitted, picture):
    place, raises = boxes(picture), signs(fitted)
    for (u, v), arrow in arrows(picture).items():
        points = arrow._path_original.vertices
        source, target = place[u].get_bbox(), place[v].get_bbox()
        assert source.x1 < target.x0
        assert points[0, 0] == pytest.approx(source.x1)
        assert points[-1, 0] == pytest.approx(target.x0, abs=1e-6 if raises[u, v] > 0 else 3)  # a bar stands before it
        assert target.y0 < points[-1, 1] < target.y1
        assert (np.diff(points[:, 0]) >= 0).all()


def test_boxes_are_apart_and_no_arrow_crosses_a_box(picture):
    place = {gene: box.get_bbox() for gene, box in boxes(picture).items()}
    for (a, box_a), (b, box_b) in combinations(place.items(), 2):
        apart = box_a.x1 < box_b.x0 or box_b.x1 < box_a.x0 or box_a.y1 < box_b.y0 or box_b.y1 < box_a.y0
        assert apart, (a, b)
    for (u, v), arrow in arrows(picture).items():
        curve = arrow_points(arrow)
        for gene, box in place.items():
            if gene not in (u, v):
                inside = (curve > [box.x0, box.y0]).all(axis=1) & (curve < [box.x1, box.y1]).all(axis=1)
                assert not inside.any(), (u, v, gene)


def arrow_points(arrow) -> np.ndarray:
    """Points along an arrow, (points, 2)."""
    t = np.linspace(0, 1, 30)
    return np.vstack([curve(t) for curve, code in arrow._path_original.iter_bezier() if code == 4])


def test_names_fit_into_their_boxes(picture):
    place = {gene: box.get_window_extent() for gene, box in boxes(picture).items()}
    for text, extent in drawn_texts(picture.figure):
        if text in place:
            assert place[text].x0 <= extent.x0 and extent.x1 <= place[text].x1
            assert place[text].y0 - 1 <= extent.y0 and extent.y1 <= place[text].y1 + 1


def test_the_more_probable_the_wider(fitted, picture):
    dag = scgim.get.graph(fitted)
    by_probability = sorted(arrows(picture).items(), key=lambda item: dag.edges[item[0]]["probability"])
    widths = [arrow.get_linewidth() for _, arrow in by_probability]
    assert widths == sorted(widths)
    assert widths[-1] > 1.5 * widths[0]
    raises = signs(fitted)
    for sign in (-1, 1):
        shades = [luminance(arrow.get_edgecolor()[:3]) for edge, arrow in by_probability if raises[edge] == sign]
        assert len(shades) > 5
        assert shades == sorted(shades, reverse=True)


def test_colour_and_head_tell_the_sign(fitted, picture):
    raises = signs(fitted)
    assert set(raises.values()) == {-1, 1}
    for edge, arrow in arrows(picture).items():
        red, _, blue, _ = arrow.get_edgecolor()
        assert (red > blue) == (raises[edge] > 0)
        assert isinstance(arrow.get_arrowstyle(), ArrowStyle.CurveFilledB if raises[edge] > 0 else ArrowStyle.BracketB)


@pytest.mark.parametrize("kind", ["continuous", "log1p"])
def test_a_cause_that_is_raised_moves_its_effect_by_the_sign(kind):
    adata = small_fits.fitted(kind)
    edit_graph(adata, [("g0", "g1"), ("g1", "g2")])
    for (cause, effect), sign in signs(adata).items():
        held = [scgim.tl.intervene(adata, interventions={cause: value}, n=2000, rng=0) for value in (0.5, 1.5)]
        low, high = (np.asarray(cells[:, effect].X).mean() for cells in held)
        assert np.sign(high - low) == sign


def test_legend_has_the_colours_of_the_edges(picture):
    strongest = [arrow.get_edgecolor() for arrow in picture.patches if arrow.get_gid() == "legend"]
    widest = max(arrows(picture).values(), key=lambda arrow: arrow.get_linewidth()).get_edgecolor()
    assert np.abs(np.array(strongest) - widest).max(axis=1).min() < 0.01
    assert {"raises", "lowers"} <= {text.get_text() for text in picture.texts}


@pytest.mark.parametrize("isolated", [True, False])
def test_no_edge_is_said_and_no_wall_of_boxes_drawn(isolated):
    adata, _ = make_fit(genes=gene_names(12), edges=0, cells=2, control_cells=2)
    ax = scgim.pl.graph(adata, isolated=isolated)
    assert [text.get_text() for text in ax.texts] == ["No edge found among 12 genes"]
    assert boxes(ax) == {}
    assert_legible(ax.figure)
    called = scgim.get.targets(adata, conditions=HELD_OUT, called_only=True)["gene"]
    assert set(boxes(scgim.pl.graph(adata, condition=HELD_OUT))) == set(called)


def test_symbols_label_the_genes(fitted, tmp_path):
    adata = fitted.copy()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    adata.var.loc["LDLR", "symbol"] = None
    ax = scgim.pl.graph(adata, gene_symbols="symbol", save=tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 10_000
    names = {text.get_text() for text in ax.texts}
    assert {"S0", "LDLR"} <= names
    assert "CDKN1A" not in names
    assert set(boxes(ax)) == set(scgim.get.graph(adata))  # the names stay
    with pytest.raises(KeyError, match="gene_symbols: adata"):
        scgim.pl.graph(adata, gene_symbols="symbols")


def test_threshold_and_isolated_genes(fitted):
    cut = fitted.uns["gim"]["graph"]["probability"].median()
    ax = scgim.pl.graph(fitted, threshold=cut, isolated=False)
    dag = scgim.get.graph(fitted, threshold=cut)
    alone = [gene for gene in dag if dag.degree(gene) == 0]
    assert set(arrows(ax)) == set(dag.edges)
    assert set(boxes(ax)) == set(dag) - set(alone)
    assert f"{len(alone)} genes without edges not shown" in [text for text, _ in drawn_texts(ax.figure)]


def test_a_condition_colours_its_targets_and_their_edges(fitted):
    ax = scgim.pl.graph(fitted, condition=HELD_OUT)
    rows = scgim.get.targets(fitted, conditions=HELD_OUT).set_index("gene")
    shades = {gene: box.get_facecolor() for gene, box in boxes(ax).items()}
    for direction in (-1, 1):
        order = rows.loc[rows["direction"] == direction, "probability"].sort_values().index
        dark = [-luminance(shades[gene][:3]) for gene in order]
        assert dark == sorted(dark)
        red, _, blue, _ = shades[order[-1]]
        assert (red > blue) == (direction > 0)
    called = set(rows.index[rows["is_target"]])
    assert called
    red = {edge for edge, arrow in arrows(ax).items() if np.ptp(arrow.get_edgecolor()[:3]) > 0.1}
    assert red == {(u, v) for u, v in scgim.get.graph(fitted).edges if u in called}
    assert ax.get_title() == "Dacinostat, 10,000 nM"


def test_the_control_has_no_targets(fitted):
    ax = scgim.pl.graph(fitted, condition="control")
    paper = to_rgb(palette(ax).paper)
    assert {box.get_facecolor()[:3] for box in boxes(ax).values()} == {paper}


def test_layers_are_as_many_as_generations_and_as_short_as_can_be(fitted):
    dag = scgim.get.graph(fitted)
    dag.remove_nodes_from([v for v in list(dag) if dag.degree(v) == 0])
    layer = assign_layers(dag)
    generation = {v: k for k, row in enumerate(nx.topological_generations(dag)) for v in row}
    assert set(layer.values()) == set(generation.values())
    assert all(layer[u] < layer[v] for u, v in dag.edges)
    length = sum(layer[v] - layer[u] for u, v in dag.edges)
    assert length <= sum(generation[v] - generation[u] for u, v in dag.edges)


def test_planar_graphs_are_drawn_without_crossings():
    tree = nx.balanced_tree(2, 4, create_using=nx.DiGraph)
    ladder = nx.DiGraph([(f"a{i}", f"b{i}") for i in range(6)] + [(f"a{i}", f"b{i + 1}") for i in range(5)])
    for dag in (nx.relabel_nodes(tree, str), ladder):
        shuffled = nx.DiGraph()
        shuffled.add_nodes_from(np.random.default_rng(0).permutation(list(dag)).tolist())
        shuffled.add_edges_from(dag.edges)
        proper = with_trunks(shuffled, assign_layers(shuffled))
        assert crossings(proper, order_columns(proper)) == 0


def test_crossings_counts_pairs():
    dag = nx.DiGraph([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
    assert crossings(dag, [["a", "b"], ["x", "y"]]) == 1
    dag.remove_edge("a", "y")
    dag.remove_edge("b", "x")
    assert crossings(dag, [["a", "b"], ["x", "y"]]) == 0
    assert crossings(dag, [["a", "b"], ["y", "x"]]) == 1


def test_positions_of_the_user_are_kept_in_proportion():
    dag = nx.DiGraph([("a", "b"), ("b", "c")])
    dag.add_node("alone")
    wanted = {"a": (0, 0), "b": (1, 0), "c": (3, 0), "alone": (0, -2)}
    plan = place(dag, dict.fromkeys(dag, 20.0), 7.0, wanted)
    x = {v: box.x for v, box in plan.boxes.items()}
    assert (x["c"] - x["a"]) / (x["b"] - x["a"]) == pytest.approx(3)
    assert x["b"] - x["a"] > 20
    assert plan.routes["a", "b"][-1] == pytest.approx([x["b"] - 10, plan.boxes["b"].y])
    with pytest.raises(ValueError, match="'alone'"):
        place(dag, dict.fromkeys(dag, 20.0), 7.0, {v: wanted[v] for v in "abc"})
    with pytest.raises(ValueError, match="same position"):
        place(dag, dict.fromkeys(dag, 20.0), 7.0, wanted | {"a": (1, 0)})


def test_positions_of_the_user_are_drawn(fitted):
    genes = gene_names(50)
    grid = {gene: (i % 8, i // 8) for i, gene in enumerate(genes)}
    ax = scgim.pl.graph(fitted, layout=grid)
    assert set(boxes(ax)) == set(genes)
    assert len(arrows(ax)) == scgim.get.graph(fitted).number_of_edges()


def test_axes_of_the_user_hold_the_whole_graph(fitted):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    text = left.text(0, 0, "mine")
    assert scgim.pl.graph(fitted, condition=HELD_OUT, ax=left) is left
    scgim.pl.graph(fitted, ax=right)
    assert text in left.texts
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    for ax in (left, right):
        frame = ax.get_window_extent()
        for box in boxes(ax).values():
            extent = box.get_window_extent()
            assert frame.x0 - 1 <= extent.x0 and extent.x1 <= frame.x1 + 1
            assert frame.y0 - 1 <= extent.y0 and extent.y1 <= frame.y1 + 1


def test_nothing_is_written(fitted):
    before = fitted.copy()
    scgim.pl.graph(fitted, condition=HELD_OUT)
    assert_same_adata(fitted, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"condition": "Dacinostat_1"}, ValueError, "Unknown condition"),
        ({"layout": "circular"}, ValueError, "'layered'"),
        ({"threshold": -1}, ValueError, "between 0 and 1"),
        ({"layout": {"LDLR": (0, 0)}}, ValueError, "no position for 49 genes"),
        ({"key": "nothing"}, KeyError, "run scgim.tl.fit_gim"),
    ],
)
def test_errors_say_what_to_do(fitted, arguments, error, message):
    with pytest.raises(error, match=message):
        scgim.pl.graph(fitted, **arguments)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("style", "condition"), [("default", None), ("dark_background", HELD_OUT)])
def test_legible_with_fifty_genes(fitted, style, condition):
    with plt.style.context(style):
        assert_legible(scgim.pl.graph(fitted, condition=condition).figure)


@pytest.mark.parametrize(
    ("genes", "edges", "isolated"),
    [
        (gene_names(1), 0, True),
        (gene_names(1), 0, False),
        (gene_names(2), 1, True),
        (gene_names(12), 0, False),
        ([*LONG_GENES, *gene_names(15)], 25, False),
        (gene_names(100), 180, True),
    ],
)
def test_legible_at_other_sizes(genes, edges, isolated):
    adata, _ = make_fit(genes=genes, edges=edges, cells=2, control_cells=2, seed=1)
    ax = scgim.pl.graph(adata, condition=HELD_OUT, isolated=isolated)
    assert len(arrows(ax)) == len(adata.uns["gim"]["graph"])
    assert_legible(ax.figure)


def test_parts_are_stacked_without_overlap():
    dag = nx.DiGraph([(f"{part}{i}", f"{part}{i + 1}") for part in "abcdefgh" for i in range(3)])
    dag.add_nodes_from(["alone", "lonely"])
    plan = arrange(dag, dict.fromkeys(dag, 30.0), 7.0)
    assert set(plan.boxes) == set(dag)
    for u, v in combinations(dag, 2):
        a, b = plan.boxes[u], plan.boxes[v]
        assert abs(a.x - b.x) >= 30 or abs(a.y - b.y) >= (a.height + b.height) / 2, (u, v)
    assert plan.boxes["alone"].y < min(plan.boxes[v].y for v in dag if dag.degree(v))


_LAYOUT = """
import networkx as nx, numpy as np
from scgim.pl._layout import arrange
rng = np.random.default_rng(0)
dag = nx.DiGraph()
dag.add_nodes_from(f"g{i}" for i in range(30))
for i, j in rng.integers(0, 30, (60, 2)):
    if i < j:
        dag.add_edge(f"g{i}", f"g{j}")
print(arrange(dag, dict.fromkeys(dag, 30.0), 7.0).boxes)
"""


def test_the_layout_does_not_depend_on_the_process(capsys):
    """Nor on the seed of its hashes: here it is any."""
    exec(_LAYOUT)
    here = capsys.readouterr().out
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", _LAYOUT], env=environment, capture_output=True, text=True, check=True)
    assert here == there.stdout
    assert "g29" in here
