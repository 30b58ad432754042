"""The kinds of features inside the Triton programs together are the feature map."""

from typing import no_type_check

import pytest
import torch
import triton
import triton.language as tl
from kernels.attention_cases import FEATURE_MAPS

from sae_lens_ext.kernels.quadratic_attention import FeatureMap, feature_map
from sae_lens_ext.kernels.quadratic_attention.gpu_features import (
    features_of_kind,
    rows_of_kind,
)
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout


@triton.jit
@no_type_check
def _store_features(
    p_x,
    p_out,
    T,
    D,
    F,
    KINDS,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SCALE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    o_t = tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    for i_kind in range(0, KINDS):
        b_phi = features_of_kind(
            p_x, 0, o_t, o_d, i_kind, T, D, C0, C1, W0, W1, W_SQUARE, W_PAIR
        )
        i_row, n_rows = rows_of_kind(i_kind, D, C0, C1)
        m_phi = (o_t < T)[:, None] & (o_d < n_rows)[None, :]
        p_block = p_out + o_t[:, None] * F + (i_row + o_d)[None, :]
        tl.store(p_block, b_phi, mask=m_phi)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("d", [1, 5, 6])
def test_features_of_all_kinds_are_the_feature_map(name, d, device):
    c = FEATURE_MAPS[name]
    x = torch.randn(7, d, generator=torch.Generator().manual_seed(d)).to(device)
    expected = feature_map(x, c, 0.3)
    layout = Layout(x[None], x[None], FeatureMap(c, 0.3, 1e-12), 0)
    phi = torch.full_like(expected, torch.nan)

    _store_features[(1,)](
        x, phi, *x.shape, phi.shape[1], layout.n_kinds, *layout.constants[:-1], 16, 16
    )

    torch.testing.assert_close(phi, expected)
