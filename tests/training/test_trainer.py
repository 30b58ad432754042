"""A process of a shared training reads its own rows of a batch."""

import dataclasses

import pytest
import small_training
import torch
from small_training import CONFIG, SITE

from sae_lens_ext.training import TensorStream
from sae_lens_ext.training.parallel import Ranks
from sae_lens_ext.training.parallel.ranks import Share
from sae_lens_ext.training.setup import new_trainer


class SecondOfTwo(Ranks):
    """The second process of two, which hears nothing of the first."""

    rank = 1
    size = 2

    def share(self, n_tokens):
        return Share(slice(n_tokens // 2, n_tokens), 0.5)

    def check_batch(self, batch):
        pass


class SpiedStream(TensorStream):
    """Counts the tokens that are read of it."""

    n_read = 0

    def _tokens(self, rows):
        self.n_read += len(rows)
        return super()._tokens(rows)


@pytest.fixture
def trainer():
    stream = SpiedStream({SITE: small_training.values()})
    config = dataclasses.replace(CONFIG, revive_every=None)
    generator = torch.Generator().manual_seed(0)
    return new_trainer(
        stream, config, generator, torch.device("cpu"), ranks=SecondOfTwo()
    )


# A check of the annotation of a mapping reads one of its values.
@pytest.mark.usefixtures("without_shape_checks")
def test_a_step_reads_the_rows_of_its_process(trainer):
    # The first batch is compared between processes.
    trainer.step(trainer.next_batch())
    n_before = trainer.stream.n_read
    for _ in range(3):
        batch = trainer.next_batch()
        assert batch.n_tokens == CONFIG.batch_size
        trainer.step(batch)
    assert trainer.stream.n_read - n_before == 3 * CONFIG.batch_size // 2


def test_parts_of_a_batch_are_those_of_the_whole_one(trainer):
    batch = trainer.next_batch()
    whole, target = batch.pair()
    assert target is None
    assert torch.equal(batch.pair(slice(3, 9))[0], whole[3:9])
