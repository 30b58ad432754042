"""The n best entries of every feature, against a sort of all of them."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.features.best import BestEntries


def best(d_sae=5, n=3):
    fields = {"number": (torch.int64, ())}
    return BestEntries(d_sae, n, torch.float32, fields, torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_they_are_those_of_a_sort_wherever_the_entries_are_cut(batch_size):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randint(0, 4, (60,), generator=generator)
    # Few values, so that many are equal.
    score = torch.randint(1, 6, (60,), generator=generator).float()
    kept = best()
    for start in range(0, 60, batch_size):
        number = torch.arange(start, min(start + batch_size, 60))
        kept.offer(
            feature[number],
            score[number],
            lambda entry, number=number: {"number": number[entry]},
        )
    fields = kept.fields()
    for each in range(4):
        own = [number for number in range(60) if feature[number] == each]
        expected = sorted(own, key=lambda number: -score[number])[:3]
        assert fields["number"][each].tolist() == expected
        assert fields["score"][each].tolist() == score[expected].tolist()
    assert fields["score"][4].tolist() == [float("-inf")] * 3


def test_it_goes_on_from_its_fields():
    kept = best(d_sae=1)
    scores = torch.tensor([3.0, 5.0, 4.0, 9.0, 1.0, 6.0, 5.0])
    zeros = torch.zeros(7, dtype=torch.int64)
    for start in range(0, 7, 2):
        number = torch.arange(start, min(start + 2, 7))
        kept.offer(
            zeros[number], scores[number], lambda entry, n=number: {"number": n[entry]}
        )
        resumed = best(d_sae=1)
        resumed.restore(kept.fields())
        kept = resumed
    assert kept.fields()["number"].tolist() == [[3, 5, 1]]


def test_tensors_of_another_shape_are_an_error():
    with pytest.raises(
        sle.FormatError, match=r"checkpoint's score must be .* \[5, 3\]"
    ):
        best().restore(best(n=2).fields())
    with pytest.raises(sle.FormatError, match="checkpoint's number must be"):
        best().restore({"score": best().fields()["score"]})
