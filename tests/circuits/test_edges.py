"""Arguments of ``circuits.edges``, and errors for those that are invalid."""

import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.circuits import edges, effects, kl, logit_difference

METRIC = logit_difference(7, 9)
FIRST = "blocks.0.hook_resid_post"
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gpt2")


@pytest.fixture
def call(model):
    """Edges between two sites of a tiny model, with some arguments changed."""

    def edges_with(saes=None, clean=None, corrupted=None, **options):
        saes = [tiny.sae(hook_name=FIRST), tiny.sae()] if saes is None else saes
        clean = tiny.tokens(2, 5) if clean is None else clean
        if "nodes" not in options:
            options = {"budget": 4, **options}
        return edges(model, saes, clean, corrupted, **{"metric": METRIC, **options})

    return edges_with


def test_budget_chooses_the_largest_effects(call):
    result = call(budget=5)
    table = result.effects.at()
    largest = table.effect.abs().nlargest(5)
    assert result.nodes.effect.abs().tolist() == pytest.approx(largest.tolist())
    into = result.at()[["row", "target_site", "target_position", "target_feature"]]
    assert len(into.drop_duplicates()) == 2 + 5


@pytest.mark.parametrize("align", ["start", "all"])
def test_nodes_of_a_circuit_are_targets_in_every_row(call, model, align):
    saes = [tiny.sae(hook_name=FIRST), tiny.sae()]
    result = effects(model, saes, tiny.tokens(2, 5), metric=METRIC)
    circuit = result.select(k=3, budget=4, align=align)
    edges_of = call(nodes=circuit, k=3)
    table = result.at(3)
    wanted = circuit.nodes.drop(columns="score")
    keys = ["site", "position", "feature"]
    if align == "all":
        wanted = wanted.drop(columns="position")
        keys.remove("position")
    expected = table.merge(wanted, on=keys)
    assert len(edges_of.nodes) == len(expected) > 4
    assert set(edges_of.nodes.effect) == set(expected.effect)


def test_the_order_of_saes_does_not_matter(call):
    saes = [tiny.sae(hook_name=FIRST), tiny.sae()]
    expected = call(saes)
    other = call(saes[::-1])
    assert other.sites == expected.sites == [FIRST, SITE]
    keys = [name for name in expected.at() if name not in ("effect", "preactivation")]
    both = other.at().merge(expected.at(), on=keys, how="outer")
    assert (both.effect_x - both.effect_y).abs().max() < 1e-6


def test_a_smaller_batch_gives_the_same(call):
    expected = call(budget=9, batch_size=9).at()
    table = call(budget=9, batch_size=2).at()
    assert (table.effect - expected.effect).abs().max() < 1e-6


def test_edges_work_where_gradients_are_off(call):
    saes = [tiny.sae(hook_name=FIRST), tiny.sae()]
    expected = call(saes, ks=[3]).at(3)
    with torch.no_grad():
        assert call(saes, ks=[3]).at(3).equals(expected)
    with torch.inference_mode():
        assert call(saes, ks=[3]).at(3).equals(expected)


def test_one_site_has_edges_from_tokens_and_to_the_metric(call):
    table = call(tiny.sae()).at()
    assert set(table.source_site) == {"tokens", SITE}
    assert set(table.target_site) == {SITE, "metric"}


def test_an_sae_may_be_at_the_embedding(model):
    sae = tiny.sae(hook_name="transformer.wte")
    table = edges(model, sae, tiny.tokens(1, 4), metric=METRIC, budget=6).at()
    # All that a token gives passes the features there.
    to_metric = table[table.target_site == "metric"]
    assert set(to_metric.source_site) == {"transformer.wte"}


@pytest.mark.parametrize("kind", ["jumprelu", "relu"])
def test_saes_without_a_k_have_every_k(call, kind):
    sae = tiny.sae_of_kind(kind, hook_name=SITE).float()
    result = call(sae, budget=6, ks=[1, None])
    assert result.at(48).equals(result.at())
    assert len(result.at(1)) < len(result.at())


def test_a_norm_of_tokens_keeps_its_scale(model):
    saes = [
        tiny.sae(hook_name=FIRST, token_norm="layer_norm"),
        tiny.sae(token_norm="layer_norm"),
    ]
    clean = tiny.tokens(1, 5)
    nodes = effects(model, saes, clean, metric=METRIC).at(2)
    table = edges(
        model, saes, clean, metric=METRIC, k=2, nodes=nodes, batch_size=64
    ).at(2)
    keys = ["row", "site", "position", "feature"]
    names = ["row", "source_site", "source_position", "source_feature"]
    sums = table.groupby(names).effect.sum().rename_axis(keys).reset_index()
    both = nodes.merge(sums, on=keys)
    assert len(both) > 10
    assert (both.effect_x - both.effect_y).abs().max() < 1e-5


