"""Effects that are measured, one node after the other."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import effects, logit_difference

METRIC = logit_difference(7, 9)
KEYS = ["row", "site", "position", "feature"]


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gemma2")


def difference(logits):
    return logits[:, -1, 7] - logits[:, -1, 9]


def test_an_effect_is_what_a_splice_changes(model):
    sae = tiny.sae()
    tokens = tiny.tokens(2, 6)
    options = {"metric": METRIC, "method": "ablation", "k": 4}
    table = effects(model, sae, tokens, **options, budget=200, batch_size=7).at()
    assert len(table) == 2 * 6 * 5

    with torch.no_grad():
        clean = difference(model(tokens).logits)
        for node in table.iloc[::6].itertuples():
            where = [node.position]
            edits = []
            if node.feature >= 0:
                edits = [sle.Ablate(node.feature, positions=where)]
            with sle.splice(
                model,
                sae,
                k=4,
                edits=edits,
                error_term=bool(edits),
                positions=where,
            ):
                change = clean - difference(model(tokens).logits)
            assert node.effect == pytest.approx(change[node.row].item(), abs=1e-5)


def test_the_budget_goes_to_the_largest_attributions(model):
    arguments = (model, tiny.sae(), tiny.tokens(2, 6), tiny.tokens(2, 6, seed=1))
    attribution = effects(*arguments, metric=METRIC).at(4)
    largest = attribution.effect.abs().nlargest(5)
    result = effects(*arguments, metric=METRIC, method="ablation", k=4, budget=5)
    assert result.at().attribution.abs().tolist() == largest.tolist()
    assert repr(result) == "MeasuredEffects(5 nodes at k=4)"


def test_nodes_are_measured_in_their_order(model):
    arguments = (model, tiny.sae(), tiny.tokens(2, 6))
    nodes = effects(*arguments, metric=METRIC).at(4).sample(6, random_state=0)
    table = effects(*arguments, metric=METRIC, method="ablation", k=4, nodes=nodes).at()
    assert table[KEYS].equals(nodes[KEYS].reset_index(drop=True))
    assert table.attribution.tolist() == nodes.effect.tolist()


def test_a_mean_over_rows_is_measured_with_the_other_rows_as_they_were(model):
    options = {"method": "ablation", "k": 4, "budget": 9}
    arguments = (model, tiny.sae(), tiny.tokens(2, 6))
    of_rows = effects(*arguments, metric=difference, **options).at()
    of_mean = effects(*arguments, metric=lambda z: difference(z).mean(), **options)
    assert of_mean.at()[KEYS].equals(of_rows[KEYS])
    assert (of_mean.at().effect - of_rows.effect / 2).abs().max() < 1e-6


def test_nodes_that_are_not_there_raise(model):
    arguments = (model, tiny.sae(), tiny.tokens(2, 6))
    nodes = effects(*arguments, metric=METRIC).at(8)
    with pytest.raises(sle.InvalidArgument, match="48 of the nodes are not there"):
        effects(*arguments, metric=METRIC, method="ablation", k=4, nodes=nodes)


def test_another_k_than_the_measured_one_raises(model):
    arguments = (model, tiny.sae(), tiny.tokens(2, 6))
    result = effects(*arguments, metric=METRIC, method="ablation", k=4, budget=1)
    assert result.at(4).equals(result.at())
    with pytest.raises(sle.InvalidK, match="measured at k=4; got 3"):
        result.at(3)
