"""Arguments of ``circuits.effects``, and errors for those that are invalid."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import effects, logit_difference

METRIC = logit_difference(7, 9)
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gpt2")


@pytest.fixture
def call(model):
    """Effects at one site of a tiny model, with some arguments changed."""

    def effects_with(saes=None, clean=None, corrupted=None, **options):
        saes = tiny.sae() if saes is None else saes
        clean = tiny.tokens(2, 5) if clean is None else clean
        options = {"metric": METRIC, **options}
        return effects(model, saes, clean, corrupted, **options)

    return effects_with


def test_a_list_of_saes_is_a_mapping_by_their_own_sites(call):
    saes = [tiny.sae(), tiny.sae(hook_name="blocks.0.hook_resid_post")]
    by_site = {sae.config.hook_name: sae for sae in saes}
    assert call(saes).at(3).equals(call(by_site).at(3))


def test_a_later_site_does_not_change_the_effects_at_an_earlier_one(call):
    saes = [tiny.sae(hook_name="blocks.0.hook_resid_post"), tiny.sae()]
    table = call(saes).at(3)
    first = table[table.site == "blocks.0.hook_resid_post"].reset_index(drop=True)
    assert first.equals(call(saes[0]).at(3))


def test_a_mean_over_rows_has_the_mean_of_their_effects(call):
    by_row = call().at(4)
    of_mean = call(metric=lambda z: (z[:, -1, 7] - z[:, -1, 9]).mean()).at(4)
    assert (of_mean.effect - by_row.effect / 2).abs().max() < 1e-6


def test_positions_choose_nodes(call):
    every = call(positions="all").at(2)
    chosen = call(positions=[1, -1]).at(2)
    expected = every[every.position.isin([1, 4])].reset_index(drop=True)
    assert chosen.equals(expected)


def test_special_tokens_that_an_sae_was_not_trained_on_are_left_out(call):
    sae = tiny.sae(exclude_special_tokens=True)
    table = call(sae).at(2)
    assert table.position.min() == 1
    assert call(sae, positions="all").at(2).position.min() == 0


def test_effects_work_where_gradients_are_off(call):
    sae = tiny.sae()
    expected = call(sae).at(3)
    with torch.no_grad():
        assert call(sae).at(3).equals(expected)
    with torch.inference_mode():
        assert call(sae).at(3).equals(expected)


@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk", "relu"])
def test_every_kind_of_sae_has_every_k(model, kind):
    sae = tiny.sae_of_kind(kind, hook_name=SITE).float()
    result = effects(model, sae, tiny.tokens(2, 5), metric=METRIC)
    whole = result.at()
    # More than any token has active.
    assert result.at(48).equals(whole)
    assert result.at(1).effect.sum() == pytest.approx(whole.effect.sum(), abs=1e-4)


def test_a_transcoder_has_effects_where_it_writes(model):
    sae = tiny.sae_of_kind(
        "topk",
        d_out=32,
        skip_connection=True,
        hook_name="blocks.1.hook_mlp_in",
        hook_name_out="blocks.1.hook_mlp_out",
    ).float()
    options = {"metric": METRIC, "k": 3, "method": "ablation", "budget": 30}
    table = effects(model, sae, tiny.tokens(1, 5), **options).at()
    assert set(table.site) == {"blocks.1.hook_mlp_out"}

    # What is measured here is what a splice changes.
    node = table[table.feature >= 0].iloc[0]
    tokens = tiny.tokens(1, 5)
    edit = sle.Ablate(int(node.feature), positions=[int(node.position)])
    with torch.no_grad():
        clean = model(tokens).logits
        with sle.splice(model, sae, k=3, error_term=True, edits=[edit]):
            change = (clean - model(tokens).logits)[0, -1]
    assert node.effect == pytest.approx((change[7] - change[9]).item(), abs=1e-5)


def test_rejects_pairs_of_unequal_length(model):
    model = tiny.hosted("transformers_model", "gpt2")
    with pytest.raises(
        sle.InvalidArgument, match="row 1 has 3 tokens in clean and 2 in corrupted"
    ):
        effects(model, tiny.sae(), ["w1 w2"] * 2, ["w1 w3", "w1"], metric=METRIC)


def test_rejects_another_number_of_corrupted_rows(call):
    with pytest.raises(sle.ShapeMismatch, match="clean has 2 rows and corrupted 3"):
        call(corrupted=tiny.tokens(3, 5))


PAIR = ([5, 6], [5, 7])


@pytest.mark.parametrize(
    ("clean", "corrupted", "message"),
    [
        ([PAIR, [5, 6]], None, "item 1 is one row"),
        ([PAIR, ([5], [6], [7])], None, "item 1 is a tuple of 3"),
        ([PAIR], [[5, 6]], "and corrupted has rows as well"),
        ([], None, "tokens must have at least one row"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_lists_that_are_not_of_pairs(model, clean, corrupted, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        effects(model, tiny.sae(), clean, corrupted, metric=METRIC)


def test_rejects_an_unknown_site(call):
    with pytest.raises(sle.UnknownSite, match="no site"):
        call({"blocks.1.hook_resid_pots": tiny.sae()})


def test_rejects_an_sae_of_another_width(call):
    with pytest.raises(sle.ShapeMismatch, match="32 wide"):
        call(tiny.sae(d_model=16))


def test_rejects_a_k_above_the_trained_one(call):
    with pytest.raises(sle.InvalidK, match="9"):
        call(k=9)
    assert call(k=9, extrapolate=True).at(9).effect.notna().all()
    with pytest.raises(sle.InvalidK, match="there for k from 1 to 8; got 9"):
        call().at(9)


def test_rejects_positions_that_choose_nothing(call):
    with pytest.raises(sle.InvalidArgument, match="positions chooses no token"):
        call(positions=[7])


@pytest.mark.parametrize("saes", [[], [1], 3, {}])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_anything_but_saes(call, saes):
    with pytest.raises(sle.InvalidArgument, match="SAE"):
        call(saes)


@pytest.mark.parametrize("freeze", ["mlp", ["norms", "x"], None, 1])
def test_rejects_invalid_freeze(call, freeze):
    with pytest.raises(sle.InvalidArgument, match="freeze must be some of"):
        call(freeze=freeze)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradient"}, "method must be one of"),
        ({"steps": 4}, "steps is for method='integrated_gradients'"),
        ({"budget": 4}, "budget is for method='ablation'"),
        ({"method": "integrated_gradients", "steps": 0}, "steps must be a positive"),
        ({"method": "ablation", "k": 2}, "pass budget="),
        ({"method": "ablation", "budget": 2}, "at one k; pass k="),
        ({"method": "ablation", "k": 2, "nodes": [1]}, "nodes must be a DataFrame"),
        ({"extrapolate": 1}, "extrapolate must be True or False"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_options_that_do_not_fit(call, options, message):
    with pytest.raises((sle.InvalidArgument, sle.InvalidK), match=message):
        call(**options)