def test_a_transcoder_reads_and_writes_at_its_own_sites():
    # Effects here are far larger than those at the first site, and float32 would round
    # by as much as the bound below.
    model = tiny.hf_model("gpt2", torch.float64)
    transcoder = tiny.sae_of_kind(
        "topk",
        d_out=32,
        hook_name="blocks.1.hook_mlp_in",
        hook_name_out="blocks.1.hook_mlp_out",
    )
    saes = [tiny.sae(hook_name=FIRST).double(), transcoder]
    clean = tiny.tokens(1, 5)
    nodes = effects(model, saes, clean, metric=METRIC, k=2).at()
    table = edges(
        model, saes, clean, metric=METRIC, k=2, nodes=nodes, batch_size=64
    ).at()
    keys = ["row", "site", "position", "feature"]
    names = ["row", "source_site", "source_position", "source_feature"]
    sums = table.groupby(names).effect.sum().rename_axis(keys).reset_index()
    both = nodes.merge(sums, on=keys)
    assert set(both.site) == {FIRST, "blocks.1.hook_mlp_out"}
    assert (both.effect_x - both.effect_y).abs().max() < 1e-10


def test_the_graph_has_chosen_nodes_tokens_and_the_metric(call):
    result = call(budget=6)
    for row in (0, 1):
        graph = result.graph(row=row)
        of_row = result.nodes[result.nodes.row == row]
        kinds = [node.kind for node in graph.nodes]
        assert kinds.count("token") == 5
        assert kinds[-1] == "metric"
        assert len(kinds) == 6 + len(of_row)
        assert graph.row == row
        assert graph.metric_clean == result.effects.metric_clean[row].item()
        assert sum(node.is_target for node in graph.nodes) == 1 + len(of_row)
    assert graph.sites == (FIRST, SITE)
    assert graph.k == {FIRST: 8, SITE: 8}
    assert graph.tokens == tuple(str(i) for i in tiny.tokens(2, 5)[1].tolist())


def test_a_graph_with_all_sources_has_every_edge(call):
    result = call(budget=4, corrupted=tiny.tokens(2, 5, seed=1))
    table = result.at()
    graph = result.graph(sources="all")
    of_row = table[table.row == 0]
    effects = sorted(edge.effect for edge in graph.edges)
    assert effects == pytest.approx(sorted(of_row.effect))
    chosen = result.graph()
    assert set(chosen.nodes) < set(graph.nodes)
    assert graph.metric_corrupted == result.effects.metric_corrupted[0].item()
    assert sle.circuits.Graph.from_json(graph.to_json()) == graph
    assert len(graph.pruned().nodes) < len(graph.nodes)


def test_effects_and_activations_of_nodes_are_those_of_the_run(call):
    result = call(budget=6)
    graph = result.graph(sources="all")
    table = result.effects.at()
    for node in graph.nodes:
        if node.kind != "feature":
            continue
        is_it = (table.row == 0) & (table.site == node.site)
        is_it &= (table.position == node.position) & (table.feature == node.feature)
        assert node.effect == pytest.approx(table[is_it].effect.item())
        code = result.effects.sites[node.site].code[0, node.position]
        assert node.activation == pytest.approx(code.dense()[node.feature].item())


def test_tokens_of_a_tokenizer_are_text():
    model = tiny.hosted("transformers_model", "gpt2")
    result = edges(model, tiny.sae(), "w1 w2", metric=METRIC, budget=2)
    assert result.tokens == [["<bos>", "w1", "w2"]]


def test_a_graph_has_no_path_of_this_machine(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    loaded = type(model).from_pretrained(tmp_path / "mine").eval()
    result = edges(loaded, tiny.sae(), tiny.tokens(1, 4), metric=METRIC, budget=2)
    graph = result.graph()
    assert graph.model == "mine"
    assert str(tmp_path) not in graph.to_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": None}, "pass budget=, the number of nodes"),
        ({"budget": 0}, "budget must be a positive integer"),
        ({"budget": None, "nodes": [1]}, "nodes must be a DataFrame"),
        ({"batch_size": 0}, "batch_size must be a positive"),
        ({"freeze": "mlp"}, "freeze must be some of"),
        ({"metric": kl("clean")}, "no gradient at the clean run"),
        ({"ks": 3}, "ks must be a list of values of k; got 3"),
        ({"ks": []}, "ks must have at least one k"),
        ({"ks": [9]}, "effects at .* are there for k from 1 to 8; got 9"),
        ({"k": 9}, "above k=8"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_options_that_do_not_fit(call, options, message):
    with pytest.raises((sle.InvalidArgument, sle.InvalidK), match=message):
        call(**options)


def test_rejects_a_k_at_which_errors_have_no_edges(call):
    result = call()
    nodes = result.effects.at(3)
    errors = nodes[nodes.feature == -1].head(2)
    result = call(nodes=errors, ks=[3, 5])
    assert len(result.at(5)) > 0
    with pytest.raises(sle.InvalidK, match="were computed at k=3, 5; got 4: pass ks="):
        result.at(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": 2}, "row must be one of the 2 rows"),
        ({"sources": "some"}, "sources must be one of"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_graphs(call, options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        call().graph(**options)


class NoEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20)

    def forward(self, ids):
        return self.out(self.inner(ids))


def test_a_model_whose_embedding_is_unknown_raises():
    sae = tiny.sae(d_model=8, hook_name="inner")
    with pytest.raises(sle.UnsupportedHost, match="which module of a NoEmbedding"):
        edges(NoEmbedding(), sae, torch.tensor([[5, 6]]), metric=METRIC, budget=2)
