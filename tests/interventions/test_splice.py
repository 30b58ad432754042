"""A splice puts the reconstruction in the activation's place, and leaves nothing."""

import copy

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def _spliced_by_hand(model, sae, tokens, k):
    """Logits of the same splice as an ordinary TransformerLens hook."""
    return model.run_with_hooks(tokens, fwd_hooks=[(SITE, lambda x, hook: sae(x, k))])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_replaces_the_activation_by_the_reconstruction(model, sae, k):
    tokens = tiny.tokens()
    with sle.splice(model, sae, k=k):
        logits = model(tokens)
    assert torch.equal(logits, _spliced_by_hand(model, sae, tokens, k))
    assert not torch.allclose(logits, model(tokens))


def test_turning_k_is_bit_identical_to_a_new_splice(model, sae):
    tokens = tiny.tokens()
    with sle.splice(model, sae, k=8) as spliced:
        at_8 = model(tokens)
        spliced.k = 3
        at_3 = model(tokens)
        spliced.k = 8
        at_8_again = model(tokens)
    with sle.splice(model, sae, k=3):
        assert torch.equal(model(tokens), at_3)
    assert torch.equal(at_8, at_8_again)
    assert not torch.equal(at_8, at_3)


def test_leaves_nothing_after_the_block(model, sae):
    tokens = tiny.tokens()
    hooks = tiny.hooks_of(model)
    logits = model(tokens)
    saes = {SITE: sae, "blocks.0.hook_mlp_out": sae, "blocks.2.hook_resid_pre": sae}
    with sle.splice(model, saes):
        model(tokens)
    assert tiny.hooks_of(model) == hooks
    assert torch.equal(model(tokens), logits)


def test_leaves_nothing_after_an_exception(model, sae):
    tokens = tiny.tokens()
    hooks = tiny.hooks_of(model)
    logits = model(tokens)

    def experiment():
        with sle.splice(model, sae):
            model(tokens)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        experiment()
    assert tiny.hooks_of(model) == hooks
    assert torch.equal(model(tokens), logits)


def test_leaves_nothing_after_an_error_inside_the_model(model, sae):
    hooks = tiny.hooks_of(model)
    with pytest.raises(sle.NonFinite, match=rf"at {SITE}: .*NaN or infinite"):
        _run_with_a_broken_embedding(model, sae)
    assert tiny.hooks_of(model) == hooks


def _run_with_a_broken_embedding(model, sae):
    handle = model.embed.register_forward_hook(lambda *args: args[-1] * float("nan"))
    try:
        with sle.splice(model, sae):
            model(tiny.tokens())
    finally:
        handle.remove()


def test_splices_nest(model, sae):
    tokens = tiny.tokens()
    later_site = "blocks.2.hook_resid_post"
    later_sae = tiny.sae(seed=1, hook_name=later_site)
    with sle.splice(model, sae, k=4):
        outer = model(tokens)
        with sle.splice(model, later_sae, k=2):
            both = model(tokens)
        assert torch.equal(model(tokens), outer)
    saes = {SITE: sae, later_site: later_sae}
    with sle.splice(model, saes, k={SITE: 4, later_site: 2}):
        assert torch.equal(model(tokens), both)


def test_the_users_own_hooks_and_caches_see_the_spliced_value(model, sae):
    tokens = tiny.tokens()
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=4):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        assert torch.equal(cache[SITE], sae(bare[SITE], 4))
        model.reset_hooks()
        fresh = tiny.bridge("gemma2" if "Gemma" in model.cfg.architecture else "gpt2")
        expected = _spliced_by_hand(fresh, sae, tokens, 4)
        assert torch.equal(model(tokens), expected), (
            "reset_hooks should leave the splice alone"
        )


def test_splices_every_step_of_generation_with_a_cache(gpt2):
    sae = tiny.sae(exclude_special_tokens=True)
    prompt = tiny.tokens(rows=1, length=5)
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "verbose": False,
        "stop_at_eos": False,
    }
    with sle.splice(gpt2, sae, k=2):
        cached = gpt2.generate(prompt, use_past_kv_cache=True, **options)
        step_by_step = prompt
        for _ in range(6):
            next_token = gpt2(step_by_step)[:, -1:].argmax(-1)
            step_by_step = torch.cat([step_by_step, next_token], dim=1)
    assert torch.equal(cached, step_by_step)


