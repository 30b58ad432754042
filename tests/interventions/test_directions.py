"""A difference in means is taken over the positions that are asked for."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_a_difference_in_means_counts_the_chosen_positions(model):
    texts = ["w1 w2 w3", "w4 w5"]
    activations = []
    for text in texts:
        _, cache = model.run_with_cache(model.to_tokens(text), names_filter=SITE)
        activations.append(cache[SITE][0].detach())
    negative = tiny.tokens(seed=5)
    _, cache = model.run_with_cache(negative, names_filter=SITE)
    baseline = cache[SITE].detach()

    # By default the special tokens, here BOS, are left out.
    without_special = torch.cat([x[1:] for x in activations]).mean(0)
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative),
        without_special - baseline[:, 1:].mean((0, 1)),
        rtol=1e-4,
        atol=1e-5,
    )
    last = torch.stack([x[-1] for x in activations]).mean(0)
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative, positions=[-1]),
        last - baseline[:, -1].mean(0),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative, positions="all"),
        torch.cat(activations).mean(0) - baseline.mean((0, 1)),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(
        sle.InvalidArgument, match="no position of the negative examples is chosen"
    ):
        sle.difference_in_means(model, SITE, texts, torch.tensor([[2, 2]]))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_examples_in_the_place_of_a_site(model):
    with pytest.raises(
        sle.InvalidArgument,
        match="site must be a name such as .* before the examples; "
        "got an object of type Tensor",
    ):
        sle.difference_in_means(model, tiny.tokens(), tiny.tokens(), SITE)


def test_rejects_activations_that_are_not_finite():
    model = tiny.hf_model("gemma2")
    model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(sle.NonFinite, match=f"positive examples at {SITE} hold NaN"):
        sle.difference_in_means(model, SITE, [[5]], [[6]])
