"""How often to save and report, and at which k to evaluate."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.training import RunConfig


def test_evaluates_at_powers_of_two_and_at_k():
    assert RunConfig().ks_at(64) == (1, 2, 4, 8, 16, 32, 64)
    assert RunConfig().ks_at(20) == (1, 2, 4, 8, 16, 20)
    assert RunConfig().ks_at(1) == (1,)


def test_evaluates_at_the_chosen_k_and_at_that_of_the_best():
    assert RunConfig(eval_ks=[8, 2]).ks_at(64) == (2, 8, 64)
    assert RunConfig(eval_ks=[8], best_k=3).ks_at(64) == (3, 8)


def test_an_sae_has_as_many_features_as_the_largest_k():
    RunConfig(eval_ks=[8, 2], best_k=8).check_ks(8)
    with pytest.raises(sle.InvalidK, match="eval_ks must be at most d_sae=7; got 8"):
        RunConfig(eval_ks=[8, 2]).check_ks(7)
    with pytest.raises(sle.InvalidK, match="best_k must be at most d_sae=7; got 8"):
        RunConfig(best_k=8).check_ks(7)


def test_loggers_are_named_once():
    assert RunConfig(log_to=["wandb", "trackio", "wandb"]).log_to == (
        "wandb",
        "trackio",
    )


@pytest.mark.usefixtures("without_shape_checks")
def test_all_invalid_fields_are_in_one_message():
    with pytest.raises(sle.InvalidArgument) as raised:
        RunConfig(keep_last=0, checkpoint_minutes=0, log_to=["mlflow"], eval_ks=[])
    message = str(raised.value)
    for part in (
        "keep_last must be a positive integer; got 0",
        "checkpoint_minutes must be a positive number; got 0",
        "log_to must be one of tensorboard, wandb, trackio; got 'mlflow'",
        "eval_ks must have at least one k; got none",
    ):
        assert part in message
