"""Options of a test of a circuit."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

METRIC = sle.circuits.logit_difference(7, 9)
CLEAN = tiny.tokens(2, 5)


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gpt2")


@pytest.fixture(scope="module")
def circuit(model):
    effects = sle.circuits.effects(model, tiny.sae(), CLEAN, metric=METRIC)
    return effects.select(4, budget=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": [7]}, "ascending numbers of nodes up to 6.*got \\[7\\]"),
        ({"budgets": [2, 1]}, "ascending numbers of nodes up to 6"),
        ({"budgets": [0, 1]}, "budgets must be a list of integers of at least 1"),
        ({"budgets": []}, "ascending numbers of nodes up to 6"),
        ({"ablation": "resample"}, "takes values from the corrupted run"),
        ({"ablation": "noise"}, "ablation must be one of zero, mean, resample"),
        ({"controls": ["others"]}, "controls must be one of random"),
        ({"controls": "random"}, "controls must be a list; got 'random'"),
        ({"neurons": "blocks.0"}, "neurons must be a list"),
        ({"other_saes": tiny.sae()}, "other_saes must be a list; got SAE"),
        ({"n_draws": 0}, "n_draws must be a positive integer"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer"),
        ({"rows": [2]}, "rows must be numbers from 0 to 1"),
        ({"chosen_on": [2]}, "chosen_on must be numbers from 0 to 1"),
        ({"chosen_on": []}, "chosen_on must be numbers from 0 to 1"),
        ({"rows": [1], "controls": ["splits"]}, "got 1 row"),
        (
            {"other_saes": [tiny.sae(hook_name="blocks.0.hook_resid_post")]},
            "other SAEs must be for the same sites",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_options(model, circuit, options, message):
    options = {"controls": (), **options}
    with pytest.raises(sle.InvalidArgument, match=message):
        circuit.faithfulness(model, CLEAN, metric=METRIC, **options)


def test_a_metric_of_all_rows_has_one_number_and_no_rows(model, circuit):
    def metric(logits):
        return (logits[:, -1, 7] - logits[:, -1, 9]).mean()

    of_mean = circuit.faithfulness(model, CLEAN, metric=metric, n_draws=2)
    of_rows = circuit.faithfulness(model, CLEAN, metric=METRIC, n_draws=2)
    shares = of_rows.table().faithfulness.tolist()
    assert of_mean.table().faithfulness.tolist() == pytest.approx(shares, abs=1e-4)
    # But for random circuits, of which there are two, it has no band.
    assert of_mean.table().low.isna().sum() == 8
    for options in ({"rows": [0]}, {"controls": ["splits"]}):
        with pytest.raises(sle.InvalidArgument, match="one number per row"):
            circuit.faithfulness(model, CLEAN, metric=metric, **options)


def test_a_metric_without_a_gradient_will_do_without_controls_that_need_one(
    model, circuit
):
    def accuracy(logits):
        return (logits[:, -1].argmax(-1) == logits[:, -1].argmax(-1)[0]).double()

    with pytest.raises(sle.InvalidArgument, match="no circuit has a share"):
        circuit.faithfulness(
            model, CLEAN, metric=lambda z: 0 * accuracy(z), controls=("random",)
        )
    with pytest.raises(sle.InvalidArgument, match="the metric has no gradient"):
        circuit.faithfulness(model, CLEAN, metric=accuracy)
    options = {"metric": sle.circuits.kl("clean"), "n_draws": 2}
    table = circuit.faithfulness(model, CLEAN, **options).table()
    # The divergence of the model from itself is 0, and every control is there.
    assert table.metric_model.abs().max() < 1e-5
    assert set(table.nodes) == {"circuit", "random", "coordinates"}


def test_names_are_given_again_where_prompts_differ(model):
    effects = sle.circuits.effects(model, tiny.sae(), CLEAN, metric=METRIC)
    circuit = effects.select(4, budget=6, align={"noun": [1, 2], "verb": -1})
    assert set(circuit.nodes.position) <= {"noun", "verb"}
    options = {"metric": METRIC, "controls": (), "budgets": [6]}
    with pytest.raises(sle.ShapeMismatch, match="2 positions of 'noun'"):
        circuit.faithfulness(model, tiny.tokens(3, 5), **options)
    result = circuit.faithfulness(
        model, CLEAN, align={"verb": -1, "noun": [1, 2]}, **options
    )
    expected = circuit.faithfulness(model, CLEAN, **options)
    assert torch.equal(
        torch.tensor(result.measured[0].metric),
        torch.tensor(expected.measured[0].metric),
    )
