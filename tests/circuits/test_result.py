"""Tables of effects at one k and at several."""

import pytest
import tiny

import sae_lens_ext as sle

METRIC = sle.circuits.logit_difference(7, 9)
FIRST, SECOND = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def result():
    saes = {FIRST: tiny.sae(k=4), SECOND: tiny.sae(k=6)}
    return sle.circuits.effects(
        tiny.hf_model("gpt2"), saes, tiny.tokens(2, 5), metric=METRIC
    )


def test_the_columns_are_those_of_a_node(result):
    columns = ["row", "site", "position", "feature", "rank", "effect"]
    assert result.at(2).columns.tolist() == columns
    assert result.by_k().columns.tolist() == ["k", *columns]


def test_a_node_has_one_row(result):
    table = result.at(3)
    assert not table.duplicated(["row", "site", "position", "feature"]).any()
    assert len(table) == 2 * 2 * 5 * (3 + 1)


def test_by_default_every_k_that_is_valid_everywhere(result):
    table = result.by_k()
    assert table.k.unique().tolist() == [1, 2, 3, 4]
    assert result.by_k([3, 1]).k.unique().tolist() == [3, 1]


def test_k_may_differ_between_sites(result):
    table = result.at({FIRST: 2, "blocks.1.hook_out": 5})
    ranks = table.groupby("site")["rank"].max()
    assert ranks.to_dict() == {FIRST: 1, SECOND: 4}
    assert result.at().groupby("site")["rank"].max().to_dict() == {FIRST: 3, SECOND: 5}
    assert result.largest_k == {FIRST: 4, SECOND: 6}


def test_effects_add_up_to_the_totals_at_every_k(result):
    for k in (1, 4):
        sums = result.at(k).groupby(["site", "row"]).effect.sum()
        for site, totals in result.totals().items():
            assert sums[site].tolist() == pytest.approx(totals.tolist(), abs=1e-5)


@pytest.mark.parametrize("k", [0, 5, 2.0, True, "3"])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_k(result, k):
    with pytest.raises(sle.InvalidK, match=f"effects at {FIRST} are there for k"):
        result.at(k)


@pytest.mark.parametrize("ks", [[], 3, "12", [2, 9]])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_ks(result, ks):
    with pytest.raises(sle.InvalidK):
        result.by_k(ks)


def test_rejects_a_k_without_a_number(result):
    with pytest.raises(sle.InvalidArgument, match="ks must be numbers"):
        result.by_k([None])


def test_rejects_another_site(result):
    with pytest.raises(sle.UnknownSite, match="there are no effects at"):
        result.at({"blocks.2.hook_resid_post": 1})


def test_the_repr_names_sites(result):
    assert repr(result) == f"Effects(attribution at {FIRST} (k=4), {SECOND} (k=6))"
