"""A guarded run knows the text that it goes on with, or says why it cannot."""

import math

import pytest
import tiny
import torch
from torch import nn
from transformers import DynamicCache

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
OTHER = "blocks.2.hook_resid_post"
BOUND = 0.6


@pytest.fixture(scope="module")
def model():
    return tiny.hosted("torch")


@pytest.fixture(scope="module")
def sae():
    return tiny.sae()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def chosen_by(model, sae, ids, **options):
    with sle.splice(model, sae, sle.until_kl(BOUND), **options) as spliced:
        model(ids)
        return spliced.chosen.ks


def test_a_text_that_a_cache_continues_has_the_k_of_the_whole_text(model, sae):
    ids = tiny.tokens(rows=2, length=6)
    whole = chosen_by(model, sae, ids)
    with sle.splice(model, sae, sle.until_kl(BOUND)) as spliced:
        cache = model(ids[:, :3], use_cache=True).past_key_values
        assert torch.equal(spliced.chosen.ks, whole[:, :3])
        model(ids[:, 3:], past_key_values=cache)
        assert torch.equal(spliced.chosen.ks, whole)
    assert len(whole.unique()) > 2


def test_a_model_without_a_cache_has_the_same_k(model, sae):
    class WithoutCache(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids):
            return self.inner(input_ids, use_cache=False).logits

    ids = tiny.tokens(rows=2, length=5)
    expected = chosen_by(model, sae, ids)
    assert torch.equal(chosen_by(WithoutCache(model), sae, ids), expected)


def test_columns_where_nothing_is_spliced_are_read_at_once(model, sae):
    ids = tiny.tokens(rows=2, length=7)
    shapes = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(
            tuple((args[0] if args else kwargs["input_ids"]).shape)
        ),
        with_kwargs=True,
    )
    ks = chosen_by(model, sae, ids, positions=slice(4, 6))
    handle.remove()
    # Two rows of the reference and of six values of k; without a choice, of one k.
    assert shapes == [(4, 4), (14, 1), (14, 1), (4, 1), (2, 7)]
    assert (ks > 0).tolist() == [[False] * 4 + [True] * 2 + [False]] * 2


def test_other_splices_take_part(model, sae):
    ids = tiny.tokens(rows=2, length=5)
    alone = chosen_by(model, sae, ids)
    other = tiny.sae(k=4, seed=1, hook_name=OTHER)
    with sle.splice(model, other, k=2):
        ks = chosen_by(model, sae, ids)
        with sle.splice(model, sae, ks):
            replayed = model(ids).logits
        with sle.splice(model, sae, sle.until_kl(BOUND)):
            assert torch.equal(model(ids).logits, replayed)
    assert not torch.equal(ks, alone)


def test_every_active_feature_is_counted(model):
    sae = tiny.sae_of_kind("jumprelu", hook_name=SITE).float()
    ids = tiny.tokens(rows=2, length=4)
    every = sle.until_kl(0, ks=[sae.config.d_sae])
    with sle.splice(model, sae, every) as spliced:
        logits = model(ids).logits
        assert torch.equal(spliced.chosen.ks, spliced.codes[SITE].l0().clamp(min=1))
        spliced.k = None
        assert torch.equal(model(ids).logits, logits)


def test_k_can_be_turned_between_runs(model, sae):
    ids = tiny.tokens(rows=1, length=4)
    with sle.splice(model, sae, k=3) as spliced:
        at_3 = model(ids).logits
        assert spliced.chosen is None
        spliced.k = sle.until_kl(math.inf, ks=[3, 5])
        assert torch.equal(model(ids).logits, at_3)
        assert spliced.k == sle.until_kl(math.inf, ks=[5, 3])
        assert spliced.chosen.ks.tolist() == [[3] * 4]
        spliced.k = 3
        assert torch.equal(model(ids).logits, at_3)
        assert spliced.chosen is None
    assert tiny.hooks_of(model) == tiny.hooks_of(tiny.hosted("torch"))


