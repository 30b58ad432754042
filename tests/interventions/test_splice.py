import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def sae():
    return tiny.sae()


def _by_hand(model, sae, tokens, k):
    """The same splice as an ordinary TransformerLens hook."""
    return model.run_with_hooks(tokens, fwd_hooks=[(SITE, lambda x, hook: sae(x, k))])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_splice_is_the_reconstruction_in_place_of_the_activation(model, sae, k):
    tokens = tiny.tokens()
    with sle.splice(model, sae, k=k):
        logits = model(tokens)
    assert torch.equal(logits, _by_hand(model, sae, tokens, k))
    assert not torch.allclose(logits, model(tokens))


def test_turning_k_is_bit_identical_to_a_fresh_splice(model, sae):
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


def test_after_the_block_nothing_is_left(model, sae):
    tokens = tiny.tokens()
    before, logits = tiny.hooks_of(model), model(tokens)
    with sle.splice(
        model, {SITE: sae, "blocks.0.hook_mlp_out": sae, "blocks.2.hook_resid_pre": sae}
    ):
        model(tokens)
    assert tiny.hooks_of(model) == before
    assert torch.equal(model(tokens), logits)


def test_after_an_exception_nothing_is_left(model, sae):
    tokens = tiny.tokens()
    before, logits = tiny.hooks_of(model), model(tokens)

    def experiment():
        with sle.splice(model, sae):
            model(tokens)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        experiment()
    assert tiny.hooks_of(model) == before
    assert torch.equal(model(tokens), logits)


def test_an_error_inside_the_model_leaves_nothing(model, sae):
    before = tiny.hooks_of(model)
    with pytest.raises(sle.NonFinite, match=rf"at {SITE}: .*NaN or infinite"):
        _run_with_a_broken_embedding(model, sae)
    assert tiny.hooks_of(model) == before


def _run_with_a_broken_embedding(model, sae):
    handle = model.embed.register_forward_hook(lambda *args: args[-1] * float("nan"))
    try:
        with sle.splice(model, sae):
            model(tiny.tokens())
    finally:
        handle.remove()


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


def test_several_sites_and_a_k_for_each(model, sae):
    tokens, other = tiny.tokens(), tiny.sae(seed=1)
    saes = {SITE: sae, "blocks.2.hook_mlp_out": other}
    with sle.splice(model, saes, k={SITE: 2}) as spliced:
        assert spliced.k == {SITE: 2, "blocks.2.hook_mlp_out": 8}
        spliced.k = {"blocks.2.hook_mlp_out": 4}
        assert spliced.k == {SITE: 2, "blocks.2.hook_mlp_out": 4}
        logits = model(tokens)
    hooks = [
        (SITE, lambda x, hook: sae(x, 2)),
        ("blocks.2.hook_mlp_out", lambda x, hook: other(x, 4)),
    ]
    assert torch.equal(logits, model.run_with_hooks(tokens, fwd_hooks=hooks))
    with sle.splice(model, saes, k=3) as spliced:
        assert spliced.k == 3


def test_splices_nest(model, sae):
    tokens, other = (
        tiny.tokens(),
        tiny.sae(seed=1, hook_name="blocks.2.hook_resid_post"),
    )
    with sle.splice(model, sae, k=4):
        outer = model(tokens)
        with sle.splice(model, other, k=2):
            both = model(tokens)
        assert torch.equal(model(tokens), outer)
    with sle.splice(
        model,
        {SITE: sae, "blocks.2.hook_resid_post": other},
        k={SITE: 4, "blocks.2.hook_resid_post": 2},
    ):
        assert torch.equal(model(tokens), both)


def test_the_users_own_hooks_and_caches_see_the_spliced_value(model, sae):
    tokens = tiny.tokens()
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=4):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        assert torch.equal(cache[SITE], sae(bare[SITE], 4))
        model.reset_hooks()
        assert torch.equal(model(tokens), _by_hand_outside(model, sae, tokens)), (
            "reset_hooks should leave the splice alone"
        )


def _by_hand_outside(model, sae, tokens):
    fresh = tiny.bridge("gemma2" if "Gemma" in model.cfg.architecture else "gpt2")
    return _by_hand(fresh, sae, tokens, 4)


def test_special_tokens_are_left_alone_where_the_sae_was_not_trained_on_them(model):
    sae, tokens = tiny.sae(exclude_special_tokens=True), tiny.tokens()
    tokens[1, 4] = 1
    special = torch.isin(tokens, torch.tensor([0, 1, 2, 3]))
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=4) as spliced:
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        assert torch.equal(cache[SITE][special], bare[SITE][special])
        torch.testing.assert_close(cache[SITE][~special], sae(bare[SITE], 4)[~special])
        code = spliced.codes[SITE]
        assert not code.values[special].any()
        assert code.values[~special].any(dim=-1).all()
    with sle.splice(model, sae, k=4, positions="all"):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        assert torch.equal(cache[SITE], sae(bare[SITE], 4))


