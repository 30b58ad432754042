"""A config of any version says the same things."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.formats.saelens.config import described

NEW = {
    "architecture": "topk",
    "d_in": 6,
    "d_sae": 20,
    "k": 4,
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "hook_z",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.attn.hook_z"},
}
OLD = {
    "d_in": 6,
    "d_sae": 20,
    "activation_fn": "topk",
    "activation_fn_kwargs": {"k": 4},
    "hook_point": "blocks.1.attn.hook_z",
    "hook_point_layer": 1,
    "normalize_activations": False,
    "use_ghost_grads": True,
    "lr": 3e-4,
}


def test_the_names_of_older_versions_mean_the_same():
    new = described(NEW, "cfg.json")
    old = described(OLD, "cfg.json")
    for field in ("architecture", "d_in", "d_sae", "k", "normalize_activations"):
        assert getattr(old, field) == getattr(new, field), field
    assert old.apply_b_dec_to_input is True
    assert old.metadata == {
        "hook_name": "blocks.1.attn.hook_z",
        "hook_layer": 1,
        "reshape_activations": "hook_z",
    }
    assert new.metadata["reshape_activations"] == "hook_z"


@pytest.mark.parametrize(
    "version", ["6.0.0rc1", "6.0.0", "6.54.12", "5.11.0", "3.0.0", None]
)
def test_every_version_from_3_to_6_is_read(version):
    is_new = version is not None and version.startswith("6")
    config = NEW if is_new else {**OLD, "sae_lens_version": version}
    if is_new:
        config = {**NEW, "metadata": {"sae_lens_version": version}}
    assert described(config, "cfg.json").k == 4


@pytest.mark.parametrize(
    ("changes", "normalization"),
    [
        (True, "expected_average_only_in"),
        (False, "none"),
        (None, "none"),
        ("layer_norm", "layer_norm"),
    ],
)
def test_a_normalisation_was_a_boolean_once(changes, normalization):
    config = {**OLD, "normalize_activations": changes}
    assert described(config, "cfg.json").normalize_activations == normalization


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "tanh-relu"}, "activation_fn_str is 'tanh-relu' with archi"),
        ({"architecture": "gated"}, "'topk' with architecture 'gated'"),
        ({"activation_fn_kwargs": {}}, "lacks k in activation_fn_kwargs"),
        (
            {"activation_fn_kwargs": [4]},
            "activation_fn_kwargs must be an object; it is",
        ),
        (
            {"activation_fn_kwargs": {"k": 4, "signed": True}},
            "activation_fn_kwargs sets 'signed' to True",
        ),
        ({"sae_lens_version": "seven"}, "has sae_lens_version 'seven'"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input must be true or false"),
    ],
)
def test_rejects_options_that_it_does_not_know(changes, message):
    with pytest.raises(sle.FormatError, match=message):
        described({**OLD, **changes}, "cfg.json")
