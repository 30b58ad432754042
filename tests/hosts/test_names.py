"""Names of sites in every spelling, and paths of whole blocks."""

import pytest

from sae_lens_ext.hosts import spellings
from sae_lens_ext.hosts.names import (
    POINTS_IN_ORDER,
    RESIDUAL_POINTS,
    block_and_point,
    name_of_path,
)


@pytest.mark.parametrize(
    "names",
    [
        ["blocks.3.hook_resid_pre", "blocks.3.hook_in"],
        ["blocks.3.hook_resid_mid", "blocks.3.ln2.hook_in"],
        ["blocks.3.hook_resid_post", "blocks.3.hook_out"],
        ["blocks.3.hook_attn_out"],
        ["blocks.3.hook_mlp_out"],
        ["blocks.3.attn.hook_z", "blocks.3.attn.o.hook_in"],
    ],
)
def test_every_spelling_leads_to_all(names):
    for name in names:
        assert spellings(name) == names
    assert len({block_and_point(name) for name in names}) == 1


def test_every_point_has_a_name():
    names = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid"]
    names += ["hook_mlp_in", "hook_mlp_out", "hook_resid_post"]
    points = [block_and_point(f"blocks.12.{name}") for name in names]
    assert points == [(12, point) for point in POINTS_IN_ORDER]
    assert set(RESIDUAL_POINTS) < set(POINTS_IN_ORDER)


@pytest.mark.parametrize(
    "name",
    ["hook_embed", "blocks.x.hook_in", "blocks.1.hook_nothing", "my.blocks.1.hook_in"],
)
def test_any_other_name_stands_for_itself(name):
    assert block_and_point(name) is None
    assert spellings(name) == [name]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layers.3", "blocks.3.hook_resid_post"),
        ("model.layers.3", "blocks.3.hook_resid_post"),
        ("transformer.h.12.output", "blocks.12.hook_resid_post"),
        ("model.layers.3.input", "blocks.3.hook_resid_pre"),
        ("model.layers.3.mlp", None),
        ("mylayers.3", None),
        ("model.layers", None),
    ],
)
def test_the_path_of_a_whole_block_has_a_name(path, name):
    assert name_of_path(path) == name
