"""A task knows the weight of every rank, and sums are at least in float32."""

import pytest
import torch

from sae_lens_ext.kernels.hierarchical_loss.task import Task, accumulator


def test_ranks_outside_the_levels_weigh_zero():
    task = Task([4, 1], [0.75, 0.25], [False] * 4, details=False, deterministic=False)
    assert task.rank_weights(5) == [0.25, 0.0, 0.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_half_precision_is_summed_in_float32(dtype, expected):
    assert accumulator(torch.ones(1, dtype=dtype)) == expected
