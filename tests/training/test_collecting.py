"""One pass gives the activations of several sites for the tokens that count."""

import pytest
import torch
from toy import OTHER_SITE, SITE, Toy, ids_of, rows

import sae_lens_ext as sle
from sae_lens_ext.hosts import token_batch
from sae_lens_ext.training.collecting import Collector, site_names


def collected(model, tokens, sites, **options):
    collector = Collector(model, sites, **options)
    batch = collector.batch(tokens)
    mask = collector.mask_of(batch)
    return collector.collect(batch, mask), collector.n_special(batch, mask)


def test_one_pass_serves_all_sites_with_the_same_tokens():
    model = Toy()
    values, n_special = collected(model, rows(4, 5), [OTHER_SITE, SITE])
    assert model.n_passes == 1
    assert list(values) == [OTHER_SITE, SITE]
    assert ids_of(values[SITE]) == list(range(3, 19))
    assert torch.equal(values[OTHER_SITE][:, 0], 2 * values[SITE][:, 0])
    assert n_special == 4


def test_padding_is_left_out_on_either_side():
    model = Toy()
    ids = torch.tensor([[0, 0, 2, 5], [2, 6, 7, 8]])
    tokens = {"input_ids": ids, "attention_mask": torch.tensor([[0, 0, 1, 1], [1] * 4])}
    values, n_special = collected(model, token_batch(model, tokens), SITE)
    assert ids_of(values[SITE]) == [5, 6, 7, 8]
    assert n_special == 2


def test_positions_replace_the_rule_of_special_tokens():
    values, n_special = collected(Toy(), rows(2, 4), SITE, positions="all")
    assert ids_of(values[SITE]) == [2, 3, 4, 5, 2, 6, 7, 8]
    assert n_special == 0
    values, _ = collected(Toy(), rows(2, 4), SITE, positions=[-1])
    assert ids_of(values[SITE]) == [5, 8]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("sites", [[], [3], 5, [SITE, SITE]])
def test_rejects_invalid_names_of_sites(sites):
    if sites == 5:
        sites = [5]
    with pytest.raises(sle.InvalidArgument, match="sites must"):
        site_names(sites)


def test_rejects_an_unknown_site():
    with pytest.raises(sle.UnknownSite):
        Collector(Toy(), "nowhere")