def test_run_with_cache_chooses_the_same_k(sae):
    model = tiny.hosted("lens")
    ids = tiny.tokens(rows=2, length=4)
    with sle.splice(model, sae, sle.until_kl(BOUND)) as spliced:
        expected = model(ids)
        ks = spliced.chosen.ks
        logits, cache = model.run_with_cache(ids)
        assert torch.equal(spliced.chosen.ks, ks)
        with pytest.raises(sle.InvalidArgument, match="stops the runs of this model"):
            model.run_with_cache(ids, stop_at_layer=2)
    torch.testing.assert_close(logits, expected)
    assert len(cache[SITE]) == 2


def test_rejects_a_cache_that_was_filled_outside(model, sae):
    ids = tiny.tokens(rows=1, length=5)
    cache = DynamicCache(config=model.config)
    model(ids[:, :3], past_key_values=cache)
    with (
        pytest.raises(sle.InvalidArgument, match="that this splice has not seen"),
        sle.splice(model, sae, sle.until_kl(BOUND)),
    ):
        model(ids[:, 3:], past_key_values=cache)


def test_rejects_a_cache_whose_rows_were_moved(model, sae):
    ids = tiny.tokens(rows=2, length=5)
    with sle.splice(model, sae, sle.until_kl(BOUND)):
        cache = model(ids[:, :3], use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(sle.InvalidArgument, match="its rows were moved"):
            model(ids[:, 3:], past_key_values=cache)


def test_rejects_two_guarded_splices(model, sae):
    other = tiny.sae(seed=1, hook_name=OTHER)
    with (
        sle.splice(model, sae, sle.until_kl(BOUND)),
        sle.splice(model, other, sle.until_kl(BOUND)),
        pytest.raises(sle.InvalidArgument, match="two splices with until_kl"),
    ):
        model(tiny.tokens(rows=1, length=3))


def test_rejects_runs_whose_k_cannot_be_chosen(model, sae):
    ids = tiny.tokens(rows=1, length=4)
    embeddings = model.get_input_embeddings()(ids)
    with sle.splice(model, sae, sle.until_kl(BOUND)) as spliced:
        with pytest.raises(sle.InvalidArgument, match="not given token ids"):
            model(inputs_embeds=embeddings)
        with pytest.raises(sle.InvalidArgument, match="cannot hand on encoder_mask"):
            model(ids, encoder_mask=ids)
        with pytest.raises(sle.InvalidArgument, match="packed into one row"):
            model(ids, position_ids=torch.tensor([[0, 1, 0, 1]]))
        with pytest.raises(sle.InvalidArgument, match="a run of a part of it"):
            model.model(ids)
        spliced.edits = [sle.Ablate(range(4), to="mean")]
        with pytest.raises(sle.InvalidArgument, match="the mean over a run's tokens"):
            model(ids)


def test_rejects_invalid_bounds(model, sae):
    for bound in (-0.1, math.nan, True):
        with pytest.raises(sle.InvalidArgument, match="bound must be a number"):
            sle.until_kl(bound)
    for ks in ([], [0, 2]):
        with pytest.raises(sle.InvalidK, match="ks must be a list of positive"):
            sle.until_kl(0.1, ks=ks)
    for extrapolate in (False, True):
        with pytest.raises(sle.InvalidK, match="k=16 is above k=8.*leave it out"):
            sle.splice(
                model, sae, sle.until_kl(0.1, ks=[4, 16]), extrapolate=extrapolate
            )
    saes = {SITE: sae, OTHER: sae}
    rules = {SITE: sle.until_kl(0.1), OTHER: sle.until_kl(0.2)}
    with pytest.raises(sle.InvalidK, match="must share one bound"):
        sle.splice(model, saes, rules)


def test_candidates_go_up_to_the_largest_k_and_lie_closer_there():
    ks = sle.until_kl(0.1).candidates(64)
    assert ks == (1, 10, 18, 28, 39, 51, 64)
    assert sle.until_kl(0.1).candidates(8) == (1, 2, 3, 5, 6, 8)
    # Of an SAE that was not trained at a k, every active feature as well.
    assert sle.until_kl(0.1).candidates(4096)[-3:] == (203, 256, 4096)
    assert sle.until_kl(0.1, ks=[9, 5]).candidates(48) == (5, 9)
