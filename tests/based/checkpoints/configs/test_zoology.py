"""Configs of zoology become ours, or an error that names what does not fit."""

import pytest
import torch
from published import (
    ZOOLOGY_CONFIG,
    renamed,
    weights_of,
    with_changes,
    write_folder,
)

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


def with_options(conv=(), attention=(), **changes):
    """The config with other options of its two mixers, and other fields."""
    config = with_changes(ZOOLOGY_CONFIG)
    mixers = config["sequence_mixer"]["kwargs"]["configs"]
    mixers[0]["kwargs"].update(conv)
    mixers[1]["kwargs"].update(attention)
    return {**config, **changes}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            with_options(attention={"num_heads": None}),
            r"it lacks sequence_mixer.kwargs.configs\[1\].kwargs.num_heads",
        ),
        (
            with_options(attention={"num_key_value_heads": 2}),
            "num_key_value_heads is 2, and only 4 is supported here",
        ),
        (
            with_options(conv={"use_act": True}),
            r"configs\[0\].kwargs.use_act is True, and only False is supported here",
        ),
        (
            with_options(attention={"use_gamma": True}),
            "use_gamma is an option of ReBased, and the weights have no norm .*: name "
            "with kernel= which",
        ),
        (
            with_options(sequence_mixer={"kwargs": {"configs": []}}),
            r"sequence_mixer.kwargs.configs must list mixers; got \[\]",
        ),
        (
            with_options(layer_norm_epsilon=1e-6),
            "layer_norm_epsilon is 1e-06, and only 1e-05 is supported here",
        ),
        (
            with_options(block_type="MambaBlock"),
            "block_type is 'MambaBlock', and only 'TransformerBlock' is supported here",
        ),
    ],
)
def test_rejects_a_config_that_does_not_fit(config, message, tmp_path):
    write_folder(tmp_path, weights_of("zoology", ZOOLOGY_CONFIG), config)
    with pytest.raises(
        sle.FormatError,
        match="config.json does not describe a model that can be loaded here: "
        f".*{message}",
    ):
        load_checkpoint(tmp_path)


def test_rejects_an_unknown_mixer(tmp_path, refusal):
    weights = renamed(
        weights_of("zoology", ZOOLOGY_CONFIG),
        ".1.sequence_mixer.mixer.proj_q",
        ".1.sequence_mixer.mixer.Wqkv",
    )
    assert (
        "layer 1 holds Wqkv.weight, proj_k.weight, proj_o.weight, proj_v.weight, and "
        "only a convolution with projection.weight"
    ) in refusal(write_folder(tmp_path, weights, ZOOLOGY_CONFIG))


def test_rejects_an_mlp(tmp_path, refusal):
    """As in elephantmipt/rebased_minimal, whose MLP is GELU's."""
    weights = weights_of("zoology", ZOOLOGY_CONFIG)
    weights["backbone.layers.0.state_mixer.fc1.weight"] = torch.ones(88, 22)
    assert (
        "its state_mixer has weights, and only the identity is supported here"
        in refusal(write_folder(tmp_path, weights, ZOOLOGY_CONFIG))
    )