def test_gradients_flow_to_the_code_and_to_the_sae(model, sae):
    with sle.splice(model, sae, k=4) as spliced:
        logits = model(tiny.tokens())
        code = spliced.codes[SITE]
        loss = logits.square().mean()
        (gradient,) = torch.autograd.grad(loss, code.values, retain_graph=True)
        assert gradient.abs().sum() > 0
        logits.square().mean().backward()
    assert sae.W_dec.grad.abs().sum() > 0
    model.zero_grad()


def test_attaches_and_detaches_without_a_block(model, sae):
    tokens = tiny.tokens()
    hooks = tiny.hooks_of(model)
    spliced = sle.splice(model, sae, k=4)
    assert repr(spliced) == f"Splice({SITE}: k=4; not active)"
    assert tiny.hooks_of(model) == hooks

    spliced.attach()
    assert repr(spliced) == f"Splice({SITE}: k=4; active)"
    by_hand = _spliced_by_hand(model, sae, tokens, 4)
    assert torch.equal(model(tokens), by_hand) is False, (
        "two splices in a row are not one"
    )
    with pytest.raises(sle.InvalidArgument, match="this splice is active already"):
        spliced.attach()

    spliced.detach()
    spliced.detach()
    assert tiny.hooks_of(model) == hooks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            lambda: ({"blocks.1.hook_resid_pst": tiny.sae()},),
            sle.UnknownSite,
            "the closest: blocks.1.hook_resid_post",
        ),
        (
            lambda: (tiny.sae(hook_name=None),),
            sle.UnknownSite,
            "does not say where it belongs",
        ),
        (
            lambda: (tiny.sae(d_model=16),),
            sle.ShapeMismatch,
            f"{SITE} is 32 wide in this model, and the SAE for it has d_model=16",
        ),
        (lambda: ({},), sle.InvalidArgument, "no SAE to splice"),
        (
            lambda: ("sae",),
            sle.InvalidArgument,
            "must be an SAE, a list of SAEs, or a mapping from site names to SAEs; "
            "got an object of type str",
        ),
        (
            lambda: ({SITE: tiny.sae(), "blocks.1.hook_out": tiny.sae()},),
            sle.InvalidArgument,
            "one place in the model",
        ),
        (lambda: (tiny.sae(), 9), sle.InvalidK, "k=9 is above k=8"),
        (lambda: (tiny.sae(), 0), sle.InvalidK, "got 0"),
        (lambda: (tiny.sae(), 2.5), sle.InvalidK, "got 2.5"),
        (
            lambda: (tiny.sae(), {"blocks.0.hook_resid_post": 2}),
            sle.UnknownSite,
            "nothing is spliced at 'blocks.0.hook_resid_post'",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_arguments_before_anything_is_attached(
    model, arguments, error, message
):
    hooks = tiny.hooks_of(model)
    with pytest.raises(error, match=message):
        sle.splice(model, *arguments()).attach()
    assert tiny.hooks_of(model) == hooks


def test_reports_a_site_that_never_fires(gemma2):
    tokens = tiny.tokens()
    saes = {"rotary_emb.hook_out": tiny.sae(d_model=8)}
    message = (
        "rotary_emb.hook_out did not fire in this run, so nothing was spliced there"
    )
    with pytest.raises(sle.UnknownSite, match=message):
        _run_spliced(gemma2, saes, tokens)

    # A run that stops before a site says nothing about it.
    with sle.splice(gemma2, {"blocks.3.hook_resid_post": tiny.sae()}):
        gemma2.run_with_cache(tokens, stop_at_layer=1)


def _run_spliced(model, sae, tokens):
    with sle.splice(model, sae):
        model(tokens)


def test_reports_a_site_that_stops_firing(gemma2):
    tokens = tiny.tokens()
    with sle.splice(gemma2, tiny.sae()):
        gemma2(tokens)
        try:
            gemma2.reset_hooks(including_permanent=True)
            with pytest.raises(sle.UnknownSite, match="did not fire in this run"):
                gemma2(tokens)
        finally:
            gemma2.reset_hooks(including_permanent=True)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_assignments_that_would_have_no_effect(model):
    spliced = sle.splice(model, tiny.sae())
    message = (
        "a splice has no 'edit' to set; "
        "what can be set: k, edits, error_term, positions"
    )
    with pytest.raises(AttributeError, match=message):
        spliced.edit = [sle.Ablate(3)]
    with pytest.raises(AttributeError):
        spliced.edits.append(sle.Ablate(3))
    with pytest.raises(
        sle.InvalidArgument,
        match="error_term must be False, True or 'reference'; got 'foo'",
    ):
        spliced.error_term = "foo"


def test_a_site_answers_to_both_spellings(model):
    with sle.splice(model, tiny.sae(), k={"blocks.1.hook_out": 3}) as spliced:
        with pytest.raises(sle.UnknownSite, match="the model has not run since"):
            _ = spliced.codes[SITE]
        model(tiny.tokens())
        assert spliced.k == 3
        assert spliced.codes["blocks.1.hook_out"] is spliced.codes[SITE]
        with pytest.raises(
            sle.UnknownSite, match="nothing is spliced at 'blocks.2.hook_out'"
        ):
            _ = spliced.codes["blocks.2.hook_out"]


def test_a_copy_of_an_active_splice_is_not_active(model, sae):
    with sle.splice(model, sae, k=3, edits=[sle.Ablate(5)]) as spliced:
        copied = copy.copy(spliced)
        assert repr(copied) == repr(spliced).replace("active", "not active")
        copied.detach()
        model(tiny.tokens())
        assert SITE in spliced.codes


def test_a_part_that_runs_after_a_cached_generation_starts_at_its_own_beginning():
    model = tiny.hf_model("gpt2")
    tokens = tiny.tokens()
    sae = tiny.sae()
    with torch.no_grad(), sle.splice(model, sae, k=3, positions=slice(0, 5)):
        before = model.transformer(tokens)[0]
        model.generate(tokens, max_new_tokens=3, do_sample=False)
        assert torch.equal(model.transformer(tokens)[0], before)


def test_nothing_of_a_run_is_left_for_calls_of_a_part():
    model = tiny.hf_model("gemma2")
    tokens = tiny.tokens(1, 10)
    edits = [sle.Steer(3, by=5.0, positions=slice(4, None))]
    with torch.no_grad(), sle.splice(model, tiny.sae(), error_term=True, edits=edits):
        expected = model.model(tokens)[0]
        cache = model(tokens[:, :8], use_cache=True).past_key_values
        hook = model.model.layers[2].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(tokens[:, 8:], past_key_values=cache)
        hook.remove()
        assert torch.equal(model.model(tokens)[0], expected)

    with torch.no_grad(), sle.splice(model, tiny.sae(exclude_special_tokens=True)):
        model(tokens)
        x = torch.randn(1, 10, 32)
        embeddings = model.model.rotary_emb(x, torch.arange(10)[None])
        with pytest.raises(
            sle.InvalidArgument, match="this run was not given token ids"
        ):
            model.model.layers[1](x, position_embeddings=embeddings)


def test_a_run_keeps_to_the_settings_of_its_beginning(gemma2, sae):
    """What is assigned during a run takes effect with the next one."""
    tokens = tiny.tokens()
    outputs = []
    with torch.no_grad():
        with sle.splice(gemma2, sae, k=2):
            expected = [gemma2(tokens)]
        with sle.splice(gemma2, sae, k=5, positions=slice(3, None)):
            expected.append(gemma2(tokens))

        with sle.splice(gemma2, sae, k=2) as spliced:

            def assign(x, hook):
                spliced.k = 5
                spliced.positions = slice(3, None)

            hooks = [("blocks.0.hook_resid_post", assign)]
            outputs.append(gemma2.run_with_hooks(tokens, fwd_hooks=hooks))
            outputs.append(gemma2(tokens))
    torch.testing.assert_close(outputs, expected)
