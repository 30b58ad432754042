"""The sizes that the Triton programs are launched with, which need no GPU to know."""

import pytest
import torch
from kernels.marks import by_triton

from sae_lens_ext.kernels.quadratic_attention import FeatureMap

pytestmark = by_triton

BASED = FeatureMap((1.0, 1.0, 0.5), 0.25, 1e-12)


@pytest.fixture
def gpu_layout():
    # Imports Triton.
    from sae_lens_ext.kernels.quadratic_attention import gpu_layout

    return gpu_layout


def test_tiles_are_powers_of_two_of_at_least_16(gpu_layout):
    assert gpu_layout.tiles(5, 1) == (32, 16, 16)
    assert gpu_layout.tiles(17, 40) == (32, 32, 64)
    assert gpu_layout.tiles(64, 200) == (32, 64, 64)
    assert gpu_layout.grad_tiles(64, 200) == (16, 64, 16)


def test_chunks_cover_all_tokens(gpu_layout):
    q = torch.ones(2, 70, 4)
    chunked = gpu_layout.Layout(q, torch.ones(2, 70, 3), BASED, 32)
    dense = gpu_layout.Layout(q, torch.ones(2, 70, 3), BASED, 0)
    empty = gpu_layout.Layout(q[:, :0], torch.ones(2, 0, 3), BASED, 0)

    # T, D, V, F, tokens in a chunk, and slots: one more than chunks.
    assert chunked.sizes == (70, 4, 3, 15, 32, 4)
    assert dense.sizes == (70, 4, 3, 15, 96, 2)
    assert empty.sizes == (0, 4, 3, 15, 32, 2)


def test_kinds_are_the_degrees_below_two_and_every_distance(gpu_layout):
    q = torch.ones(1, 1, 5)
    coefficients = [(1.0, 1.0, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
    layouts = [
        gpu_layout.Layout(q, q, FeatureMap(c, 1.0, 1e-12), 0) for c in coefficients
    ]
    assert [layout.n_kinds for layout in layouts] == [5, 3, 1]


@pytest.mark.parametrize(
    ("dtype", "is_amd", "expected"),
    [
        (torch.float32, False, "ieee"),
        (torch.float32, True, "ieee"),
        (torch.bfloat16, False, "tf32x3"),
        (torch.float16, True, "bf16x6"),
    ],
)
def test_half_precision_is_multiplied_as_exactly_as_float32(
    gpu_layout, dtype, is_amd, expected
):
    assert gpu_layout.precision(dtype, is_amd=is_amd) == expected
