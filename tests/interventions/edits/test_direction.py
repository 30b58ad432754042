"""A direction is added to the activation itself, with or without an SAE."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_adds_the_direction_to_the_activation_itself(change_by_edits, sae):
    vector = torch.randn(32)
    edits = [
        sle.AddDirection(vector, scale=-2.0, positions=[4]),
        sle.AddDirection(vector.tolist()),
    ]
    change, _ = change_by_edits(sae, edits, tiny.tokens(), error_term=True)
    expected = vector.expand(2, 10, 32).clone()
    expected[:, 4] -= 2 * vector
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


def test_needs_no_sae(model):
    tokens = tiny.tokens()
    vector = torch.randn(32)
    # By default the special tokens, here BOS, are left alone.
    is_text = (tokens != 2).unsqueeze(-1)

    def steer_text(x, hook):
        return torch.where(is_text, x + 2 * vector, x)

    with torch.no_grad():
        everywhere = model.run_with_hooks(
            tokens, fwd_hooks=[(SITE, lambda x, hook: x + 2 * vector)]
        )
        expected = model.run_with_hooks(tokens, fwd_hooks=[(SITE, steer_text)])
        bare = model(tokens)
        edits = [sle.AddDirection(vector, scale=2)]
        with sle.splice(model, {SITE: None}, edits=edits) as steered:
            torch.testing.assert_close(model(tokens), expected)
            steered.positions = "all"
            torch.testing.assert_close(model(tokens), everywhere)
            steered.edits = []
            assert torch.equal(model(tokens), bare)
            message = (
                r"Ablate\(features=3\) edits features, and there is no SAE at blocks.1"
            )
            with pytest.raises(sle.InvalidArgument, match=message):
                steered.edits = [sle.Ablate(3)]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sle.AddDirection("up"),
            "vector must be a list of numbers; got 'up'",
        ),
        (
            lambda: sle.AddDirection([1.0], scale="2"),
            "scale must be a finite number; got '2'",
        ),
        (
            lambda: sle.AddDirection([1.0, float("nan")]),
            "each of vector must be a finite number; got nan",
        ),
        (
            lambda: sle.AddDirection(torch.zeros(3, requires_grad=True)),
            "requires a gradient, and edits hold plain numbers",
        ),
    ],
)
def test_rejects_an_invalid_vector_or_scale(make, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        make()


def test_rejects_a_vector_of_another_width():
    direction = sle.AddDirection([1.0, 2.0])
    with pytest.raises(
        sle.ShapeMismatch, match="has 2 numbers; the activation there is 32 wide"
    ):
        direction.added(torch.zeros(1, 4, 32))
