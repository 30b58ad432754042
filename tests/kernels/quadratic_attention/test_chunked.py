"""The chunked form on a CPU agrees with the definition, in results and gradients."""

import pytest
import torch
from harness import compare
from kernels.attention_cases import CASES, FEATURE_MAPS, Attention, Case


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
def test_agrees_with_the_definition_in_outputs_and_all_gradients(
    case, name, dtype, with_state
):
    c = FEATURE_MAPS[name]
    plain = Attention(c, "dense", "reference")
    fast = Attention(c, "chunked", "cpu")
    compare(fast, plain, case.inputs(c, with_state), dtype)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_reading_thousands_of_features_is_as_accurate_as_the_definition(name):
    c = FEATURE_MAPS[name]
    inputs = Case(1, 1, 3, 65, 2).inputs(c, with_state=True)
    plain = Attention(c, "dense", "reference")
    compare(Attention(c, "chunked", "cpu"), plain, inputs, torch.float32)
