"""Marks for tests that need a package or version that may be missing."""

import pytest
import triton

HAS_TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 6)
by_triton = pytest.mark.skipif(
    not HAS_TRITON, reason="the kernels are for Triton 3.6 and newer"
)
