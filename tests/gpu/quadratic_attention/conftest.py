"""Tiles and chunks so small that small cases have more than one of each."""

import pytest

from sae_lens_ext.kernels.quadratic_attention import gpu, gpu_layout


@pytest.fixture
def small(monkeypatch):
    """Tiles of 16 along every axis, and chunks of 32 tokens."""
    monkeypatch.setattr(gpu, "_CHUNK", 32)
    monkeypatch.setattr(
        gpu_layout, "tiles", lambda d, d_v: gpu_layout.Tiles(16, 16, 16)
    )
