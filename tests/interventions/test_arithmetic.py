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
    return tiny.bridge("gemma2", request.param)


@pytest.mark.parametrize("layers", [[1], [0, 1, 3], [0, 1, 2, 3]])
def test_no_edit_means_no_change_to_the_bit_at_any_number_of_sites(any_dtype, layers):
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
    tokens, sae = tiny.tokens(rows=3), tiny.sae()
    bare = model(tokens)
    with sle.splice(
        model,
        sae,
        error_term=True,
        edits=[sle.Steer(5, by=3.0, positions=[6], rows=[1])],
    ):
        logits = model(tokens)
    changed = (logits != bare).any(-1)
    assert not changed[[0, 2]].any()
    assert not changed[1, :6].any()
    assert changed[1, 6]


@pytest.mark.parametrize("error_term", [False, True, "reference"])
def test_the_output_is_the_formula(model, error_term):
    """decode(edited code), with what the SAE leaves out at this k, or at the k it was trained at, added back."""
    tokens, sae = tiny.tokens(), tiny.sae(apply_b_dec_to_input=True)
    _, cache = model.run_with_cache(tokens, names_filter=SITE)
    x = cache[SITE]
    edited = sae.encode(x, 3).dense()
    edited[..., 5] += 2.0
    edited[..., 9] = 0.0
    output = edited @ sae.W_dec + sae.b_dec
    if error_term:
        output = output + x - sae(x, 3 if error_term is True else sae.config.k)
    seen = {}
    with sle.splice(
        model,
        sae,
        k=3,
        error_term=error_term,
        edits=[sle.Steer(5, by=2.0), sle.Ablate(9)],
    ):
        model.run_with_hooks(
            tokens,
            fwd_hooks=[(SITE, lambda tensor, hook: seen.update(out=tensor.clone()))],
        )
    torch.testing.assert_close(seen["out"], output, rtol=1e-4, atol=1e-5)


def test_the_reference_error_is_all_of_the_model_at_the_trained_k(model):
    tokens, sae = tiny.tokens(), tiny.sae()
    bare = model(tokens)
    with sle.splice(
        model, sae, k=8, error_term="reference", extrapolate=True
    ) as spliced:
        assert torch.equal(model(tokens), bare)
        spliced.k = 2
        assert not torch.allclose(model(tokens), bare, atol=1e-3)
        spliced.k = 12
        assert not torch.allclose(model(tokens), bare, atol=1e-4)


def test_one_encode_and_no_decode_serve_a_splice_with_its_error(model, monkeypatch):
    calls = []
    for name in ("encode", "decode"):
        original = getattr(sle.SAE, name)
        monkeypatch.setattr(
            sle.SAE,
            name,
            lambda self, *a, _name=name, _original=original, **k: (
                calls.append(_name),
                _original(self, *a, **k),
            )[1],
        )
    with sle.splice(model, tiny.sae(), error_term=True, edits=[sle.Ablate(3)]):
        model(tiny.tokens())
    assert calls == ["encode"]


def test_the_sae_computes_in_its_own_dtype_under_autocast(model):
    tokens, sae = tiny.tokens(), tiny.sae()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        seen = {}
        with sle.splice(model, sae, k=3) as spliced:
            model.run_with_hooks(
                tokens,
                fwd_hooks=[
                    (SITE, lambda tensor, hook: seen.update(out=tensor.clone()))
                ],
            )
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    assert spliced.codes[SITE].values.dtype == torch.float32
    torch.testing.assert_close(
        seen["out"], sae(cache[SITE].float(), 3).to(seen["out"].dtype)
    )


@pytest.mark.parametrize("error_term", [False, True, "reference"])
def test_gradients_are_those_of_the_formula(model, error_term):
    """At the site's input and at the decoder: the same as autograd finds on dense algebra at the same place."""
    tokens, sae = tiny.tokens(), tiny.sae()

    def by_hand(x):
        kept = {
            k: torch.zeros(*x.shape[:-1], 48).scatter(-1, sae.encode(x, k).indices, 1.0)
            for k in (3, 8)
        }
        acts = {
            k: ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu() * kept[k] for k in kept
        }
        edited = acts[3] * torch.where(torch.arange(48) < 24, 2.0, 1.0)
        output = edited @ sae.W_dec + sae.b_dec
        return (
            output
            + x
            - (acts[8 if error_term == "reference" else 3] @ sae.W_dec + sae.b_dec)
            if error_term
            else output
        )

    found = {}
    for name in ("ours", "by hand"):
        leaf = {}

        def keep(x, hook, leaf=leaf):
            leaf["x"] = x.detach().requires_grad_()
            return leaf["x"]

        sae.zero_grad()
        with model.hooks(fwd_hooks=[(SITE, keep)]):
            if name == "ours":
                with sle.splice(
                    model,
                    sae,
                    k=3,
                    error_term=error_term,
                    edits=[sle.Scale(range(24), by=2)],
                ):
                    model(tokens).square().sum().backward()
            else:
                model.run_with_hooks(
                    tokens, fwd_hooks=[(SITE, lambda x, hook: by_hand(x))]
                ).square().sum().backward()
        found[name] = [leaf["x"].grad, sae.W_dec.grad.clone(), sae.W_enc.grad.clone()]
    model.zero_grad()
    for ours, theirs in zip(found["ours"], found["by hand"], strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_error_term_is_said(model):
    with pytest.raises(
        sle.InvalidArgument,
        match="error_term must be False, True or 'reference'; got 'full'",
    ):
        sle.splice(model, tiny.sae(), error_term="full")
    with pytest.raises(
        sle.InvalidArgument, match="extrapolate must be True or False; got 1"
    ):
        sle.splice(model, tiny.sae(), extrapolate=1)


@pytest.mark.parametrize("sae_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_sae_of_a_narrower_dtype_costs_the_activation_no_bit(model, sae_dtype):
    tokens, sae = tiny.tokens(), tiny.sae().to(sae_dtype)
    with torch.no_grad():
        bare = model(tokens)
        with sle.splice(model, sae, error_term=True) as spliced:
            assert torch.equal(model(tokens), bare)
            spliced.edits = [sle.Steer(3, by=5.0, positions=[6])]
            edited = model(tokens)
    assert torch.equal(edited[:, :6], bare[:, :6])
    assert not torch.equal(edited[:, 6:], bare[:, 6:])
