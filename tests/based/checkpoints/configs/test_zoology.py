"""Configs of zoology become ours, or an error that names what does not fit."""

import pytest
import torch
from published import (
    NORMS,
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
            with_options(attention={"feature_name": "pos_elu"}),
            "feature_name is 'pos_elu', and the weights would be loaded with the .*"
            "kernel='based'",
        ),
        (
            with_options(attention={"feature_name": None}),
            "feature_name is None, and the weights would be loaded",
        ),
        (
            with_options(attention={"causal": False}),
            r"kwargs.causal is False, and only True .* tokens attend to later ones",
        ),
        (
            with_options(attention={"causal": None}),
            "kwargs.causal is None, and only True is supported here",
        ),
        (
            with_options(attention={"qk_norm": True}),
            "qk_norm is True, .* are normalised before the Taylor kernel",
        ),
        (
            with_options(attention={"use_rotary": True}),
            "use_rotary is True, an option that is not known here and may change",
        ),
        (
            with_options(conv={"activation": "gelu"}),
            r"configs\[0\].kwargs.activation is 'gelu', an option that is not known",
        ),
        (
            with_options(state_mixer={"name": "torch.nn.ReLU", "kwargs": {}}),
            "state_mixer.name is 'torch.nn.ReLU', and only the identity is supported",
        ),
        (with_options(pre_norm=False), "pre_norm is False, and only True is supported"),
        (
            with_options(logit_scale=0.5),
            "logit_scale is 0.5, an option that is not known here",
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


def test_options_without_effect_on_numbers_are_accepted(tmp_path):
    """As zoology and corl-team/rebased write them."""
    config = with_options(
        conv={"implicit_long_conv": True, "use_act": False},
        attention={
            "feature_name": "taylor_exp",
            "causal": True,
            "qk_norm": False,
            "train_view": "quadratic",
        },
        resid_dropout=0.1,
        drop_path=0.1,
        learnable_word_embeddings=True,
        use_gamma=True,
        normalize=True,
        num_heads=1,
        name="default",
    )
    write_folder(tmp_path, weights_of("zoology", ZOOLOGY_CONFIG), config)
    assert load_checkpoint(tmp_path).config.kernel == "based"


@pytest.mark.parametrize("kernel", [None, "rebased", "affine_square"])
@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_must_be_that_of_the_kernel(tmp_path, kernel, normalize):
    config = with_options(attention={"normalize": normalize, "use_beta": True})
    write_folder(tmp_path, weights_of("zoology", config, NORMS), config)
    if normalize == (kernel != "affine_square"):
        assert load_checkpoint(tmp_path, kernel=kernel).config.kernel == (
            kernel or "rebased"
        )
    else:
        with pytest.raises(sle.FormatError, match="kwargs.normalize is .* for kernel="):
            load_checkpoint(tmp_path, kernel=kernel)


def test_taylor_kernel_of_normalised_queries_is_rejected_by_name(tmp_path, refusal):
    """Its tensors are those of ReBased, whose kernel is another one."""
    config = with_options(attention={"qk_norm": True, "feature_name": "taylor_exp"})
    write_folder(tmp_path, weights_of("zoology", config, NORMS), config)
    assert "configs[1].kwargs.qk_norm is True, and only False" in refusal(tmp_path)
