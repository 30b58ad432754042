"""With the error term on, nothing changes but what an edit changes."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(
    scope="module", params=[torch.float32, torch.bfloat16, torch.float16], ids=str
)
def any_dtype(request):
    """The same model in every dtype."""
    return tiny.bridge("gemma2", request.param)


@pytest.mark.parametrize("layers", [[1], [0, 1, 3], [0, 1, 2, 3]])
def test_without_edits_no_bit_changes_at_any_number_of_sites(any_dtype, layers):
    saes = {f"blocks.{layer}.hook_resid_post": tiny.sae(seed=layer) for layer in layers}
    tokens = tiny.tokens()
    with torch.no_grad():
        bare = any_dtype(tokens)
        with sle.splice(any_dtype, saes, k=3, error_term=True) as spliced:
            assert torch.equal(any_dtype(tokens), bare)
            spliced.k = 8
            assert torch.equal(any_dtype(tokens), bare)
        assert set(spliced.codes) == set(saes)


def test_an_edit_changes_what_depends_on_it_and_nothing_else(model):
    tokens = tiny.tokens(rows=3)
    bare = model(tokens)
    edits = [sle.Steer(5, by=3.0, positions=[6], rows=[1])]
    with sle.splice(model, tiny.sae(), error_term=True, edits=edits):
        logits = model(tokens)
    is_changed = (logits != bare).any(-1)
    assert not is_changed[[0, 2]].any()
    assert not is_changed[1, :6].any()
    assert is_changed[1, 6]


def test_the_reference_error_keeps_all_of_the_model_at_the_trained_k(model):
    tokens = tiny.tokens()
    bare = model(tokens)
    with sle.splice(
        model, tiny.sae(), k=8, error_term="reference", extrapolate=True
    ) as spliced:
        assert torch.equal(model(tokens), bare)
        spliced.k = 2
        assert not torch.allclose(model(tokens), bare, atol=1e-3)
        spliced.k = 12
        assert not torch.allclose(model(tokens), bare, atol=1e-4)


@pytest.mark.parametrize("sae_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_sae_of_a_narrower_dtype_costs_the_activation_no_bit(model, sae_dtype):
    tokens = tiny.tokens()
    sae = tiny.sae().to(sae_dtype)
    with torch.no_grad():
        bare = model(tokens)
        with sle.splice(model, sae, error_term=True) as spliced:
            assert torch.equal(model(tokens), bare)
            spliced.edits = [sle.Steer(3, by=5.0, positions=[6])]
            edited = model(tokens)
    assert torch.equal(edited[:, :6], bare[:, :6])
    assert not torch.equal(edited[:, 6:], bare[:, 6:])


# torch itself warns here.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize("error_term", [False, True])
def test_forward_mode_and_function_transforms_pass_through(error_term):
    model = tiny.hf_model("gemma2").double()
    sae = tiny.sae().double()
    x = model.get_input_embeddings()(tiny.tokens()).detach()
    direction = torch.randn_like(x)

    def loss(x):
        return model(inputs_embeds=x).logits.square().mean()

    edits = [sle.Scale([3, 7, 8, 29], by=0.5)]
    with sle.splice(model, sae, k=4, error_term=error_term, edits=edits):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        # The model computes some of its norms in float32 in either way.
        torch.testing.assert_close(
            torch.func.grad(loss)(x), expected, rtol=1e-5, atol=1e-7
        )
        forward = torch.func.jvp(loss, (x,), (direction,))[1]
        torch.testing.assert_close(
            forward, (expected * direction).sum(), rtol=1e-4, atol=1e-7
        )
        with pytest.raises(sle.InvalidArgument, match="under vmap"):
            torch.vmap(lambda row: loss(row[None]))(x)
