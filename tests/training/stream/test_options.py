"""Options of streams are checked."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.stream.options import checked_dtype


def test_activations_are_float32_or_bfloat16():
    assert checked_dtype("bfloat16") == torch.bfloat16
    assert checked_dtype(torch.float32) == torch.float32
    with pytest.raises(sle.InvalidArgument, match="float16 overflows on models of the"):
        checked_dtype("float16")
    with pytest.raises(sle.InvalidArgument, match="float32 or bfloat16; got 'float64'"):
        checked_dtype("float64")
