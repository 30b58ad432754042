"""Implementations take and return what the interface says."""

import inspect

import pytest

from sae_lens_ext.kernels.quadratic_attention import chunked
from sae_lens_ext.kernels.quadratic_attention.implementation import Attend, Gradients


@pytest.mark.parametrize(
    ("function", "interface"),
    [(chunked.find_sums, Attend), (chunked.find_gradients, Gradients)],
)
def test_chunked_form_has_the_signature_of_the_interface(function, interface):
    expected = inspect.signature(interface.__call__)
    parameters = list(expected.parameters.values())[1:]

    assert inspect.signature(function) == expected.replace(parameters=parameters)
