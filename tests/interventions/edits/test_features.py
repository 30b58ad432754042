"""Edits one by one, against the same change made by hand on a dense code."""

import dataclasses

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.interventions.recording import activations_of

SITE = "blocks.1.hook_resid_post"
FEATURES = [7, 3, 30, 12]


@pytest.fixture
def sae():
    return tiny.sae()


def _change(model, sae, edits, tokens, **options):
    """What the edits change in the activation after the splice, and the code they change."""
    out = {}
    for name, some in (("clean", []), ("edited", edits)):
        with (
            torch.no_grad(),
            sle.splice(model, sae, k=8, edits=some, **options) as spliced,
        ):
            model.run_with_hooks(
                tokens,
                fwd_hooks=[
                    (SITE, lambda x, hook, name=name: out.update({name: x.clone()}))
                ],
            )
            code = spliced.codes[SITE]
    return out["edited"] - out["clean"], code


BY_HAND = {
    "ablate": (
        lambda run: sle.Ablate(FEATURES),
        lambda acts, source: torch.zeros_like(acts),
    ),
    "to a number": (
        lambda run: sle.Ablate(FEATURES, to=2.5),
        lambda acts, source: torch.where(acts != 0, 2.5, acts),
    ),
    "to numbers": (
        lambda run: sle.Ablate(FEATURES, to=[1, 2, 3, 4]),
        lambda acts, source: torch.where(acts != 0, torch.tensor([1.0, 2, 3, 4]), acts),
    ),
    "to the mean": (
        lambda run: sle.Ablate(FEATURES, to="mean"),
        lambda acts, source: torch.where(acts != 0, acts.mean((0, 1)), acts),
    ),
    "resample": (
        lambda run: sle.Ablate(FEATURES, to=run),
        lambda acts, source: torch.where(acts != 0, source, acts),
    ),
    "steer": (
        lambda run: sle.Steer(FEATURES, by=-1.5),
        lambda acts, source: acts - 1.5,
    ),
    "clamp": (
        lambda run: sle.Clamp(FEATURES, to=[0.5, 1, 1.5, 2]),
        lambda acts, source: torch.tensor([0.5, 1, 1.5, 2]).expand_as(acts),
    ),
    "scale": (lambda run: sle.Scale(FEATURES, by=3), lambda acts, source: 3 * acts),
    "patch": (lambda run: sle.Patch(FEATURES, source=run), lambda acts, source: source),
}


@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("name", BY_HAND)
def test_an_edit_is_the_same_change_on_a_dense_code(model, sae, name, error_term):
    make, by_hand = BY_HAND[name]
    tokens = tiny.tokens(rows=4)
    run = sle.Run.capture(model, tiny.tokens(rows=4, seed=1), sae)
    change, code = _change(model, sae, [make(run)], tokens, error_term=error_term)
    acts = code.dense()[..., FEATURES]
    source = run.codes[SITE].dense()[..., FEATURES]
    assert (acts != 0).any(), (
        "an edit of features that never are active would show nothing"
    )
    expected = (by_hand(acts, source) - acts) @ sae.W_dec[FEATURES]
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=2e-5)


def test_edits_act_in_the_order_given(model, sae):
    tokens = tiny.tokens()
    orders = [
        [sle.Steer(7, by=1.0), sle.Scale(7, by=3)],
        [sle.Scale(7, by=3), sle.Steer(7, by=1.0)],
    ]
    first, second = (_change(model, sae, edits, tokens)[0] for edits in orders)
    torch.testing.assert_close(
        first - second, (2 * sae.W_dec[7]).expand_as(first), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"positions": slice(2, 5)}, lambda mask: mask[:, 2:5].fill_(True)),
        ({"positions": [-1, 3]}, lambda mask: mask[:, [9, 3]].fill_(True)),
        ({"positions": [3, 9]}, None),
        ({"positions": torch.arange(10) > 6}, None),
        ({"rows": [1], "positions": slice(None, None, 3)}, None),
        ({"rows": slice(1, None)}, None),
        ({"positions": [[True] * 10, [False] * 10]}, None),
    ],
)
def test_an_edit_acts_where_it_is_asked_to(model, sae, where, expected):
    mask = torch.zeros(2, 10, dtype=torch.bool)
    rows, positions = (
        where.get("rows", slice(None)),
        where.get("positions", slice(None)),
    )
    if isinstance(positions, list) and isinstance(positions[0], list):
        mask = torch.tensor(positions)
    else:
        chosen_rows = torch.zeros(2, dtype=torch.bool)
        chosen_rows[rows] = True
        chosen = torch.zeros(10, dtype=torch.bool)
        chosen[positions] = True
        mask = chosen_rows[:, None] & chosen
    change, _ = _change(model, sae, [sle.Steer(7, by=1.0, **where)], tiny.tokens())
    torch.testing.assert_close(
        change, mask[..., None] * sae.W_dec[7], rtol=1e-4, atol=1e-5
    )
    assert not change[~mask].any(), "to the bit"


