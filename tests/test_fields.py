"""A config reports everything that is invalid in it at once."""

from dataclasses import dataclass

import numpy as np
import pytest

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument, InvalidK


@dataclass(frozen=True)
class Config:
    heads: object = 2
    lr: object = 0.1
    warmup: object = None
    k: object = 3

    def __post_init__(self):
        with FieldChecks(self) as check:
            check(arguments.positive_int, "heads")
            check(arguments.finite, "lr", above=0)
            check(arguments.positive_int, "warmup", optional=True)
            check(lambda k, _: arguments.k(k, 8), "k")
        with FieldChecks(self) as check:
            check.that(self.heads < 10, "heads must be below 10")


def test_valid_fields_become_numbers_of_python():
    config = Config(heads=np.int64(2), lr=np.float32(0.5), warmup=np.int8(1))
    assert config == Config(2, 0.5, 1)
    assert [type(value) for value in (config.heads, config.lr, config.warmup)] == [
        int,
        float,
        int,
    ]


def test_all_invalid_fields_are_in_one_error():
    message = (
        "heads must be a positive integer; got 0; lr must be a positive number; got 'x'"
    )
    with pytest.raises(InvalidArgument, match=message):
        Config(heads=0, lr="x")


def test_one_invalid_field_raises_its_own_error():
    with pytest.raises(InvalidK):
        Config(k=9)


def test_relations_are_checked_once_fields_are_valid():
    with pytest.raises(InvalidArgument, match="heads must be below 10"):
        Config(heads=10)


def test_an_error_in_the_block_is_not_replaced():
    check = FieldChecks(Config())
    check.that(False, "reported")
    # With an exception on its way, leaving the block raises nothing of its own.
    assert check.__exit__(ZeroDivisionError, None, None) is None
    with pytest.raises(InvalidArgument, match="reported"):
        check.__exit__(None, None, None)
