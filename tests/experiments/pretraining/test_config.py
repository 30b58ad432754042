"""Settings are checked all at once, and can be written as JSON."""

import dataclasses
import json

import numpy as np
import pytest

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig


def test_the_learning_rate_rises_and_falls():
    config = PretrainConfig(steps=100, warmup=10, lr=0.5)
    rates = [config.lr_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[99] < 0.001


def test_warmup_is_200_steps_or_a_tenth_by_default():
    highest = PretrainConfig().lr
    assert PretrainConfig(steps=20_000).lr_at(199) == highest
    assert PretrainConfig(steps=1000).lr_at(99) == highest
    assert PretrainConfig(steps=1).lr_at(0) == highest


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": "x"}, "lr must be a positive number; got 'x'"),
        ({"lr": None}, "lr must be a positive number; got None"),
        ({"lr": True}, "lr must be a positive number; got True"),
        ({"lr": float("inf")}, "lr must be a positive number; got inf"),
        ({"clip": "1"}, "clip must be a non-negative number; got '1'"),
        (
            {"weight_decay": float("nan")},
            "weight_decay must be a non-negative number; got nan",
        ),
        (
            {"steps": "5", "warmup": -2},
            "steps must be a positive integer; got '5'; warmup must be a non-negative "
            "integer; got -2",
        ),
        (
            {"lr": 0, "warmup": 1000},
            "lr must be a positive number; got 0; warmup must be less than steps=1000; "
            "got 1000",
        ),
        ({"warmup": 1.5}, "warmup must be a non-negative integer; got 1.5"),
        ({"warmup": False}, "warmup must be a non-negative integer; got False"),
        (
            {"seed": 1 << 70},
            "seed must be an integer from 0 to 9223372036854775807; "
            "got 1180591620717411303424",
        ),
    ],
)
def test_rejects_invalid_numbers(fields, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        PretrainConfig(**fields)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("value", ["5", 5.0, None, True])
def test_rejects_an_invalid_number_of_tokens_to_test_on(value):
    with pytest.raises(
        sle.InvalidArgument,
        match=f"eval_tokens must be a positive integer; got {value!r}",
    ):
        TextConfig(eval_tokens=value)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("name", ["text", "column", "eval_text", "tokenizer"])
def test_rejects_an_invalid_name(name):
    with pytest.raises(sle.InvalidArgument, match=f"^{name} must be a string; got 5"):
        TextConfig(**{name: 5})


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_numpy_can_be_written_as_settings():
    config = PretrainConfig(steps=np.int64(5), lr=np.float32(0.5))
    text = TextConfig(eval_tokens=np.int32(400))
    for settings, expected in (
        (config, PretrainConfig(steps=5, lr=0.5)),
        (text, TextConfig(eval_tokens=400)),
    ):
        written = json.dumps(dataclasses.asdict(settings))
        assert json.loads(written) == dataclasses.asdict(expected)
