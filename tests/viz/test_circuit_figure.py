"""The bar code of circuits shows each node where it is active and where it is kept."""

import numpy
import pytest
import tiny
from matplotlib.colors import to_rgba

import sae_lens_ext as sle
from sae_lens_ext.viz import plot_circuit_by_k
from sae_lens_ext.viz.theme import PALETTES

KS = [1, 2, 4, 8]
SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def effects():
    saes = {site: tiny.sae(seed=seed) for seed, site in enumerate(SITES)}
    return sle.circuits.effects(
        tiny.hf_model("gpt2"),
        saes,
        tiny.tokens(1, 4),
        metric=sle.circuits.logit_difference(7, 9),
    )


@pytest.fixture(scope="module")
def by_k(effects):
    return sle.circuits.circuit_by_k(effects, KS, budget=12)


def cells_of(axes):
    (image,) = axes.images
    return numpy.asarray(image.get_array())


def names_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_cells_say_where_a_node_is_and_where_a_circuit_has_it(effects, by_k):
    figure = plot_circuit_by_k(by_k, n_nodes=1000)
    palette = PALETTES["light"]
    n_cells = 0
    for axes, site in zip(figure.axes, SITES, strict=True):
        assert axes.get_title("left") == site
        cells = cells_of(axes)
        assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == [
            "1",
            "2",
            "4",
            "8",
        ]
        for row, name in enumerate(names_of(axes)):
            feature, position = name.split(" @ ")
            feature = -1 if feature == "error" else int(feature)
            node = (site, int(position), feature)
            for column, k in enumerate(KS):
                active = effects.at(k).set_index(["site", "position", "feature"])
                kept = by_k.circuits[k].nodes.set_index(active.index.names)["score"]
                colour = palette.paper
                if node in active.index:
                    colour = palette.line
                if node in kept.index:
                    effect = active["effect"][node]
                    colour = palette.positive if effect >= 0 else palette.negative
                assert tuple(cells[row, column]) == to_rgba(colour), (node, k)
                n_cells += 1
    assert n_cells == len(KS) * len(by_k.table())


def test_nodes_of_a_site_are_sorted_by_birth(by_k):
    births = by_k.table().set_index(["site", "position", "feature"])["rank"]
    for axes, site in zip(plot_circuit_by_k(by_k).axes, SITES, strict=True):
        ranks = []
        for name in names_of(axes):
            feature, position = name.split(" @ ")
            number = -1 if feature == "error" else int(feature)
            ranks.append(births[(site, int(position), number)])
        assert ranks == sorted(ranks)


def test_few_nodes_are_those_of_the_largest_scores(by_k):
    figure = plot_circuit_by_k(by_k, n_nodes=3)
    n_all = len(by_k.table())
    assert figure.get_suptitle() == f"Circuits at every k: 3 of {n_all} nodes"
    drawn = {
        (axes.get_title("left"), name)
        for axes in figure.axes
        for name in names_of(axes)
    }
    nodes = [circuit.nodes for circuit in by_k.circuits.values()]
    sizes = {}
    for node in (node for table in nodes for node in table.itertuples()):
        name = "error" if node.feature == -1 else node.feature
        key = (node.site, f"{name} @ {node.position}")
        sizes[key] = max(sizes.get(key, 0), abs(node.score))
    assert drawn == set(sorted(sizes, key=sizes.get)[-3:])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_labels_are_text_beside_their_features(by_k, theme, tmp_path):
    node = by_k.table().query("feature >= 0").iloc[0]
    labels = {node.site: {int(node.feature): "costs $5 and $6"}}
    figure = plot_circuit_by_k(by_k, labels=labels, theme=theme, n_nodes=1000)
    texts = [name for axes in figure.axes for name in names_of(axes)]
    assert f"{node.feature} costs $5 and $6 @ {node.position}" in texts
    # Dollars of a label are not mathematics, which would raise here.
    figure.savefig(tmp_path / "circuit.png")
    assert figure.get_facecolor() == to_rgba(PALETTES[theme].paper)


@pytest.mark.parametrize("align", ["all", {"first": 0, "last": -1}])
def test_positions_of_every_alignment_have_names(effects, align):
    by_k = sle.circuits.circuit_by_k(
        effects, [2, 8], budget=6, align=align, errors="all"
    )
    names = [name for axes in plot_circuit_by_k(by_k).axes for name in names_of(axes)]
    assert names.count("error") == 2
    suffixes = {name.split(" @ ")[1] for name in names if "@" in name}
    assert suffixes == (set() if align == "all" else set(align) & suffixes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by_k": "circuits"}, "draws what circuits.circuit_by_k returns"),
        ({"n_nodes": 0}, "n_nodes must be"),
        ({"theme": "sepia"}, "theme must be one of light, dark"),
        ({"labels": {17: "x"}}, "with several sites, labels must say where"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_arguments(by_k, changes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        plot_circuit_by_k(**{"by_k": by_k, **changes})
