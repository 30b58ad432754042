"""Which trainings several processes can share."""

import dataclasses

import pytest
import small_training
import torch
from small_training import CONFIG

import sae_lens_ext as sle
from sae_lens_ext.objectives import AuxK, BatchTopK, TopK
from sae_lens_ext.objectives.base import Stateless
from sae_lens_ext.training import RunConfig
from sae_lens_ext.training.parallel.launched import (
    check_shareable,
    device_of_rank,
    n_processes,
)


class OfSomebody(Stateless):
    """An objective that knows nothing of shares."""

    kind = "topk"

    def levels_at(self, k):
        return (k,)

    def __call__(self, sae, u, k, *, target=None, is_dead=None):
        return TopK()(sae, u, k, target=target)


def config(objective, **changes):
    return dataclasses.replace(CONFIG, objective=objective, **changes)


@pytest.mark.parametrize("objective", [OfSomebody(), AuxK(OfSomebody())])
def test_refuses_objectives_that_do_not_know_of_shares(objective):
    with pytest.raises(sle.InvalidArgument, match="give it the method use_batch"):
        check_shareable(config(objective), RunConfig())


@pytest.mark.parametrize("objective", [BatchTopK(), AuxK(TopK())])
def test_refuses_to_divide_a_dictionary_by_name(objective):
    name = type(objective).__name__
    with pytest.raises(sle.InvalidArgument, match=f"TopK; got {name}; parallel='data'"):
        check_shareable(config(objective), RunConfig(parallel="dictionary"))
    check_shareable(config(objective), RunConfig(parallel="data"))


@pytest.mark.parametrize("name", ["eight_bit", "freeze_decoder"])
def test_refuses_to_divide_what_has_no_slices(name):
    with pytest.raises(sle.InvalidArgument, match=f"{name}=True needs parallel="):
        check_shareable(
            config(TopK(), **{name: True}), RunConfig(parallel="dictionary")
        )


def test_a_gpu_is_that_of_the_process_unless_it_is_named(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_rank(torch.device("cuda")) == torch.device("cuda", 3)
    assert device_of_rank(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert device_of_rank(torch.device("cpu")) == torch.device("cpu")


def test_processes_are_counted_only_where_they_are_numbered(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    assert n_processes() == 1
    monkeypatch.setenv("RANK", "2")
    assert n_processes() == 4


def test_a_process_may_train_on_its_own(monkeypatch):
    alone = small_training.run()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    own = small_training.run(run=RunConfig(parallel="none"))
    assert small_training.same_weights(alone.sae, own.sae)


def test_says_what_is_missing_of_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(sle.InvalidArgument, match="start them by torchrun, or unset"):
        small_training.run()
