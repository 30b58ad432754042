"""Chunks so small that every case has more than one."""

import pytest

from sae_lens_ext.kernels.quadratic_attention import plan


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # More than one chunk, the last one smaller, and more than one group of sequences.
    monkeypatch.setattr(plan, "CHUNK", 4)
    monkeypatch.setattr(plan, "_SCORES", 32)
