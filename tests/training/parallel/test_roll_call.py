"""After a failure, every process learns who is gone."""

import pytest
import torch.distributed as dist

from sae_lens_ext.training.parallel import roll_call
from sae_lens_ext.training.parallel.roll_call import RollCall


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(roll_call, "_SECONDS", 0.2)


class LostStore:
    """A store that lived in a process that is gone."""

    def set(self, key, value):
        raise dist.DistNetworkError("connection reset by peer")


class DyingStore:
    """A store whose loss is noticed late: what is set is not waited for."""

    def __init__(self, answers, reasons=()):
        self._answers = answers
        self._reasons = dict(reasons)

    def set(self, key, value):
        pass

    def check(self, keys):
        if self._answers == 0:
            raise dist.DistNetworkError("connection reset by peer")
        self._answers -= 1
        return keys[0] in self._reasons

    def get(self, key):
        return self._reasons[key]


def test_names_who_does_not_answer_and_who_has_left_a_reason():
    store = dist.HashStore()
    store.set("here/2", "yes")
    RollCall(store, 3, 4).leave(ValueError("no"))
    missing = RollCall(store, 0, 4).missing()
    assert missing == "rank 1 of 4 is gone; rank 3 of 4 ended by ValueError: no"


def test_says_so_when_all_answer():
    store = dist.HashStore()
    store.set("here/1", "yes")
    assert "connection between" in RollCall(store, 0, 2).missing()


def test_a_store_that_is_gone_was_in_rank_0_or_in_the_launcher(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert RollCall(LostStore(), 1, 3).missing() == "rank 0 of 3 is gone"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert RollCall(LostStore(), 1, 3).missing() == "torchrun is gone"
    RollCall(LostStore(), 1, 3).leave(ValueError("nobody hears it"))


@pytest.mark.parametrize("answers", [0, 1, 5])
def test_a_store_lost_while_ranks_are_called_names_its_keeper_alone(answers):
    assert RollCall(DyingStore(answers), 2, 3).missing() == "rank 0 of 3 is gone"


def test_a_reason_read_before_the_store_was_lost_is_kept():
    store = DyingStore(1, {"failed/0": b"ValueError: no"})
    missing = RollCall(store, 2, 3).missing()
    assert missing == "rank 0 of 3 ended by ValueError: no"


def test_without_a_store_nobody_is_named():
    assert RollCall(None, 1, 3).missing() == "another process of this training is gone"
