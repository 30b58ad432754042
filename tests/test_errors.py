"""The errors of the package: their base classes and their messages."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext import errors

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_public_and_has_the_common_base(error):
    assert issubclass(error, sle.SaeLensExtError)
    assert error.__name__ in sle._PUBLIC


@pytest.mark.parametrize(
    "error", [error for error in ERRORS if error is not sle.SaeLensExtError]
)
def test_every_error_is_a_builtin_one_too(error):
    assert issubclass(error, ValueError | RuntimeError | KeyError)


def test_the_message_of_unknown_site_is_not_quoted():
    assert str(errors.UnknownSite("no site 'x'")) == "no site 'x'"