def test_a_direction_is_added_to_the_activation_itself(model, sae):
    vector = torch.randn(32)
    tokens = tiny.tokens()
    edits = [
        sle.AddDirection(vector, scale=-2.0, positions=[4]),
        sle.AddDirection(vector.tolist()),
    ]
    change, _ = _change(model, sae, edits, tokens, error_term=True)
    expected = vector.expand(2, 10, 32).clone()
    expected[:, 4] -= 2 * vector
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


def test_a_direction_needs_no_sae(model):
    tokens, vector = tiny.tokens(), torch.randn(32)
    with torch.no_grad():
        everywhere = model.run_with_hooks(
            tokens, fwd_hooks=[(SITE, lambda x, hook: x + 2 * vector)]
        )
        text = (tokens != 2).unsqueeze(
            -1
        )  # by default the special tokens, here BOS, are left alone
        expected = model.run_with_hooks(
            tokens,
            fwd_hooks=[(SITE, lambda x, hook: torch.where(text, x + 2 * vector, x))],
        )
        bare = model(tokens)
        with sle.splice(
            model, {SITE: None}, edits=[sle.AddDirection(vector, scale=2)]
        ) as steered:
            torch.testing.assert_close(model(tokens), expected)
            steered.positions = "all"
            torch.testing.assert_close(model(tokens), everywhere)
            steered.edits = []
            assert torch.equal(model(tokens), bare)
            with pytest.raises(
                sle.InvalidArgument,
                match=r"Ablate\(features=3\) edits features, and there is no SAE at blocks.1",
            ):
                steered.edits = [sle.Ablate(3)]


def test_edits_keep_to_the_positions_of_the_splice(model):
    sae = tiny.sae(exclude_special_tokens=True)
    change, _ = _change(
        model,
        sae,
        [sle.Steer(7, by=1.0), sle.AddDirection(torch.ones(32))],
        tiny.tokens(),
    )
    assert not change[:, 0].any()
    torch.testing.assert_close(
        change[:, 1:], (sae.W_dec[7] + 1).expand(2, 9, 32), rtol=1e-4, atol=1e-5
    )


def test_the_mean_is_over_the_tokens_that_are_spliced(model):
    sae = tiny.sae(exclude_special_tokens=True)
    change, code = _change(
        model, sae, [sle.Ablate(range(48), to="mean")], tiny.tokens(rows=4)
    )
    acts = code.dense()
    expected = torch.where(acts != 0, acts[:, 1:].mean((0, 1)), acts) - acts
    torch.testing.assert_close(
        change[:, 1:], (expected @ sae.W_dec)[:, 1:], rtol=1e-4, atol=2e-5
    )


def test_edits_at_several_sites_are_named_by_site(model, sae):
    tokens, other = tiny.tokens(), "blocks.2.hook_mlp_out"
    saes = {SITE: sae, other: tiny.sae(seed=1)}
    with sle.splice(model, saes, edits={SITE: [sle.Ablate(3)]}) as spliced:
        assert spliced.edits == {SITE: (sle.Ablate(3),), other: ()}
        model(tokens)
        with pytest.raises(
            sle.InvalidArgument, match="several sites are spliced, so say where"
        ):
            spliced.edits = [sle.Ablate(3)]
        with pytest.raises(
            sle.UnknownSite, match="nothing is spliced at 'blocks.2.hook_mlp'"
        ):
            spliced.edits = {"blocks.2.hook_mlp": []}
        assert spliced.edits[SITE] == (sle.Ablate(3),), (
            "a refused change changes nothing"
        )
        spliced.edits = {"blocks.2.hook_mlp_out": [sle.Clamp(1, to=2)]}
        assert spliced.edits == {
            SITE: (sle.Ablate(3),),
            other: (sle.Clamp(1, to=2),),
        }, "the sites that are not named are left"
        spliced.edits = {"blocks.1.hook_out": [sle.Ablate(4)]}
        assert spliced.edits[SITE] == (sle.Ablate(4),), "either spelling will do"
        spliced.edits = []
        assert spliced.edits == {SITE: (), other: ()}


