"""SAEs are paired with the sites they belong to, each site once."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.sites import saes_by_site, spliced_sites

SITE = "blocks.1.hook_resid_post"


def test_an_sae_goes_to_the_site_in_its_config(sae):
    assert saes_by_site(sae) == {SITE: sae}


def test_an_sae_of_a_hugging_face_model_goes_to_its_module():
    sae = tiny.sae(hook_name=None, metadata={"hf_hook_name": "model.layers.1"})
    assert saes_by_site(sae) == {"model.layers.1": sae}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("saes", [{3: tiny.sae()}, {SITE: "sae"}])
def test_rejects_a_mapping_of_other_things(saes):
    with pytest.raises(
        sle.InvalidArgument, match="the mapping must go from site names to SAEs"
    ):
        saes_by_site(saes)


def test_a_site_may_be_without_an_sae(gemma2, sae):
    later_site = "blocks.2.hook_mlp_out"
    sites, saes = spliced_sites(host_for(gemma2), {later_site: None, SITE: sae})
    assert list(sites) == [later_site, SITE]
    assert saes == {SITE: sae}
    sites, saes = spliced_sites(host_for(gemma2), {SITE: None})
    assert list(sites) == [SITE]
    assert saes == {}


def test_rejects_two_saes_for_one_place(gemma2):
    saes = {SITE: tiny.sae(), "blocks.1.hook_out": tiny.sae(seed=1)}
    with pytest.raises(
        sle.InvalidArgument, match="two of these names are one place in the model"
    ):
        spliced_sites(host_for(gemma2), saes)
