"""Marks for tests that need a package or version that may be missing."""

import pytest
import triton

by_triton = pytest.mark.skipif(
    tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6),
    reason="the kernels are for Triton 3.6 and newer",
)