ALL = [
    sle.Ablate(3),
    sle.Ablate([3, 4], to="mean", positions=slice(1, None)),
    sle.Ablate([3, 4], to=[1.0, 2.0], rows=[0, 2]),
    sle.Steer(981, by=6.0),
    sle.Clamp((1, 2), to=0.5, positions=[[True, False], [False, True]]),
    sle.Scale(range(3), by=torch.tensor([1.0, 2.0, 3.0])),
    sle.AddDirection(torch.arange(20.0), scale=2),
    sle.Patch(
        [3],
        source=sle.Run(
            {
                SITE: sle.SparseCode(
                    torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[5, 3]]]), 9
                )
            }
        ),
    ),
]


@pytest.mark.parametrize("edit", ALL, ids=repr)
def test_an_edit_is_a_value(edit):
    (back,) = sle.edits_from_json(sle.edits_to_json([edit]))
    assert back == edit
    assert repr(back) == repr(edit)
    assert edit != sle.Ablate(77)
    with pytest.raises(AttributeError):
        edit.positions = slice(3)


def test_an_edit_prints_as_it_is_typed():
    assert repr(sle.Ablate([17, 403])) == "Ablate(features=[17, 403])"
    assert (
        repr(sle.Steer(981, by=6, positions=slice(4, None)))
        == "Steer(features=981, by=6.0, positions=slice(4, None, None))"
    )
    assert (
        repr(sle.Steer(5, by=2, positions=[2]))
        == "Steer(features=5, by=2.0, positions=[2])"
    )
    assert (
        repr(sle.AddDirection(torch.zeros(640))) == "AddDirection(vector=<640 numbers>)"
    )


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: sle.Ablate(-1),
            "features must be one or more non-negative integers, or a boolean mask over all features; got -1",
        ),
        (lambda: sle.Ablate([]), "at least one, or a mask over all; got"),
        (lambda: sle.Ablate(2.0), "features must be whole numbers"),
        (lambda: sle.Ablate("17"), "features must be whole numbers"),
        (lambda: sle.Ablate([3, 3]), "a feature can be named once; got"),
        (
            lambda: sle.Ablate(3, to="median"),
            "to must be 'zero', 'mean', a number, one number per feature, or a Run; got 'median'",
        ),
        (
            lambda: sle.Ablate([3, 4], to=[1.0]),
            "to must be one number, or one for each of the 2 features",
        ),
        (lambda: sle.Steer(3, by="much"), "by must be a finite number; got 'much'"),
        (
            lambda: sle.Patch(3, source=None),
            r"source must be a Run, such as Run.capture\(model, other_tokens, sae\); got a NoneType",
        ),
        (lambda: sle.AddDirection("up"), "vector must be several numbers; got 'up'"),
        (
            lambda: sle.AddDirection([1.0], scale="2"),
            "scale must be a finite number; got '2'",
        ),
        (
            lambda: sle.AddDirection([1.0, float("nan")]),
            "each of vector must be a finite number; got nan",
        ),
        (lambda: sle.Steer(1, by=float("inf")), "by must be a finite number; got inf"),
        (lambda: sle.Scale(1, by=10**400), "by must be a finite number"),
        (lambda: sle.Ablate(1, to=float("nan")), "to must be a finite number; got nan"),
        (
            lambda: sle.AddDirection(torch.zeros(3, requires_grad=True)),
            "wants a gradient, and edits hold plain numbers",
        ),
        (
            lambda: sle.Steer(1, by=torch.tensor(1.0, requires_grad=True)),
            "wants a gradient, and edits hold plain numbers",
        ),
        (lambda: sle.edits_to_json(sle.Ablate(1)), "edits are a list of edits such as"),
        (lambda: sle.Run(None), "a run is made of codes"),
        (
            lambda: sle.Ablate(3, positions=3),
            "positions must be a slice, a list of whole numbers, a boolean mask",
        ),
        (
            lambda: sle.Ablate(3, rows="first"),
            "rows must be a slice, a list of whole numbers, a boolean mask, 'all' or None; got 'first'",
        ),
    ],
)
def test_an_edit_that_is_none_is_said(make, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        make()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "edits must be JSON text"),
        ("3", "edits are written as a list, or as lists by site; this is '3'"),
        (
            '[{"edit": "Delete"}]',
            "an edit is an object whose 'edit' is one of Ablate, Steer, Clamp, Scale, Patch, AddDirection",
        ),
        ('[{"edit": "Steer", "features": [1]}]', "Steer is not written right"),
        (
            '[{"edit": "Patch", "features": [1], "source": {"run": {"a": {}}}}]',
            "a run is written as d_sae, indices, values and kept by site",
        ),
    ],
)
def test_a_text_that_is_no_edits_is_said(text, said):
    with pytest.raises(sle.FormatError, match=said):
        sle.edits_from_json(text)


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (
            sle.Ablate(48),
            sle.InvalidArgument,
            r"Ablate\(features=48\): the SAE at blocks.1.hook_resid_post has features 0 to 47",
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
def test_an_edit_that_does_not_fit_is_refused_before_the_run(
    model, sae, edit, error, said
):
    with pytest.raises(error, match=said):
        sle.splice(model, sae, edits=[edit])


@pytest.mark.parametrize("positions", [None, "all", slice(2, 4), [0, -1]])
def test_a_run_keeps_what_a_splice_sees(model, positions):
    sae, tokens = tiny.sae(exclude_special_tokens=True), tiny.tokens()
    with (
        torch.no_grad(),
        sle.splice(model, sae, error_term=True, positions=positions) as spliced,
    ):
        model(tokens)
    kept = sle.Run.capture(model, tokens, sae, positions=positions).codes[SITE]
    assert torch.equal(kept.dense(), spliced.codes[SITE].dense())
    assert bool(kept.values[:, 0].any()) == (
        positions in ("all", [0, -1])
    )  # the first token is BOS


def test_a_run_of_another_shape_is_refused(model, sae):
    run = sle.Run.capture(model, tiny.tokens(rows=3), sae)
    with pytest.raises(
        sle.ShapeMismatch,
        match="the run to take activations from at .* has 3 rows; this run has 2",
    ):
        _change(model, sae, [sle.Patch(3, source=run)], tiny.tokens())
    elsewhere = sle.Run({"blocks.0.hook_resid_post": run.codes[SITE]})
    with pytest.raises(
        sle.UnknownSite,
        match="this run was not captured at 'blocks.1.hook_resid_post'; it was at: blocks.0",
    ):
        _change(model, sae, [sle.Patch(3, source=elsewhere)], tiny.tokens())


@pytest.mark.parametrize(
    "make",
    [lambda run: sle.Patch([3], source=run), lambda run: sle.Ablate([3], to=run)],
)
def test_a_run_serves_only_where_it_kept_features(model, sae, make):
    shorter = sle.Run.capture(model, tiny.tokens(length=6), sae)
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"reaches positions \[6, 7, 8, 9\], where the run it takes activations from kept none",
    ):
        _change(model, sae, [make(shorter)], tiny.tokens())
    part = sle.Run.capture(model, tiny.tokens(), sae, positions=[-1])
    with pytest.raises(sle.ShapeMismatch, match="reaches positions"):
        _change(model, sae, [make(part)], tiny.tokens())
    for run in (shorter, part):
        where = run.mask(SITE)[0].nonzero().flatten().tolist()
        _change(
            model, sae, [dataclasses.replace(make(run), positions=where)], tiny.tokens()
        )


