"""Published weights give the published logits.

Random weights under published names are loaded and compared with ``published.py``,
which knows no model of this package.
"""

import pytest
import torch
from published import (
    FLA_CONFIG,
    HUB_CONFIG,
    NORMS,
    ZOOLOGY_CONFIG,
    error_of,
    logits_of,
    renamed,
    weights_of,
    with_changes,
    write_folder,
)

from sae_lens_ext.based import load_checkpoint

# Without attention over a window there are no rotary positions, whose angles are
# float32 here as in what is published.
EXACT_HUB = with_changes(HUB_CONFIG, alt_mixer_2_layers=[])
EXACT_FLA = with_changes(FLA_CONFIG, attn={"layers": []})
ROTARY = 1e-6
EXACT = 1e-12

CASES = {
    "hub, Based": ("hub", HUB_CONFIG, (), ROTARY),
    "hub, ReBased": ("hub", HUB_CONFIG, NORMS, ROTARY),
    "hub, Based without window": ("hub", EXACT_HUB, (), EXACT),
    "hub, ReBased without window": ("hub", EXACT_HUB, NORMS, EXACT),
    "hub, other names of norms": ("hub", EXACT_HUB, ("q_norm", "k_norm"), EXACT),
    "hub, norms in words": (
        "hub",
        EXACT_HUB,
        ("attn.query_norm", "attn.key_norm"),
        EXACT,
    ),
    "hub, LayerNorm's eps": (
        "hub",
        with_changes(EXACT_HUB, layer_norm_epsilon=1e-2),
        NORMS,
        EXACT,
    ),
    "zoology, Based": ("zoology", ZOOLOGY_CONFIG, (), EXACT),
    "zoology, ReBased": ("zoology", ZOOLOGY_CONFIG, NORMS, EXACT),
    "fla, Based": ("fla", FLA_CONFIG, False, ROTARY),
    "fla, ReBased": ("fla", FLA_CONFIG, True, ROTARY),
    "fla, Based without window": ("fla", EXACT_FLA, False, EXACT),
    "fla, ReBased without window": ("fla", EXACT_FLA, True, EXACT),
}


@pytest.mark.parametrize("case", CASES)
def test_published_weights_give_the_published_logits(case, tmp_path):
    layout, config, norms, tolerance = CASES[case]
    weights = weights_of(layout, config, norms)
    model = load_checkpoint(write_folder(tmp_path, weights, config))

    assert model.config.kernel == ("rebased" if norms else "based")
    assert error_of(model, logits_of(layout, weights, config, norms)) < tolerance


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("0.mlp.fc1.weight", lambda tensor: torch.cat(tensor.chunk(2)[::-1])),
        ("3.mixer.in_proj.weight", lambda tensor: torch.cat(tensor.chunk(2)[::-1])),
        ("2.mixer.Wqkv.weight", lambda tensor: tensor.roll(24, 0)),
        ("0.mixer.conv.conv.weight", lambda tensor: tensor.flip(2)),
        ("4.mixer.ln_q.bias", torch.neg),
        ("1.norm1.weight", lambda tensor: tensor.flip(0)),
    ],
)
def test_one_tensor_in_disorder_is_noticed(name, spoil, tmp_path):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    name = f"transformer.layers.{name}"
    spoilt = {**weights, name: spoil(weights[name])}
    model = load_checkpoint(write_folder(tmp_path, spoilt))
    logits = logits_of("hub", weights, HUB_CONFIG, NORMS)
    assert error_of(model, logits) > 1000 * ROTARY


@pytest.mark.parametrize(
    "change",
    [
        {"alt_mixer_2": {"window_size": 8}},
        {"rotary_emb_fraction": 0},
        {"rotary_emb_base": 500},
        {"layer_norm_epsilon": 1e-3},
    ],
    ids=str,
)
def test_options_that_only_the_config_has_are_heeded(change, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    config = with_changes(HUB_CONFIG, **change)
    model = load_checkpoint(write_folder(tmp_path, weights, config))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG)) > 100 * ROTARY


def with_prefix(weights):
    return {f"model.{name}": tensor for name, tensor in weights.items()}


def with_counters(weights):
    return {
        **weights,
        "train_metrics.num-tokens.count": torch.tensor(7),
        "val_metrics.loss": torch.tensor(float("nan")),
    }


def with_buffers(weights):
    return {
        **weights,
        "transformer.decay.decay": torch.zeros(3),
        "transformer.layers.2.mixer.rotary_emb.inv_freq": torch.ones(4),
    }


def without_head(weights):
    return {
        name: tensor for name, tensor in weights.items() if name != "lm_head.weight"
    }


@pytest.mark.parametrize(
    "change",
    [
        with_prefix,
        with_counters,
        with_buffers,
        without_head,
        lambda weights: renamed(weights, ".conv.conv.", ".conv1.conv."),
        lambda weights: with_prefix(with_counters(weights)),
    ],
    ids=[
        "prefix",
        "counters",
        "buffers",
        "no head",
        "an older name",
        "prefix and counters",
    ],
)
def test_differences_between_uploads_do_not_matter(change, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    model = load_checkpoint(write_folder(tmp_path, change(weights)))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG)) < ROTARY


def test_the_output_of_linear_attention_may_have_corl_s_name(tmp_path):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    renamed_weights = {}
    for name, tensor in weights.items():
        if ".1.mixer" in name or ".4.mixer" in name:
            name = name.replace("out_proj", "proj_o")
        renamed_weights[name] = tensor
    model = load_checkpoint(write_folder(tmp_path, renamed_weights))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG, NORMS)) < ROTARY


def test_models_of_zoology_without_hybrid_layers_are_read(tmp_path):
    weights = weights_of("zoology", ZOOLOGY_CONFIG)
    short = renamed(weights, ".sequence_mixer.mixer.", ".sequence_mixer.")
    training_config = {"model": ZOOLOGY_CONFIG, "learning_rate": 0.001}
    model = load_checkpoint(write_folder(tmp_path, short, training_config))
    assert error_of(model, logits_of("zoology", weights, ZOOLOGY_CONFIG)) < EXACT


def test_layers_without_a_mixer_are_softmax_attention_over_all_tokens(tmp_path):
    """As hazyresearch/attn-360m: the window never ends."""
    config = {key: value for key, value in HUB_CONFIG.items() if "mixer" not in key}
    with_long_window = with_changes(
        HUB_CONFIG,
        alt_mixer_layers=[],
        alt_mixer_2_layers=list(range(5)),
        alt_mixer_2={"window_size": 100},
    )
    weights = weights_of("hub", with_long_window)
    model = load_checkpoint(write_folder(tmp_path, weights, config))
    assert model.config.layer_types == ["full_attention"] * 5
    assert error_of(model, logits_of("hub", weights, with_long_window)) < ROTARY
