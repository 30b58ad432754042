"""Values of k other than a number for all: per position, per token by a rule, per site."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def _spliced(model, sae, tokens, **options):
    seen = {}
    with torch.no_grad(), sle.splice(model, sae, **options) as spliced:
        model.run_with_hooks(
            tokens, fwd_hooks=[(SITE, lambda x, hook: seen.update(out=x.clone()))]
        )
        return seen["out"], spliced.codes[SITE]


@pytest.mark.parametrize("shape", [(10,), (1, 10), (2, 10)])
def test_every_position_has_its_own_k(model, shape):
    tokens, sae = tiny.tokens(), tiny.sae()
    k = torch.randint(1, 9, shape)
    out, code = _spliced(model, sae, tokens, k=k)
    for row in range(2):
        for position in range(10):
            here = int(k.expand(2, 10)[row, position])
            alone, _ = _spliced(model, sae, tokens, k=here)
            torch.testing.assert_close(
                out[row, position], alone[row, position], rtol=1e-5, atol=1e-6
            )
            assert int((code.values[row, position] > 0).sum()) <= here


def test_until_fvu_is_the_smallest_k_that_is_good_enough(model):
    # Tied and with unit rows, as at the start of training: then more features explain more.
    tokens, sae = (
        tiny.tokens(),
        sle.SAE(tiny.sae().config, generator=torch.Generator().manual_seed(0)),
    )
    _, cache = model.run_with_cache(tokens, names_filter=SITE)
    x = cache[SITE]
    with torch.no_grad():
        errors = torch.stack(
            [(x - sae(x, k)).square().sum(-1) for k in range(1, 9)], -1
        )
        share = errors / (x - sae.b_dec).square().sum(-1, keepdim=True)
    bound = 1.0001 * share[..., 3].median().item()
    good = share <= bound
    expected = torch.where(good.any(-1), good.float().argmax(-1) + 1, 8)
    assert len(expected.unique()) > 1, "a bound that tells tokens apart"
    per_token, _ = _spliced(model, sae, tokens, k=sle.until_fvu(bound))
    by_hand, _ = _spliced(model, sae, tokens, k=expected)
    torch.testing.assert_close(per_token, by_hand)


def test_prefix_errors_are_those_of_every_prefix():
    sae = tiny.sae()
    sae.activation_mean, sae.activation_scale = torch.randn(32), torch.tensor(0.5)
    x = torch.randn(4, 32)
    code = sae.encode(x)
    errors = sae.prefix_errors(x, code)
    assert errors.shape == (4, 9)
    for k in range(1, 9):
        torch.testing.assert_close(
            errors[:, k], (x - sae(x, k)).square().sum(-1) / 4, rtol=1e-4, atol=1e-4
        )


def test_sites_can_have_different_kinds_of_k(model):
    saes = {SITE: tiny.sae(), "blocks.2.hook_mlp_out": tiny.sae(seed=1)}
    with sle.splice(model, saes, k={SITE: sle.until_fvu(0.3)}) as spliced:
        assert spliced.k == {SITE: sle.until_fvu(0.3), "blocks.2.hook_mlp_out": 8}
        model(tiny.tokens())
        spliced.k = {"blocks.2.hook_mlp_out": torch.full((10,), 2)}
        model(tiny.tokens())
        assert spliced.codes["blocks.2.hook_mlp_out"].k == 2
        assert "k=until_fvu(0.3)" in repr(spliced)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("k", "said"),
    [
        (torch.tensor([1.0]), "k per position must be whole numbers"),
        (
            torch.ones(1, 1, 1, dtype=torch.int64),
            "k per position must be whole numbers",
        ),
        (torch.tensor([1, 9]), "9"),
        (torch.tensor([0, 3]), "0"),
        (2.5, "2.5"),
        ("all", "'all'"),
    ],
)
def test_a_k_that_is_none_is_refused(model, k, said):
    with pytest.raises(sle.InvalidK, match=said):
        sle.splice(model, tiny.sae(), k=k)


def test_a_place_without_an_sae_has_no_k(model):
    steered = sle.splice(model, {SITE: None}, edits=[sle.AddDirection(torch.ones(32))])
    assert steered.k == {}
    with pytest.raises(
        sle.InvalidK,
        match="there is no SAE at blocks.1.hook_resid_post, so no k either",
    ):
        steered.k = {SITE: 3}


def test_a_k_per_position_has_the_shape_of_the_run(model):
    with pytest.raises(
        sle.ShapeMismatch, match=r"k per position is \[9\]; this run reaches \[2, 10\]"
    ):
        _spliced(model, tiny.sae(), tiny.tokens(), k=torch.full((9,), 3))
    with pytest.raises(
        sle.InvalidArgument, match="a share of the variance, from 0 to 1; got 3.0"
    ):
        sle.until_fvu(3.0)


class _Always:
    def __init__(self, k):
        self.k = k

    def choose(self, sae, x, code):
        return self.k if not callable(self.k) else self.k(code)


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (3, "must choose a tensor of whole numbers, one for each token .*; it chose 3"),
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
def test_a_rule_that_chooses_no_k_is_said(model, k, said):
    with (
        sle.splice(model, tiny.sae(), k=_Always(k)),
        pytest.raises(sle.InvalidK, match=said),
    ):
        model(tiny.tokens())


@pytest.mark.usefixtures("without_shape_checks")
def test_numpy_numbers_are_numbers(model):
    np = pytest.importorskip("numpy")
    tokens, sae = tiny.tokens(), tiny.sae()
    with torch.no_grad(), sle.splice(model, sae, k=3) as spliced:
        expected = model(tokens)
        for k in (np.int64(3), np.full(10, 3)):
            spliced.k = k
            assert torch.equal(model(tokens), expected)
        for k in (np.float32(3), np.int64(0), np.full(10, 2.5)):
            with pytest.raises(sle.InvalidK):
                spliced.k = k
