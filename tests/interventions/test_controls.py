"""The controls of a splice can be set at any time; a failed setting changes nothing."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_several_sites_have_a_k_each(model, sae):
    tokens = tiny.tokens()
    later_site = "blocks.2.hook_mlp_out"
    later_sae = tiny.sae(seed=1)
    saes = {SITE: sae, later_site: later_sae}
    with sle.splice(model, saes, k={SITE: 2}) as spliced:
        assert spliced.k == {SITE: 2, later_site: 8}
        spliced.k = {later_site: 4}
        assert spliced.k == {SITE: 2, later_site: 4}
        logits = model(tokens)
    hooks = [
        (SITE, lambda x, hook: sae(x, 2)),
        (later_site, lambda x, hook: later_sae(x, 4)),
    ]
    assert torch.equal(logits, model.run_with_hooks(tokens, fwd_hooks=hooks))
    with sle.splice(model, saes, k=3) as spliced:
        assert spliced.k == 3


@pytest.mark.usefixtures("without_shape_checks")
def test_a_rejected_k_changes_nothing(model, sae):
    with sle.splice(model, sae, k=4) as spliced:
        for k in (0, 9, 1.5, {"nowhere": 1}):
            with pytest.raises((sle.InvalidK, sle.UnknownSite)):
                spliced.k = k
        assert spliced.k == 4


def test_extrapolation_holds_for_the_whole_splice(model, sae):
    with sle.splice(model, sae, k=20, extrapolate=True) as spliced:
        model(tiny.tokens())
        spliced.k = 48
        model(tiny.tokens())
        assert spliced.codes[SITE].k == 48


def test_rejects_a_k_where_there_is_no_sae(model):
    steered = sle.splice(model, {SITE: None}, edits=[sle.AddDirection(torch.ones(32))])
    assert steered.k == {}
    with pytest.raises(
        sle.InvalidK,
        match="there is no SAE at blocks.1.hook_resid_post, so no k either",
    ):
        steered.k = {SITE: 3}


def test_k_per_position_can_be_read_back():
    model = tiny.hf_model("gemma2")
    by_position = torch.arange(1, 11).clamp(max=8)
    saes = {
        site: tiny.sae(hook_name=site)
        for site in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    }
    assert torch.equal(sle.splice(model, saes, k=by_position).k, by_position)

    k_of_first = {"blocks.1.hook_resid_post": torch.tensor([4])}
    mixed = sle.splice(model, saes, k=k_of_first).k
    as_lists = {site: torch.as_tensor(k).tolist() for site, k in mixed.items()}
    assert as_lists == dict(zip(saes, ([4], 8), strict=True))


def test_error_term_and_positions_can_be_set_while_active(model):
    tokens = tiny.tokens()
    sae = tiny.sae()
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


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_error_term_and_extrapolate(model):
    with pytest.raises(
        sle.InvalidArgument,
        match="error_term must be False, True or 'reference'; got 'full'",
    ):
        sle.splice(model, tiny.sae(), error_term="full")
    with pytest.raises(
        sle.InvalidArgument, match="extrapolate must be True or False; got 1"
    ):
        sle.splice(model, tiny.sae(), extrapolate=1)


def test_edits_at_several_sites_are_named_by_site(model, sae):
    tokens = tiny.tokens()
    later_site = "blocks.2.hook_mlp_out"
    saes = {SITE: sae, later_site: tiny.sae(seed=1)}
    with sle.splice(model, saes, edits={SITE: [sle.Ablate(3)]}) as spliced:
        assert spliced.edits == {SITE: (sle.Ablate(3),), later_site: ()}
        model(tokens)
        with pytest.raises(
            sle.InvalidArgument, match="edits at several sites must say where"
        ):
            spliced.edits = [sle.Ablate(3)]
        with pytest.raises(
            sle.UnknownSite, match="nothing is spliced at 'blocks.2.hook_mlp'"
        ):
            spliced.edits = {"blocks.2.hook_mlp": []}
        assert spliced.edits[SITE] == (sle.Ablate(3),), (
            "a rejected change changes nothing"
        )

        spliced.edits = {later_site: [sle.Clamp(1, to=2)]}
        assert spliced.edits == {
            SITE: (sle.Ablate(3),),
            later_site: (sle.Clamp(1, to=2),),
        }, "the sites that are not named are left"
        spliced.edits = {"blocks.1.hook_out": [sle.Ablate(4)]}
        assert spliced.edits[SITE] == (sle.Ablate(4),), "either spelling will do"
        spliced.edits = []
        assert spliced.edits == {SITE: (), later_site: ()}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            sle.Ablate(48),
            sle.InvalidArgument,
            r"Ablate\(features=48\): the SAE at blocks.1.hook_resid_post has features "
            "0 to 47",
        ),
        (
            sle.AddDirection([1.0, 2.0]),
            sle.ShapeMismatch,
            "blocks.1.hook_resid_post is 32 wide",
        ),
        ("ablate", sle.InvalidArgument, "must be a list of edits such as Ablate"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_edit_that_does_not_fit_before_the_run(
    model, sae, edit, error, message
):
    with pytest.raises(error, match=message):
        sle.splice(model, sae, edits=[edit])


def test_rejects_a_run_of_another_sae(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), tiny.sae(d_sae=60))
    message = (
        "takes activations from a run of another SAE: "
        "it has 60 features at .*, and this one has 48"
    )
    with pytest.raises(sle.ShapeMismatch, match=message):
        sle.splice(model, sae, edits=[sle.Patch(3, source=run)])


def test_rejects_a_mask_over_another_number_of_features(model, sae):
    for mask in (torch.ones(20, dtype=torch.bool), torch.arange(60) < 5):
        with pytest.raises(
            sle.ShapeMismatch,
            match=rf"a mask over {len(mask)} features; the SAE at {SITE} has 48",
        ):
            sle.splice(model, sae, edits=[sle.Ablate(mask)])
    spliced = sle.splice(model, sae, edits=[sle.Ablate(torch.arange(48) < 2)])
    assert spliced.edits == (sle.Ablate([0, 1]),)
