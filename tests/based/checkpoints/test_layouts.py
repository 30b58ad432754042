"""Published names lead to the parameters of our models, at full size."""

import math

import published
import pytest
from published import HUB_CONFIG, NORMS, with_changes

from sae_lens_ext.based import BasedConfig, preset
from sae_lens_ext.based.checkpoints.assemble import empty_model, expected_shapes
from sae_lens_ext.based.checkpoints.configs import from_hub
from sae_lens_ext.based.checkpoints.feature_maps import find_norms
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import FLA, HUB, ZOOLOGY, mixers, places

FULL = with_changes(
    HUB_CONFIG,
    n_embd=1024,
    n_inner=2048,
    n_head=16,
    n_layer=27,
    vocab_size=50257,
    embd_pdrop=0.0,
    alt_mixer={"feature_dim": 16, "num_heads": 16, "feature_map": {"input_dim": 16}},
    alt_mixer_layers=[1, 6, 11, 16, 21],
    alt_mixer_2={"window_size": 128, "num_heads": 16},
    alt_mixer_2_layers=[2, 7, 12, 17, 22],
)
SMALL = with_changes(
    FULL,
    n_embd=768,
    n_inner=1536,
    n_head=12,
    n_layer=18,
    vocab_size=50277,
    alt_mixer={"num_heads": 12},
    alt_mixer_layers=list(range(1, 18, 2)),
)
del SMALL["alt_mixer_2"]
del SMALL["alt_mixer_2_layers"]
LARGE = with_changes(
    FULL,
    n_embd=1792,
    n_inner=3584,
    n_layer=36,
    alt_mixer_layers=[1, 6, 11, 16, 21, 27, 33],
    alt_mixer_2_layers=[2, 7, 12, 17, 22, 28, 34],
)


@pytest.mark.parametrize(
    ("name", "config", "norms"),
    [
        ("based-360m", FULL, ()),
        ("rebased-360m", FULL, NORMS),
        ("based-1.3b", LARGE, ()),
        ("based-small", SMALL, ()),
        ("rebased-small", SMALL, NORMS),
    ],
)
def test_at_full_size_exactly_the_published_tensors_are_expected(
    name, config, norms, tmp_path
):
    shapes = published.hub_shapes({"alt_mixer_2_layers": [], **config}, norms)
    del shapes["lm_head.weight"]
    fields = Fields(tmp_path, config)
    values = from_hub(fields, shapes, "based")
    ours = BasedConfig(kernel="rebased" if norms else "based", **values)
    fields.check()
    assert ours.to_dict() == preset(name).to_dict()

    mixer = {
        name.partition(".mixer.")[2]: shape
        for name, shape in shapes.items()
        if ".layers.1.mixer." in name
    }
    norm_names = find_norms([mixer]).names if norms else {}
    model = empty_model(ours)
    parameters = dict(model.named_parameters())
    tensor_places = places(HUB, ours, shapes, norm_names, parameters)
    assert expected_shapes(model, tensor_places) == shapes

    n_published = sum(math.prod(shape) for shape in shapes.values())
    assert n_published == sum(parameter.numel() for parameter in model.parameters())


def test_the_shapes_of_based_360m_written_out():
    """As candle's loader has them: what the table in ``published.py`` must come to."""
    shapes = published.hub_shapes(FULL)
    assert shapes["transformer.embeddings.word_embeddings.weight"] == [50264, 1024]

    first_layer = {
        name.removeprefix("transformer.layers.0."): shape
        for name, shape in shapes.items()
        if ".layers.0." in name
    }
    assert first_layer == {
        "norm1.weight": [1024],
        "norm2.weight": [1024],
        "mlp.fc1.weight": [4096, 1024],
        "mlp.fc2.weight": [1024, 2048],
        "mixer.in_proj.weight": [4096, 1024],
        "mixer.in_proj.bias": [4096],
        "mixer.conv.conv.weight": [2048, 1, 3],
        "mixer.out_proj.weight": [1024, 2048],
        "mixer.out_proj.bias": [1024],
    }

    linear = "transformer.layers.1.mixer"
    assert shapes[f"{linear}.proj_q.weight"] == [256, 1024]
    assert shapes[f"{linear}.proj_k.weight"] == [256, 1024]
    assert shapes[f"{linear}.proj_v.weight"] == [1024, 1024]
    assert shapes[f"{linear}.out_proj.weight"] == [1024, 1024]
    assert shapes["transformer.layers.2.mixer.Wqkv.weight"] == [3072, 1024]


def test_mixers_are_found_in_the_layout_that_has_them():
    shapes = {
        "backbone.layers.0.sequence_mixer.conv.weight": [4, 1, 3],
        "backbone.layers.10.sequence_mixer.proj_q.weight": [8, 4],
        "backbone.layers.10.norm1.weight": [4],
    }
    name, by_layer = mixers(ZOOLOGY, shapes)
    assert name == "sequence_mixer"
    assert by_layer == {0: {"conv.weight": [4, 1, 3]}, 10: {"proj_q.weight": [8, 4]}}
    assert mixers(HUB, shapes) == ("mixer", {})
    assert mixers(FLA, shapes) == ("attn", {})
