"""Measures of the model's predictions join the metrics."""

import pytest
import small_training
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.training import RunConfig, recovered_ce


def test_recovered_cross_entropy_is_that_of_a_sweep(gemma2):
    tokens = tiny.tokens(rows=3, length=8)
    sae = tiny.sae()
    table = sle.sweep_k(gemma2, tokens, sae, [2, 8])
    measure = recovered_ce(gemma2, tokens, iter([2, 8]))
    measured = measure(sae)
    assert measure(sae) == measured
    assert measured["ce/k=8"] == table["ce"].iloc[1]
    assert measured["ce_recovered/k=2"] == pytest.approx(table["ce_recovered"].iloc[0])


def test_an_unknown_option_of_the_sweep_is_an_error_before_the_training(gemma2):
    with pytest.raises(sle.InvalidArgument, match="has no option 'scores'.*score"):
        recovered_ce(gemma2, tiny.tokens(), scores=slice(3))


def test_a_measure_is_taken_at_every_evaluation_of_a_usable_sae(tmp_path):
    x = small_training.values(50)

    def measure(sae):
        return {"error": (sae(x) - x).square().sum()}

    trained = small_training.run(
        tmp_path, run=RunConfig(log_every=5, eval_every=10), measure=measure
    )
    records = small_training.metrics(tmp_path)
    measured = [record["step"] for record in records if "error" in record]
    assert measured == [10, 20]
    with torch.no_grad():
        assert records[-1]["error"] == measure(trained.sae)["error"].item()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (None, r"such as {'error': 0.1}; got None"),
        (0.5, "got 0.5"),
        ({"a": "x"}, "got {'a': 'x'}"),
        ({"a": torch.ones(3)}, "got {'a': tensor"),
        ({"loss": -1.0}, "measure returned 'loss', a name that the metrics"),
        ({"tokens_per_second": 1.0}, "measure returned 'tokens_per_second', a name"),
    ],
)
def test_a_measure_returns_numbers_by_names_of_its_own(tmp_path, numbers, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        small_training.run(tmp_path, measure=lambda sae: numbers)


def test_a_measure_is_taken_without_a_folder_too():
    saes = []

    def measure(sae):
        saes.append(sae)
        return {}

    small_training.run(None, measure=measure)
    assert len(saes) == 5
