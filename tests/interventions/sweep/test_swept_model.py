"""The logits of a world are those of a whole run, without running everything again."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for, skipping
from sae_lens_ext.interventions.sites import placements
from sae_lens_ext.interventions.sweep import (
    Bare,
    MeanAblated,
    Spliced,
    SweptModel,
    ZeroAblated,
)

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def tokens():
    """Five rows of random words behind a BOS."""
    return tiny.tokens(rows=5, length=12)


def test_each_world_is_a_run_with_the_site_replaced(gemma2, tokens, sae):
    host = host_for(gemma2)
    mask = torch.arange(12).expand(5, 12) > 2
    scored = torch.arange(11)
    _, cache = gemma2.run_with_cache(tokens, names_filter=SITE)
    mean = cache[SITE][mask].mean(0)
    replacements = {
        Bare(): lambda x: x,
        MeanAblated(): lambda x: mean.expand_as(x),
        ZeroAblated(): torch.zeros_like,
        Spliced(3): lambda x: sae(x, 3),
        Spliced(8): lambda x: sae(x, 8),
    }

    with torch.no_grad():
        swept = SweptModel(
            host,
            tokens,
            placements(host, {SITE: sae}),
            {SITE: mask},
            batch_size=5,
            ks=[8],
            extrapolate=False,
        )
        by_world = swept.logits(slice(None), list(replacements), scored)
        for replace, logits in zip(replacements.values(), by_world, strict=True):
            hook = (
                SITE,
                lambda x, hook, replace=replace: replace(x).where(mask[..., None], x),
            )
            expected = gemma2.run_with_hooks(tokens, fwd_hooks=[hook])[:, :-1]
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_blocks_below_the_site_run_twice(gemma2, tokens, sae, monkeypatch):
    block_runs = []
    # Not by hooks, which would take part in the sweep.
    for index, block in enumerate(gemma2.blocks):

        def forward(*arguments, forward=block.mlp.forward, index=index, **keywords):
            block_runs.append(index)
            return forward(*arguments, **keywords)

        monkeypatch.setitem(block.mlp.__dict__, "forward", forward)
    sle.sweep_k(gemma2, tokens, sae, ks=[1, 2, 4], batch_size=5, progress=False)
    # All run for the bare model, blocks 0 and 1 once before, for the activations.
    # Blocks 2 and 3 run once more for the check that skipping is exact, and once for
    # the five other worlds together.
    assert [block_runs.count(index) for index in range(4)] == [2, 2, 3, 3]


def test_worlds_are_rows_of_one_run_unless_hooks_may_tell_rows_apart(
    gemma2, tokens, sae
):
    sizes = []
    watched = gemma2.blocks[3]
    forward = watched.forward

    def recorded(hidden, *arguments, **keywords):
        sizes.append(len(hidden))
        return forward(hidden, *arguments, **keywords)

    options = {"ks": [1, 2], "batch_size": 5, "progress": False}
    watched.__dict__["forward"] = recorded
    try:
        sle.sweep_k(gemma2, tokens, sae, **options)
        assert sizes == [5, 10, 20], "the bare model, the check, four worlds"
        sizes.clear()
        with sle.splice(gemma2, {"blocks.2.hook_attn_out": tiny.sae(seed=1)}):
            sle.sweep_k(gemma2, tokens, sae, **options)
        assert sizes == [5] * 6
    finally:
        del watched.__dict__["forward"]


def test_a_model_in_which_skipping_is_not_exact_runs_whole(
    gemma2, tokens, sae, monkeypatch
):
    expected = sle.sweep_k(gemma2, tokens, sae, ks=[1, 4], progress=False)
    original = skipping._returning
    n_called = []

    def inexact(residual, output):
        n_called.append(1)
        return original(None if residual is None else residual + 1, output)

    monkeypatch.setattr(skipping, "_returning", inexact)
    frame = sle.sweep_k(gemma2, tokens, sae, ks=[1, 4], progress=False)
    assert n_called
    assert frame["ce"].tolist() == pytest.approx(expected["ce"].tolist(), rel=1e-6)
