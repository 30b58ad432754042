"""Pictures of graphs: every node and edge is there, and texts stay texts."""

import re
from xml.etree import ElementTree

import graphs
import pytest

import sae_lens_ext as sle
from sae_lens_ext.viz import plot_graph, render_graph


def svg_of(page):
    (svg,) = re.findall(r"<svg.*</svg>", page, re.DOTALL)
    return ElementTree.fromstring(svg)


def texts_of(svg):
    return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def paths_of(svg, kind):
    paths = svg.iter("{http://www.w3.org/2000/svg}path")
    return [path for path in paths if kind in path.get("class").split()]


def test_the_page_has_every_node_and_edge():
    page = render_graph(graphs.graph())
    svg = svg_of(page)
    assert len(paths_of(svg, "node")) == 6
    assert len(paths_of(svg, "positive")) == 4
    assert len(paths_of(svg, "negative")) == 2
    # The strongest edge is the widest, and drawn last.
    widths = [float(path.get("stroke-width")) for path in paths_of(svg, "edge")]
    assert widths == sorted(widths)
    names = re.findall(r"<span[^>]*>([^<]*)</span>", page)
    assert names == ["tokens", graphs.FIRST, graphs.SECOND, "metric"]
    details = [path[0].text for path in paths_of(svg, "node")]
    assert any("feature 17" in text and "effect -1" in text for text in details)


def test_a_table_has_the_numbers_of_every_node():
    page = render_graph(graphs.graph().labelled({graphs.FIRST: {17: "<b>"}}))
    (table,) = re.findall(r"<table>.*</table>", page, re.DOTALL)
    rows = [
        ["".join(cell.itertext()) for cell in row]
        for row in ElementTree.fromstring(table).iter("tr")
    ]
    assert rows[0] == [
        *("kind", "site", "position", "token", "feature", "label"),
        *("activation", "effect"),
    ]
    assert len(rows) == 1 + len(graphs.graph().nodes)
    script = graphs.SCRIPT.replace(" ", "·")
    assert rows[3] == [
        *("feature", graphs.FIRST, "1", script, "17", "<b>", "2.5", "-1"),
    ]


def test_the_path_of_a_folder_is_not_shown():
    page = render_graph(graphs.graph(model="/home/me/models/tiny-v1"))
    assert "/home/me" not in page
    assert ", tiny-v1</h1>" in page


def test_long_names_side_by_side_stand_on_two_lines():
    def heights(label):
        svg = svg_of(render_graph(graphs.graph().labelled({graphs.FIRST: {17: label}})))
        texts = svg.iter("{http://www.w3.org/2000/svg}text")
        return {text.text: float(text.get("y")) for text in texts}

    short = heights("a")
    long = heights("cities in France")
    assert long["17 cities in Fran…"] == short["17 a"]
    assert short["error"] - long["error"] == pytest.approx(13)


def test_no_text_becomes_a_tag():
    labels = {(graphs.FIRST, 17): "<img src=x onerror=alert(1)>"}
    graph = graphs.graph(model=graphs.SCRIPT, metric="</title><script>")
    page = render_graph(graph.labelled(labels), title=None)
    assert "<script" not in page
    assert "<img" not in page
    texts = texts_of(svg_of(page))
    assert graphs.SCRIPT in texts
    assert "17 <img src=x one…" in texts


def test_the_page_asks_for_nothing_from_outside():
    page = render_graph(graphs.graph(model="m", metric="m"))
    links = re.findall(r"https?://[^\s\"]+", page)
    assert set(links) == {"http://www.w3.org/2000/svg"}
    assert "src=" not in page
    assert "default-src 'none'" in page


def test_the_theme_is_the_systems_or_a_chosen_one():
    page = render_graph(graphs.graph())
    assert '<html lang="en">' in page
    assert "prefers-color-scheme: dark" in page
    assert 'data-theme="dark">' in render_graph(graphs.graph(), theme="dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_has_every_node_and_edge(theme, tmp_path):
    graph = graphs.graph().labelled({(graphs.FIRST, 17): "costs $5 and $6"})
    figure = plot_graph(graph, theme=theme)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    markers = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(lines) == len(graph.edges)
    assert len(markers) == len(graph.nodes)
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["tokens", graphs.FIRST, graphs.SECOND, "metric"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["<bos>", graphs.SCRIPT]
    assert "17 costs $5 and $6" in [text.get_text() for text in axes.texts]

    # Dollars of a token are not mathematics, which would raise here.
    figure.savefig(tmp_path / "graph.png")
    is_dark = sum(figure.get_facecolor()[:3]) < 1
    assert is_dark == (theme == "dark")


def test_names_stand_above_their_markers():
    (axes,) = plot_graph(graphs.graph()).axes
    radii = {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markersize() / 2
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert len(axes.texts) == 4
    for text in axes.texts:
        _, height = text.xyann
        assert height > radii[text.xy]


def test_the_metric_is_as_large_as_the_largest_node():
    (axes,) = plot_graph(graphs.graph()).axes
    sizes = {
        line.get_marker(): line.get_markersize()
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert sizes["*"] == max(sizes.values())


def test_a_graph_without_edges_has_a_picture(tmp_path):
    graph = graphs.graph(edges=())
    plot_graph(graph).savefig(tmp_path / "graph.png")
    assert len(paths_of(svg_of(render_graph(graph)), "edge")) == 0


@pytest.mark.parametrize("draw", [plot_graph, render_graph])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_anything_but_a_graph_and_a_theme(draw):
    with pytest.raises(sle.InvalidArgument, match="theme must be one of light, dark"):
        draw(graphs.graph(), theme="sepia")
    with pytest.raises(sle.InvalidArgument, match="give a Graph"):
        draw("graph")