def test_tokens_that_generation_adds_are_not_patched(gpt2, sae):
    tokens = tiny.tokens(rows=1)
    run = sle.Run.capture(gpt2, tokens, sae)
    options = {"max_new_tokens": 4, "do_sample": False, "verbose": False}
    with torch.no_grad():
        bare = gpt2.generate(tokens, **options)
        with sle.splice(
            gpt2, sae, error_term=True, edits=[sle.Patch(range(48), source=run)]
        ):
            assert torch.equal(gpt2.generate(tokens, **options), bare), (
                "patching a run into itself changes nothing"
            )


def test_a_run_of_another_sae_is_refused(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), tiny.sae(d_sae=60))
    with pytest.raises(
        sle.ShapeMismatch,
        match="takes activations from a run of another SAE: its features at .* are 60, here they are 48",
    ):
        sle.splice(model, sae, edits=[sle.Patch(3, source=run)])


@pytest.mark.usefixtures("without_shape_checks")
def test_a_run_answers_to_both_spellings_and_only_about_its_features(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), sae)
    assert torch.equal(
        run.activations("blocks.1.hook_out", 3), run.activations(SITE, [3])
    )
    for features in (-1, [48], [], [1.0]):
        with pytest.raises(sle.InvalidArgument, match="features"):
            run.activations(SITE, features)


def test_the_mean_of_a_run_is_what_ablating_to_the_mean_uses(model):
    sae, tokens = tiny.sae(exclude_special_tokens=True), tiny.tokens()
    mean = sle.Run.capture(model, tokens, sae).mean_activations(SITE, FEATURES)
    by_mean, _ = _change(model, sae, [sle.Ablate(FEATURES, to="mean")], tokens)
    by_hand, _ = _change(model, sae, [sle.Ablate(FEATURES, to=mean)], tokens)
    torch.testing.assert_close(by_mean, by_hand)


