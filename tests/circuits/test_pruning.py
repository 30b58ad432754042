"""Pruned circuits are of the nodes that are worth most beside each other."""

import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle

D_MODEL = 6
METRIC = sle.circuits.logit_difference(0, 1)
SITES = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")


class Ones(nn.Module):
    """Every coordinate of every token is 1."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, D_MODEL)
        nn.init.ones_(self.embed.weight)


class Redundant(Ones):
    """Any one of four coordinates does all that they do; two others add up."""

    def forward(self, ids):
        x = self.embed(ids)
        either = x[..., :4].sum(-1).clamp(max=1)
        logit = either + 0.6 * x[..., 4] + 0.5 * x[..., 5]
        return torch.stack([logit, torch.zeros_like(logit)], dim=-1)


class Chained(Ones):
    """Three coordinates do nothing but together, and the first has a small share."""

    def forward(self, ids):
        x = self.embed(ids)
        chain = x[..., 0].pow(0.01) * x[..., 1].pow(4) * x[..., 2].pow(4)
        logit = 4 * chain + 0.3 * x[..., 3] + 0.2 * x[..., 4] + 0.1 * x[..., 5]
        return torch.stack([logit, torch.zeros_like(logit)], dim=-1)


MODEL = Redundant()
TOKENS = torch.arange(12).reshape(4, 3)


@pytest.fixture(scope="module")
def redundant():
    effects = sle.circuits.effects(
        MODEL,
        tiny.identity_sae(D_MODEL, hook_name="embed"),
        TOKENS,
        metric=METRIC,
        method="joint",
    )
    return effects.select(align="end", errors="none")


def test_what_others_do_as_well_is_kept_once(redundant):
    # By effects, one of four that share the same change is worth less than each of two.
    assert set(redundant.first(2).nodes.feature) == {4, 5}
    small = redundant.pruned(MODEL, TOKENS, metric=METRIC, budget=2)
    first, second = small.nodes.feature
    assert first in {0, 1, 2, 3}
    assert second == 4
    assert small.nodes.score.tolist() == pytest.approx([1, 0.6], abs=1e-5)


def test_a_metric_that_falls_is_pruned_alike(redundant):
    falling = sle.circuits.logit_difference(1, 0)
    small = redundant.pruned(MODEL, TOKENS, metric=falling, budget=2)
    expected = redundant.pruned(MODEL, TOKENS, metric=METRIC, budget=2)
    assert small.nodes.equals(expected.nodes)


def of_chain(**options):
    model = Chained()
    sae = tiny.identity_sae(D_MODEL, hook_name="embed")
    effects = sle.circuits.effects(model, sae, TOKENS, metric=METRIC, **options)
    return model, effects.select(align="end", errors="none")


@pytest.mark.parametrize("method", ["joint", "attribution"])
def test_a_chain_is_not_cut_for_the_small_share_of_its_first_node(method):
    model, circuit = of_chain(method=method)
    small = circuit.pruned(model, TOKENS, metric=METRIC, budget=3)
    assert set(small.nodes.feature) == {0, 1, 2}
    assert small.nodes.score.sum() == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("budget", range(1, 7))
def test_no_budget_does_less_than_as_many_first_nodes(budget):
    model, circuit = of_chain(method="joint")
    small = circuit.pruned(model, TOKENS, metric=METRIC, budget=budget)
    done, done_by_first = (
        nodes.faithfulness(model, TOKENS, metric=METRIC, controls=(), budgets=[budget])
        .table()
        .metric.item()
        for nodes in (small, circuit.first(budget))
    )
    assert done >= done_by_first - 1e-6


def test_chosen_rows_choose():
    model = tiny.hf_model("gpt2")
    pairs = tiny.tokens(3, 5), tiny.tokens(3, 5, seed=1)
    options = {"metric": METRIC, "budget": 4}
    circuit = sle.circuits.effects(model, saes()[0], *pairs, metric=METRIC).select(
        3, budget=12
    )
    of_rows = circuit.pruned(model, *pairs, rows=[0, 2], **options)
    alone = circuit.pruned(model, *(part[[0, 2]] for part in pairs), **options)
    assert of_rows.nodes.drop(columns="score").equals(alone.nodes.drop(columns="score"))
    assert of_rows.nodes.score.tolist() == pytest.approx(alone.nodes.score.tolist())

    with pytest.raises(sle.InvalidArgument, match="rows must be numbers from 0 to 2"):
        circuit.pruned(model, *pairs, rows=[3], **options)
    options["metric"] = lambda logits: logits[:, -1, 0].mean()
    with pytest.raises(sle.InvalidArgument, match="one number for all rows"):
        circuit.pruned(model, *pairs, rows=[0], **options)


def test_prompts_have_the_positions_of_the_nodes():
    model = tiny.hf_model("gpt2")
    circuit = sle.circuits.effects(
        model, saes()[0], tiny.tokens(2, 5), metric=METRIC
    ).select(3, budget=4, align="start")
    shorter = tiny.tokens(2, 5)[:, : int(circuit.nodes.position.max())]
    message = "no prompt has that position .the longest has"
    with pytest.raises(sle.InvalidArgument, match=message):
        circuit.pruned(model, shorter, metric=METRIC, budget=2)
    with pytest.raises(sle.InvalidArgument, match=message):
        circuit.faithfulness(model, shorter, metric=METRIC, controls=())


def saes():
    return [tiny.sae(k=8), tiny.sae(k=8, hook_name=SITES[1], seed=1)]


@pytest.mark.parametrize("errors", ["ranked", "all", "none"])
@pytest.mark.parametrize("ablation", [None, "mean"])
def test_shares_add_up_to_what_the_circuit_does(errors, ablation):
    model = tiny.hf_model("gpt2")
    pairs = tiny.tokens(2, 5), tiny.tokens(2, 5, seed=1)
    small = pruned_to_five(model, saes()[0], pairs, errors, ablation)
    table = small.faithfulness(
        model, *pairs, metric=METRIC, controls=(), budgets=[5], ablation=ablation
    ).by_prompt()
    done = table.metric - table.metric_empty
    is_above = table.metric_model > table.metric_empty
    towards = done.where(is_above, -done)
    assert small.nodes.score.sum() == pytest.approx(towards.mean(), abs=2e-3)


def test_several_sites_are_pruned_together():
    model = tiny.hf_model("gpt2")
    pairs = tiny.tokens(2, 5), tiny.tokens(2, 5, seed=1)
    small = pruned_to_five(model, saes(), pairs, "all", None)
    assert small.nodes.position[:2].tolist() == ["all", "all"]
    assert set(small.nodes.site) == set(SITES)
    assert (small.nodes.feature == -1).sum() == 2


def pruned_to_five(model, saes, pairs, errors, ablation):
    effects = sle.circuits.effects(model, saes, *pairs, metric=METRIC, method="joint")
    circuit = effects.select(3, budget=16, errors=errors)
    small = circuit.pruned(model, *pairs, metric=METRIC, budget=5, ablation=ablation)
    assert len(small) == 5
    assert small.errors == errors
    nodes = ["site", "position", "feature"]
    assert len(small.nodes.merge(circuit.nodes, on=nodes)) == 5
    return small


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be an integer from 1 to 18; got 0"),
        ({"budget": 19}, "budget must be an integer from 1 to 18; got 19"),
        ({"ablation": "resample"}, "takes values from the corrupted run"),
        ({"metric": lambda z: 0 * z[:, 0, 0]}, "no node does anything"),
        ({"metric": lambda z: z[:, -1, 0].detach()}, "no gradient by the logits"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_options(redundant, options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        redundant.pruned(MODEL, TOKENS, **{"metric": METRIC, "budget": 2, **options})


def test_positions_have_the_nodes_of_the_circuit_and_are_kept():
    model = tiny.hf_model("gpt2")
    tokens = tiny.tokens(2, 5)
    effects = sle.circuits.effects(model, saes()[0], tokens, metric=METRIC)
    circuit = effects.select(3, budget=6, align="start")
    at = int(circuit.nodes.position.max())
    for call in (
        lambda: circuit.pruned(model, tokens, metric=METRIC, budget=2, positions=[0]),
        lambda: circuit.faithfulness(model, tokens, metric=METRIC, positions=[0]),
    ):
        with pytest.raises(sle.InvalidArgument, match="positions leaves out in every"):
            call()

    some = slice(0, at + 1)
    small = circuit.pruned(model, tokens, metric=METRIC, budget=2, positions=some)
    assert small.positions == some
    small = circuit.pruned(model, tokens, metric=METRIC, budget=2)
    assert small.positions is circuit.positions


def test_errors_that_a_circuit_always_has_need_room():
    model = tiny.hf_model("gpt2")
    tokens = tiny.tokens(1, 4)
    effects = sle.circuits.effects(model, saes(), tokens, metric=METRIC)
    circuit = effects.select(3, budget=6, errors="all")
    message = "budget=1 is less than the 2 errors that this circuit always has"
    with pytest.raises(sle.InvalidArgument, match=message):
        circuit.pruned(model, tokens, metric=METRIC, budget=1)
