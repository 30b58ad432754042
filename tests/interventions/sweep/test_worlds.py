"""The logits of a world are those of a whole run, without running everything again."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for, partial
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
            {SITE: host.site(SITE)},
            {SITE: sae},
            {SITE: mask},
            batch_size=5,
            k=8,
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


def test_blocks_below_the_site_run_once(gemma2, tokens, sae):
    block_runs = []
    handles = [
        block.mlp.register_forward_hook(
            lambda *_, index=index: block_runs.append(index)
        )
        for index, block in enumerate(gemma2.blocks)
    ]
    sle.sweep_k(gemma2, tokens, sae, ks=[1, 2, 4], batch_size=5, progress=False)
    for handle in handles:
        handle.remove()
    # Once for the activations, once for the check that skipping is exact. Blocks 2 and
    # 3 run twice for that check, for the bare model, and for the five other worlds at
    # once.
    assert [block_runs.count(index) for index in range(4)] == [2, 2, 4, 4]


def test_a_model_in_which_skipping_is_not_exact_runs_whole(
    gemma2, tokens, sae, monkeypatch
):
    expected = sle.sweep_k(gemma2, tokens, sae, ks=[1, 4], progress=False)
    original = partial._forward_replaced

    def inexact(block, answer):
        return original(block, None if answer is None else answer + 1)

    monkeypatch.setattr(partial, "_forward_replaced", inexact)
    frame = sle.sweep_k(gemma2, tokens, sae, ks=[1, 4], progress=False)
    assert frame["ce"].tolist() == pytest.approx(expected["ce"].tolist(), rel=1e-6)
