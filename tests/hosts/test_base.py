"""Sites know their place in a run, and every adapter is a ``Host``."""

import pytest
import tiny

from sae_lens_ext.hosts import Host, Points, Site, TracingHost, host_for


@pytest.mark.parametrize(
    ("block", "point", "blocks_before"),
    [
        (None, None, 0),
        (2, None, 2),
        (2, "resid_pre", 2),
        (2, "mlp_out", 2),
        (2, "resid_post", 3),
    ],
)
def test_counts_the_blocks_before_a_site(block, point, blocks_before):
    site = Site("name", "key", block, point)
    assert site.blocks_before == blocks_before


def test_sites_sort_in_the_order_of_a_run():
    points = ["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    sites = [Site("name", "key", block, point) for block in (0, 1) for point in points]
    mixed = [*sites[5:], *sites[:5]]
    assert sorted(mixed, key=lambda site: site.when) == sites
    assert Site("name", "key", 1).when is None
    assert Site("name", "key").when is None


def test_only_the_stream_between_blocks_is_residual():
    residual = [
        point
        for point in (None, "resid_pre", "resid_mid", "resid_post", "attn_out", "z")
        if Site("name", "key", 1, point).is_residual
    ]
    assert residual == ["resid_pre", "resid_post"]


def test_points_of_a_host_without_hook_points_compute_nothing():
    computed = []
    assert Points().passed("hook_sae_input", lambda: computed.append(1)) is None
    assert not computed


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_every_adapter_is_a_host(name):
    host = host_for(tiny.hosted(name))
    assert isinstance(host, Host)
    assert isinstance(host, TracingHost) == (name in ("nnsight", "transformers_model"))


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_every_adapter_describes_the_model(name):
    host = host_for(tiny.hosted(name))
    assert len(host.blocks) == 4
    assert host.d_vocab == 96
    assert host.embed is not None
    assert host.unembed is not None
    assert host.width(host.site("blocks.1.hook_resid_post")) == 32
    assert host.width(host.site("blocks.1.attn.hook_z")) is None


def test_no_block_is_known_to_have_run_before_a_site_outside_of_blocks():
    """So a sweep skips none: such a site may be read before the first block."""
    outside = Site("embed", "embed", None, None)
    first = Site("blocks.0.hook_resid_pre", "key", 0, "resid_pre")
    assert outside.blocks_before == first.blocks_before == 0
    assert outside.blocks_before < Site("name", "key", 0, "resid_post").blocks_before


def test_a_site_without_a_known_time_is_not_sorted_like_one_with_it():
    """A block alone does not say where in the block, nor a point alone in which."""
    in_a_block = Site("layers.1.mlp.act", "key", 1, None)
    of_a_point = Site("name", "key", None, "resid_pre")
    assert in_a_block.when is None
    assert of_a_point.when is None
    known = Site("name", "key", 1, "mlp_out")
    assert known.when == (1, 5)
    assert in_a_block.blocks_before == 1