@pytest.mark.usefixtures("without_shape_checks")
def test_numpy_and_masks_are_as_good_as_lists():
    np = pytest.importorskip("numpy")
    assert sle.Ablate(np.array([1, 2]), to=np.array([1.0, 2.0])) == sle.Ablate(
        [1, 2], to=[1.0, 2.0]
    )
    assert sle.Steer(np.int64(1), by=np.float32(3)) == sle.Steer(1, by=3.0)
    assert sle.AddDirection(np.ones(3), scale=torch.tensor(2.0)) == sle.AddDirection(
        [1.0, 1.0, 1.0], scale=2.0
    )
    assert sle.Ablate(torch.tensor([True, False, True])) == sle.Ablate([0, 2])


def test_edits_by_site_are_json_too():
    by_site = {SITE: [sle.Ablate(3)], "blocks.2.hook_mlp_out": []}
    assert sle.edits_from_json(sle.edits_to_json(by_site)) == by_site


def test_a_row_that_is_not_there_is_refused(model, sae):
    with pytest.raises(
        sle.ShapeMismatch, match="rows names row 2; this run has 2, from 0 on"
    ):
        _change(model, sae, [sle.Ablate(3, rows=[2])], tiny.tokens())


def test_columns_of_a_code_without_the_dense_one():
    code = sle.SparseCode(
        torch.rand(2, 5, 4),
        torch.stack([torch.randperm(9)[:4] for _ in range(10)]).view(2, 5, 4),
        9,
    )
    torch.testing.assert_close(
        activations_of(code, [8, 0, 3]), code.dense()[..., [8, 0, 3]]
    )


def test_a_difference_in_means_counts_what_it_is_asked_to(model):
    texts = ["w1 w2 w3", "w4 w5"]
    by_hand = []
    for text in texts:
        _, cache = model.run_with_cache(model.to_tokens(text), names_filter=SITE)
        by_hand.append(cache[SITE][0])
    negative = tiny.tokens(seed=5)
    _, cache = model.run_with_cache(negative, names_filter=SITE)
    with torch.no_grad():
        everything = torch.cat([x[1:] for x in by_hand]).mean(0) - cache[SITE][
            :, 1:
        ].mean((0, 1))
        last = torch.stack([x[-1] for x in by_hand]).mean(0) - cache[SITE][:, -1].mean(
            0
        )
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative),
        everything,
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative, positions=[-1]),
        last,
        rtol=1e-4,
        atol=1e-5,
    )
    with torch.no_grad():
        with_special = torch.cat(by_hand).mean(0) - cache[SITE].mean((0, 1))
    torch.testing.assert_close(
        sle.difference_in_means(model, SITE, texts, negative, positions="all"),
        with_special,
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(
        sle.InvalidArgument, match="no position of the negative examples is chosen"
    ):
        sle.difference_in_means(model, SITE, texts, torch.tensor([[2, 2]]))


def test_a_mask_over_another_number_of_features_is_refused(model, sae):
    for mask in (torch.ones(20, dtype=torch.bool), torch.arange(60) < 5):
        with pytest.raises(
            sle.ShapeMismatch,
            match=rf"a mask over {len(mask)} features; the SAE at blocks.1.hook_resid_post has 48",
        ):
            sle.splice(model, sae, edits=[sle.Ablate(mask)])
        with pytest.raises(
            sle.ShapeMismatch, match=rf"the mask is over {len(mask)} features"
        ):
            sle.Run.capture(model, tiny.tokens(), sae).activations(
                "blocks.1.hook_resid_post", mask
            )
    assert sle.splice(model, sae, edits=[sle.Ablate(torch.arange(48) < 2)]).edits == (
        sle.Ablate([0, 1]),
    )


def test_the_mean_over_no_token_is_refused(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), sae, positions=slice(50, None))
    with pytest.raises(
        sle.InvalidArgument,
        match="this run kept no features at blocks.1.hook_resid_post, so they have no mean",
    ):
        run.mean_activations("blocks.1.hook_resid_post", [1, 2])


@pytest.mark.usefixtures("without_shape_checks")
def test_examples_in_the_place_of_a_site_are_refused(model):
    with pytest.raises(
        sle.InvalidArgument,
        match="site must be a name such as .* before the examples; got a Tensor",
    ):
        sle.difference_in_means(
            model, tiny.tokens(), tiny.tokens(), "blocks.1.hook_resid_post"
        )


def test_an_edit_of_no_kind_is_refused():
    with pytest.raises(
        sle.FormatError, match="an edit is an object whose 'edit' is one of Ablate"
    ):
        sle.edits_from_json('[{"edit": ["Ablate"], "features": [1]}]')