def test_listed_token_ids_are_left_alone(model):
    sae, tokens = tiny.sae(exclude_special_tokens=(7,)), tiny.tokens()
    tokens[0, 3] = 7
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    changed = (cache[SITE] != bare[SITE]).any(-1)
    assert torch.equal(~changed, tokens == 7)


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
def test_positions_choose_and_the_rest_keeps_its_bits(model, sae, positions):
    tokens = tiny.tokens()
    chosen = torch.zeros(2, 10, dtype=torch.bool)
    if isinstance(positions, slice):
        chosen[:, positions] = True
    else:
        chosen[:] = positions
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    with sle.splice(model, sae, k=4, positions=positions):
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
    assert torch.equal((cache[SITE] != bare[SITE]).any(-1), chosen)
    torch.testing.assert_close(cache[SITE][chosen], sae(bare[SITE], 4)[chosen])


def test_generation_with_a_cache_is_spliced_at_every_step(gpt2):
    sae, prompt = tiny.sae(exclude_special_tokens=True), tiny.tokens(rows=1, length=5)
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
            step_by_step = torch.cat(
                [step_by_step, gpt2(step_by_step)[:, -1:].argmax(-1)], dim=1
            )
    assert torch.equal(cached, step_by_step)


def test_the_result_has_the_dtype_of_the_activation():
    model = tiny.bridge("gemma2", torch.bfloat16)
    with sle.splice(model, tiny.sae(), k=4):
        _, cache = model.run_with_cache(
            tiny.tokens(), names_filter=[SITE, "blocks.2.hook_resid_post"]
        )
    assert (
        cache[SITE].dtype == cache["blocks.2.hook_resid_post"].dtype == torch.bfloat16
    )


def test_gradients_flow_through_to_the_sae_and_below(model, sae):
    with sle.splice(model, sae, k=4) as spliced:
        logits = model(tiny.tokens())
        code = spliced.codes[SITE]
        (gradient,) = torch.autograd.grad(
            logits.square().mean(), code.values, retain_graph=True
        )
        assert gradient.abs().sum() > 0
        logits.square().mean().backward()
    assert sae.W_dec.grad.abs().sum() > 0
    model.zero_grad()


def test_attach_and_detach_without_a_block(model, sae):
    tokens, before = tiny.tokens(), tiny.hooks_of(model)
    spliced = sle.splice(model, sae, k=4)
    assert repr(spliced) == f"Splice({SITE}: k=4; not active)"
    assert tiny.hooks_of(model) == before
    spliced.attach()
    assert repr(spliced) == f"Splice({SITE}: k=4; active)"
    assert torch.equal(model(tokens), _by_hand(model, sae, tokens, 4)) is False, (
        "two splices in a row are not one"
    )
    with pytest.raises(sle.InvalidArgument, match="this splice is active already"):
        spliced.attach()
    spliced.detach()
    spliced.detach()
    assert tiny.hooks_of(model) == before


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
            "must be an SAE, or a mapping from site names to SAEs; got a str",
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
def test_what_does_not_fit_is_refused_before_anything_is_attached(
    model, arguments, error, message
):
    before = tiny.hooks_of(model)
    with pytest.raises(error, match=message):
        sle.splice(model, *arguments()).attach()
    assert tiny.hooks_of(model) == before


@pytest.mark.usefixtures("without_shape_checks")
def test_a_refused_k_changes_nothing(model, sae):
    with sle.splice(model, sae, k=4) as spliced:
        for bad in (0, 9, 1.5, {"nowhere": 1}):
            with pytest.raises((sle.InvalidK, sle.UnknownSite)):
                spliced.k = bad
        assert spliced.k == 4


def test_extrapolation_is_for_the_whole_splice(model, sae):
    with sle.splice(model, sae, k=20, extrapolate=True) as spliced:
        model(tiny.tokens())
        spliced.k = 48
        model(tiny.tokens())
        assert spliced.codes[SITE].k == 48


