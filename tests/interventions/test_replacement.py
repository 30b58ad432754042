"""At a site, the chosen positions are replaced and the others keep their bits."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_codes_are_the_features_of_the_last_run(model, sae):
    tokens = tiny.tokens()
    _, cache = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=5) as spliced:
        assert spliced.codes == {}
        model(tokens)
        code = spliced.codes[SITE]
        expected = sae.encode(cache[SITE], 5)
        assert torch.equal(code.values, expected.values)
        assert torch.equal(code.indices, expected.indices)
        model(tiny.tokens(rows=1, length=4))
        assert spliced.codes[SITE].values.shape == (1, 4, 5)


def test_leaves_special_tokens_alone_if_the_sae_was_not_trained_on_them(model):
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = tiny.tokens()
    tokens[1, 4] = 1
    is_special = torch.isin(tokens, torch.tensor([0, 1, 2, 3]))
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    recons = sae(bare[SITE], 4)

    with sle.splice(model, sae, k=4) as spliced:
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        code = spliced.codes[SITE]
    assert torch.equal(cache[SITE][is_special], bare[SITE][is_special])
    torch.testing.assert_close(cache[SITE][~is_special], recons[~is_special])
    assert not code.values[is_special].any()
    assert code.values[~is_special].any(dim=-1).all()

    with sle.splice(model, sae, k=4, positions="all"):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    assert torch.equal(cache[SITE], sae(bare[SITE], 4))


def test_leaves_listed_token_ids_alone(model):
    sae = tiny.sae(exclude_special_tokens=(7,))
    tokens = tiny.tokens()
    tokens[0, 3] = 7
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    is_changed = (cache[SITE] != bare[SITE]).any(-1)
    assert torch.equal(~is_changed, tokens == 7)


@pytest.mark.parametrize(
    "positions",
    [
        slice(3, None),
        slice(-1, None),
        torch.arange(10) % 2 == 0,
        torch.stack([torch.arange(10) == 1, torch.arange(10) > 7]),
    ],
    ids=["slice", "last", "mask", "mask per row"],
)
def test_acts_at_the_chosen_positions_and_the_rest_keeps_its_bits(
    model, sae, positions
):
    tokens = tiny.tokens()
    mask = torch.zeros(2, 10, dtype=torch.bool)
    if isinstance(positions, slice):
        mask[:, positions] = True
    else:
        mask[:] = positions

    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=4, positions=positions):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    assert torch.equal((cache[SITE] != bare[SITE]).any(-1), mask)
    torch.testing.assert_close(cache[SITE][mask], sae(bare[SITE], 4)[mask])


def test_returns_the_dtype_of_the_activation():
    model = tiny.bridge("gemma2", torch.bfloat16)
    later_site = "blocks.2.hook_resid_post"
    with sle.splice(model, tiny.sae(), k=4):
        _, cache = model.run_with_cache(tiny.tokens(), names_filter=[SITE, later_site])
    assert cache[SITE].dtype == cache[later_site].dtype == torch.bfloat16


def test_checks_a_width_that_shows_only_in_the_run(model):
    message = (
        "the activation at blocks.1.mlp.hook_post is .* "
        "the SAE spliced there has d_model=32"
    )
    with (
        pytest.raises(sle.ShapeMismatch, match=message),
        sle.splice(model, {"blocks.1.mlp.hook_post": tiny.sae()}),
    ):
        model(tiny.tokens())


@pytest.mark.parametrize("n_pos", [4, 7])
def test_positions_are_not_mistaken_for_heads(model, n_pos):
    # With four heads, a mask over four positions has the length of the axis of heads.
    site = "blocks.1.attn.hook_z"
    tokens = tiny.tokens(length=n_pos)
    outputs = {}
    with sle.splice(model, {site: tiny.sae()}, positions=slice(1, None)):
        hook = (site, lambda x, hook: outputs.update(spliced=x.clone()))
        model.run_with_hooks(tokens, fwd_hooks=[hook])
    _, cache = model.run_with_cache(tokens, names_filter=site)
    is_changed = (outputs["spliced"] != cache[site]).any(-1)
    assert not is_changed[:, 0].any()
    assert is_changed[:, 1:].all()
