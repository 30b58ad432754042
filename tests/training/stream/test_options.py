"""Options of streams are checked, and models named by their configs."""

from types import SimpleNamespace

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.stream.options import checked_dtype, name_of_model


def test_activations_are_float32_or_bfloat16():
    assert checked_dtype("bfloat16") == torch.bfloat16
    assert checked_dtype(torch.float32) == torch.float32
    with pytest.raises(sle.InvalidArgument, match="float16 overflows on models of the"):
        checked_dtype("float16")
    with pytest.raises(sle.InvalidArgument, match="float32 or bfloat16; got 'float64'"):
        checked_dtype("float64")


def test_a_model_has_the_name_that_its_config_gives_it():
    named = SimpleNamespace(config=SimpleNamespace(name_or_path="owner/model"))
    bridged = SimpleNamespace(cfg=SimpleNamespace(model_name="model"))
    assert name_of_model(named) == "owner/model"
    assert name_of_model(bridged) == "model"
    assert name_of_model(object()) is None
