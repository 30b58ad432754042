"""Fields of another library's config are checked, and all problems come together."""

import math

import pytest
from published import HUB_CONFIG, weights_of, with_changes, write_folder

import sae_lens_ext as sle
from sae_lens_ext.based.checkpoints.fields import Fields


def test_one_message_names_everything_wrong_with_a_config(tmp_path, refusal):
    config = with_changes(
        HUB_CONFIG,
        n_inner=None,
        activation_function="relu",
        alt_mixer_2={"window_size": None},
    )
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG), config)
    assert refusal(tmp_path) == (
        f"{tmp_path / 'config.json'} does not describe a model that can be loaded "
        "here: it lacks n_inner; activation_function is 'relu', and only 'swiglu' is "
        "supported here; it lacks alt_mixer_2.window_size"
    )


def test_reading_goes_on_after_a_problem(tmp_path):
    values = {"size": 2.0, "rate": math.inf, "layers": [0, 4], "inner": {"size": None}}
    fields = Fields(tmp_path, values)
    assert fields.integer("size") == 1
    assert fields.number("rate", 0.5) == 0.5
    assert fields.layers("layers", 4) == set()
    assert fields.section("inner").integer("size", at_least=3) == 3
    with pytest.raises(sle.FormatError) as caught:
        fields.check()
    assert str(caught.value).endswith(
        ": size must be a positive integer; got 2.0; rate must be a non-negative "
        "number; got inf; layers must list layers from 0 to 3; got [0, 4]; it lacks "
        "inner.size"
    )


def test_a_missing_field_and_null_take_the_default(tmp_path):
    fields = Fields(tmp_path, {"heads": None})
    assert "heads" not in fields
    assert fields.integer("heads", 4) == fields.integer("layers", 4) == 4
    assert fields.number("eps", 1e-5) == 1e-5
    assert fields.layers("windows", 4) == set()
    assert fields.expect("act", "swish", "swish", "silu") == "swish"
    assert fields.section("attn").values == {}
    fields.check()
