"""A batch reads the rows that it is asked for, and no others."""

import pytest
import torch

from sae_lens_ext.training.stream.lazy import LazyBatch, Piece


@pytest.fixture
def read():
    """The numbers of the rows that were read, one list per call."""
    return []


@pytest.fixture
def batch(read):
    sources = (torch.arange(100.0).view(50, 2), -torch.arange(100.0).view(50, 2))

    def reading(source):
        def values(rows):
            read.append(rows.tolist())
            return {"a": source[rows], "b": source[rows, :1]}

        return values

    rows = (torch.tensor([4, 1, 7]), torch.tensor([3, 2]))
    pieces = [Piece(*pair) for pair in zip(rows, map(reading, sources), strict=True)]
    return LazyBatch(("a", "b"), pieces)


WHOLE = torch.tensor([[8.0, 9], [2, 3], [14, 15], [-6, -7], [-4, -5]])


def test_is_a_mapping_from_sites_to_all_tokens(batch, read):
    assert len(batch) == 2
    assert batch.n_tokens == 5
    assert list(batch) == ["a", "b"]
    assert read == []
    assert torch.equal(batch["a"], WHOLE)
    assert torch.equal(dict(batch)["b"], WHOLE[:, :1])
    assert read == [[4, 1, 7], [3, 2]], "each token once"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(0, 2), [[4, 1]]),
        (slice(2, 4), [[7], [3]]),
        (slice(3, 5), [[3, 2]]),
        (slice(4, 99), [[2]]),
        (slice(0, 5), [[4, 1, 7], [3, 2]]),
        (slice(5, 5), [[]]),
    ],
)
def test_a_part_reads_its_own_tokens(batch, read, rows, expected):
    part = batch.part(rows)
    assert torch.equal(part["a"], WHOLE[rows])
    assert torch.equal(part["b"], WHOLE[rows, :1])
    assert read == expected