@pytest.mark.parametrize(
    "positions",
    [3, "last", torch.tensor([1.5]), torch.ones(2, 2, 2, dtype=torch.bool), [], [0.5]],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_positions_that_are_none_are_refused(model, sae, positions):
    with pytest.raises(
        sle.InvalidArgument,
        match="positions must be a slice, a list of whole numbers, a boolean mask",
    ):
        sle.splice(model, sae, positions=positions)


def test_a_mask_of_another_shape_is_refused_when_the_run_comes(model, sae):
    with (
        pytest.raises(
            sle.ShapeMismatch,
            match=r"the mask in positions is \[9\]; this run has \[2, 10\]",
        ),
        sle.splice(model, sae, positions=torch.ones(9, dtype=torch.bool)),
    ):
        model(tiny.tokens())


def test_a_site_whose_width_shows_only_in_the_run_is_checked_there(model):
    with (
        pytest.raises(
            sle.ShapeMismatch,
            match="the activation at blocks.1.mlp.hook_post is .* the SAE spliced there has d_model=32",
        ),
        sle.splice(model, {"blocks.1.mlp.hook_post": tiny.sae()}),
    ):
        model(tiny.tokens())


def test_a_site_that_never_fires_is_said(gemma2):
    tokens = tiny.tokens()
    with pytest.raises(
        sle.UnknownSite,
        match="rotary_emb.hook_out did not fire in this run, so nothing was spliced there",
    ):
        _run_spliced(gemma2, {"rotary_emb.hook_out": tiny.sae(d_model=8)}, tokens)
    # A run that stops before a site says nothing about it.
    with sle.splice(gemma2, {"blocks.3.hook_resid_post": tiny.sae()}):
        gemma2.run_with_cache(tokens, stop_at_layer=1)


def _run_spliced(model, sae, tokens):
    with sle.splice(model, sae):
        model(tokens)


@pytest.mark.parametrize("n_pos", [4, 7])
def test_positions_are_positions_where_heads_have_an_axis_of_their_own(model, n_pos):
    # Four heads: a mask over positions must not be taken for one over heads.
    site = "blocks.1.attn.hook_z"
    tokens = tiny.tokens(length=n_pos)
    seen = {}
    with sle.splice(model, {site: tiny.sae()}, positions=slice(1, None)):
        model.run_with_hooks(
            tokens, fwd_hooks=[(site, lambda x, hook: seen.update(spliced=x.clone()))]
        )
    _, cache = model.run_with_cache(tokens, names_filter=site)
    changed = (seen["spliced"] != cache[site]).any(-1)
    assert not changed[:, 0].any()
    assert changed[:, 1:].all()


def test_a_site_that_stops_firing_is_said(gemma2):
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
def test_what_would_have_no_effect_cannot_be_set(model):
    spliced = sle.splice(model, tiny.sae())
    with pytest.raises(
        AttributeError,
        match="a splice has no 'edit' to set; what can be set: k, edits, error_term, positions",
    ):
        spliced.edit = [sle.Ablate(3)]
    with pytest.raises(AttributeError):
        spliced.edits.append(sle.Ablate(3))
    with pytest.raises(
        sle.InvalidArgument,
        match="error_term must be False, True or 'reference'; got 'foo'",
    ):
        spliced.error_term = "foo"


def test_error_term_and_positions_are_turned_on_the_fly(model):
    tokens, sae = tiny.tokens(), tiny.sae()
    with torch.no_grad():
        bare = model(tokens)
        with sle.splice(model, sae, k=2, error_term=True) as spliced:
            assert torch.equal(model(tokens), bare)
            spliced.error_term = False
            spliced.positions = [3, 4]
            turned = model(tokens)
        with sle.splice(model, sae, k=2, positions=[3, 4]) as fresh:
            assert torch.equal(model(tokens), turned)
            assert fresh.positions == spliced.positions == [3, 4]


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


def test_a_part_that_is_run_after_a_cached_generation_starts_at_its_own_beginning():
    model, tokens, sae = tiny.hf_model("gpt2"), tiny.tokens(), tiny.sae()
    with torch.no_grad(), sle.splice(model, sae, k=3, positions=slice(0, 5)):
        before = model.transformer(tokens)[0]
        model.generate(tokens, max_new_tokens=3, do_sample=False)
        assert torch.equal(model.transformer(tokens)[0], before)


def test_several_k_by_position_can_be_read_back():
    host, by_position = tiny.hf_model("gemma2"), torch.arange(1, 11).clamp(max=8)
    saes = {
        site: tiny.sae(hook_name=site)
        for site in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    }
    assert torch.equal(sle.splice(host, saes, k=by_position).k, by_position)
    mixed = sle.splice(host, saes, k={"blocks.1.hook_resid_post": torch.tensor([4])}).k
    assert {site: torch.as_tensor(k).tolist() for site, k in mixed.items()} == dict(
        zip(saes, ([4], 8), strict=True)
    )


def test_nothing_of_a_run_is_left_for_calls_of_a_part():
    model, tokens = tiny.hf_model("gemma2"), tiny.tokens(1, 10)
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
        with pytest.raises(
            sle.InvalidArgument, match="this run was not given token ids"
        ):
            model.model.layers[1](
                x, position_embeddings=model.model.rotary_emb(x, torch.arange(10)[None])
            )


# What torch warns about here is a part of its own.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize("error_term", [False, True])
def test_forward_mode_and_function_transforms_pass_through(error_term):
    model, sae = tiny.hf_model("gemma2").double(), tiny.sae().double()
    x = model.get_input_embeddings()(tiny.tokens()).detach()
    direction = torch.randn_like(x)

    def loss(x):
        return model(inputs_embeds=x).logits.square().mean()

    with sle.splice(
        model, sae, k=4, error_term=error_term, edits=[sle.Scale([3, 7, 8, 29], by=0.5)]
    ):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        # The model computes some of its norms in float32, whichever way.
        torch.testing.assert_close(
            torch.func.grad(loss)(x), expected, rtol=1e-5, atol=1e-7
        )
        forward = torch.func.jvp(loss, (x,), (direction,))[1]
        torch.testing.assert_close(
            forward, (expected * direction).sum(), rtol=1e-4, atol=1e-7
        )
        with pytest.raises(sle.InvalidArgument, match="under vmap"):
            torch.vmap(lambda row: loss(row[None]))(x)
