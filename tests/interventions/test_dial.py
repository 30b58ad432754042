"""k can be a number per position, a rule per token, and different at every site."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def _spliced(model, sae, tokens, **options):
    """The activation after a splice, and its code."""
    outputs = {}
    with torch.no_grad(), sle.splice(model, sae, **options) as spliced:
        hook = (SITE, lambda x, hook: outputs.update(x=x.clone()))
        model.run_with_hooks(tokens, fwd_hooks=[hook])
        return outputs["x"], spliced.codes[SITE]


@pytest.mark.parametrize("shape", [(10,), (1, 10), (2, 10)])
def test_every_position_has_its_own_k(model, sae, shape):
    tokens = tiny.tokens()
    k = torch.randint(1, 9, shape)
    out, code = _spliced(model, sae, tokens, k=k)
    for row in range(2):
        for position in range(10):
            k_here = int(k.expand(2, 10)[row, position])
            alone, _ = _spliced(model, sae, tokens, k=k_here)
            torch.testing.assert_close(
                out[row, position], alone[row, position], rtol=1e-5, atol=1e-6
            )
            assert int((code.values[row, position] > 0).sum()) <= k_here


def test_until_fvu_is_the_smallest_k_within_the_bound(model, sae):
    # Tied and with unit rows, as at the start of training: then more features explain
    # more.
    sae = sle.SAE(sae.config, generator=torch.Generator().manual_seed(0))
    tokens = tiny.tokens()
    _, cache = model.run_with_cache(tokens, names_filter=SITE)
    x = cache[SITE]
    with torch.no_grad():
        errors = [(x - sae(x, k)).square().sum(-1) for k in range(1, 9)]
        variance = (x - sae.b_dec).square().sum(-1, keepdim=True)
        fvu = torch.stack(errors, -1) / variance
    bound = 1.0001 * fvu[..., 3].median().item()
    is_enough = fvu <= bound
    expected = torch.where(is_enough.any(-1), is_enough.float().argmax(-1) + 1, 8)
    assert len(expected.unique()) > 1, "the bound should tell tokens apart"

    by_rule, _ = _spliced(model, sae, tokens, k=sle.until_fvu(bound))
    by_hand, _ = _spliced(model, sae, tokens, k=expected)
    torch.testing.assert_close(by_rule, by_hand)


def test_prefix_errors_are_those_of_every_prefix():
    sae = tiny.sae()
    sae.activation_mean = torch.randn(32)
    sae.activation_scale = torch.tensor(0.5)
    x = torch.randn(4, 32)
    errors = sae.prefix_errors(x, sae.encode(x))
    assert errors.shape == (4, 9)
    for k in range(1, 9):
        expected = (x - sae(x, k)).square().sum(-1) / 4
        torch.testing.assert_close(errors[:, k], expected, rtol=1e-4, atol=1e-4)


def test_sites_can_have_different_kinds_of_k(model):
    later_site = "blocks.2.hook_mlp_out"
    saes = {SITE: tiny.sae(), later_site: tiny.sae(seed=1)}
    with sle.splice(model, saes, k={SITE: sle.until_fvu(0.3)}) as spliced:
        assert spliced.k == {SITE: sle.until_fvu(0.3), later_site: 8}
        model(tiny.tokens())
        spliced.k = {later_site: torch.full((10,), 2)}
        model(tiny.tokens())
        assert spliced.codes[later_site].k == 2
        assert "k=until_fvu(0.3)" in repr(spliced)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("k", "message"),
    [
        (torch.tensor([1.0]), "k per position must be a tensor of integers"),
        (
            torch.ones(1, 1, 1, dtype=torch.int64),
            "k per position must be a tensor of integers",
        ),
        (torch.tensor([1, 9]), "9"),
        (torch.tensor([0, 3]), "0"),
        (2.5, "2.5"),
        ("all", "'all'"),
    ],
)
def test_rejects_invalid_k(model, sae, k, message):
    with pytest.raises(sle.InvalidK, match=message):
        sle.splice(model, sae, k=k)


def test_rejects_k_per_position_of_another_shape_than_the_run(model, sae):
    with pytest.raises(
        sle.ShapeMismatch, match=r"k per position is \[9\]; this run reaches \[2, 10\]"
    ):
        _spliced(model, sae, tiny.tokens(), k=torch.full((9,), 3))


def test_rejects_a_bound_that_is_not_a_fraction():
    with pytest.raises(
        sle.InvalidArgument, match="bound must be a number from 0 to 1; got 3.0"
    ):
        sle.until_fvu(3.0)


class _FixedRule:
    """A rule that chooses the same k for every token, or calls a function for it."""

    def __init__(self, k):
        self.k = k

    def choose(self, sae, x, code):
        return self.k(code) if callable(self.k) else self.k


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (3, "must choose a tensor of integers, one per token .*; it chose 3"),
        (lambda code: torch.ones(code.values.shape[:-1]), "it chose torch.float32"),
        (lambda code: torch.ones(1, dtype=torch.int64), r"it chose torch.int64 \[1\]"),
        (
            lambda code: torch.full(code.values.shape[:-1], 9),
            "must choose from 1 to 8; it chose from 9 to 9",
        ),
        (
            lambda code: torch.zeros(code.values.shape[:-1], dtype=torch.int64),
            "it chose from 0 to 0",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_invalid_choice_of_a_rule(model, sae, k, message):
    with (
        sle.splice(model, sae, k=_FixedRule(k)),
        pytest.raises(sle.InvalidK, match=message),
    ):
        model(tiny.tokens())


@pytest.mark.usefixtures("without_shape_checks")
def test_accepts_numbers_and_arrays_of_numpy(model, sae):
    np = pytest.importorskip("numpy")
    tokens = tiny.tokens()
    with torch.no_grad(), sle.splice(model, sae, k=3) as spliced:
        expected = model(tokens)
        for k in (np.int64(3), np.full(10, 3)):
            spliced.k = k
            assert torch.equal(model(tokens), expected)
        for k in (np.float32(3), np.int64(0), np.full(10, 2.5)):
            with pytest.raises(sle.InvalidK):
                spliced.k = k
