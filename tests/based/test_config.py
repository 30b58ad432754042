"""Configs are checked field by field, and survive JSON."""

import json

import numpy
import pytest
from transformers import AutoConfig

import sae_lens_ext as sle
from sae_lens_ext.based import BasedConfig, BasedForCausalLM

SMALL = {
    "vocab_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "layer_types": ["linear_attention"],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kernel": "rebase"},
            "kernel must be one of based, rebased, square, .*; got 'rebase'",
        ),
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
        (
            {"hidden_size": 8},
            "hidden_size=8 must be at least num_attention_heads=12, so that each head",
        ),
        (
            {"layer_types": ["conv"]},
            r"layer_types must have an entry for each of num_hidden_layers=18 layers; "
            r"got \['conv'\]",
        ),
        ({"layer_types": 5}, "layer_types must be a list of conv, .*; got 5"),
        (
            {"layer_types": ["con"] * 18},
            r"layer_types must be a list of conv, .*; got \['con'",
        ),
        ({"mlp": "gelu"}, "mlp must be one of swiglu, identity; got 'gelu'"),
        (
            {"sliding_window": -1},
            "sliding_window must be a non-negative integer; got -1",
        ),
        (
            {"sliding_window": None},
            "sliding_window must be a non-negative integer; got None",
        ),
        (
            {"intermediate_size": 0},
            "intermediate_size must be a positive integer; got 0",
        ),
        (
            {"max_position_embeddings": 0},
            "max_position_embeddings must be a positive integer; got 0",
        ),
        ({"rope_theta": 0}, "rope_theta must be a positive number; got 0"),
        ({"norm_eps": -1.0}, "norm_eps must be a non-negative number; got -1.0"),
        (
            {"initializer_range": float("inf")},
            "initializer_range must be a non-negative number; got inf",
        ),
        (
            {"embedding_dropout": 2.0},
            "embedding_dropout must be a number of at least 0 and below 1; got 2.0",
        ),
        ({"use_rope": "no"}, "use_rope must be True or False; got 'no'"),
        (
            {"tie_word_embeddings": 1},
            "tie_word_embeddings must be True or False; got 1",
        ),
        ({"use_cache": None}, "use_cache must be True or False; got None"),
        (
            {"rescale_prenorm_residual": "false"},
            "rescale_prenorm_residual must be True or False; got 'false'",
        ),
        ({"hidden_size": None}, "hidden_size must be a positive integer; got None"),
        (
            {"hidden_size": 1, "num_attention_heads": 1, "conv_expansion": 1},
            "conv_expansion=1 times hidden_size=1 must be at least 2: half of it is",
        ),
        (
            {"attention_eps": 0},
            "attention_eps must be a number of at least 1.17549e-38; got 0",
        ),
        (
            {"dtype": "float33"},
            "dtype must be the name of a dtype of torch, such as 'float32'; got "
            "'float33'",
        ),
        (
            {"torch_dtype": "Tensor"},
            "dtype must be the name of a dtype of torch, .*; got 'Tensor'",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_field(changes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        BasedConfig(**changes)


@pytest.mark.usefixtures("without_shape_checks")
def test_reports_all_invalid_fields_at_once():
    message = "hidden_size must be .* got 0; .*mlp must be one of .* got 'gelu'"
    with pytest.raises(sle.InvalidArgument, match=message):
        BasedConfig(hidden_size=0, mlp="gelu")


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_numpy_can_be_saved():
    config = BasedConfig(
        rope_theta=numpy.float32(500.0),
        use_rope=numpy.bool_(False),
        hidden_size=numpy.int64(24),
        norm_eps=numpy.float64(1e-6),
        tie_word_embeddings=numpy.bool_(False),
        use_cache=numpy.bool_(False),
    )
    fields = json.loads(config.to_json_string(use_diff=False))
    loaded = BasedConfig.from_dict(fields)
    assert loaded.rope_theta == 500.0
    assert loaded.use_rope is False
    assert loaded.hidden_size == 24
    assert loaded.tie_word_embeddings is False
    assert loaded.use_cache is False


def test_config_equals_itself_after_saving(tmp_path):
    config = BasedConfig(kernel="based", hidden_size=48, max_position_embeddings=16)
    config.save_pretrained(tmp_path)
    assert BasedConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_rejects_unknown_fields_and_accepts_those_of_transformers():
    message = "BasedConfig has no field hiden_size, bogus; the closest are hidden_size"
    with pytest.raises(sle.InvalidArgument, match=message):
        BasedConfig(hiden_size=8, bogus=1)
    config = BasedConfig(
        bos_token_id=1, dtype="float32", temperature=0.5, num_labels=3, _name="x"
    )
    assert config.bos_token_id == 1


def test_unknown_fields_of_a_file_are_stored_with_a_warning(tmp_path):
    config = BasedConfig()
    config.note = "mine"
    config.save_pretrained(tmp_path)
    message = "BasedConfig has no field note, of this config.json"
    for cls in (BasedConfig, AutoConfig):
        with pytest.warns(UserWarning, match=message):
            read = cls.from_pretrained(tmp_path)
        assert read.note == "mine"
        assert read.hidden_size == config.hidden_size


def test_every_field_survives_a_file_without_a_warning(tmp_path):
    BasedForCausalLM(BasedConfig(**SMALL)).save_pretrained(tmp_path)
    assert BasedConfig.from_pretrained(tmp_path).hidden_size == 8
    assert BasedForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 1
