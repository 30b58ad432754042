"""SAEs are placed at the sites they belong to, each site once."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.sites import placements

SITE = "blocks.1.hook_resid_post"
INPUT = "blocks.1.hook_mlp_in"
OUTPUT = "blocks.1.hook_mlp_out"


@pytest.fixture
def host(gemma2):
    return host_for(gemma2)


@pytest.fixture
def transcoder():
    return tiny.sae_of_kind("relu", d_out=32, hook_name=INPUT, hook_name_out=OUTPUT)


def test_an_sae_goes_to_the_site_in_its_config(host, sae):
    (place,) = placements(host, sae).values()
    assert (place.site.name, place.sae, place.source) == (SITE, sae, None)
    assert place.reads is place.site


@pytest.mark.parametrize("own_name", [None, "blocks.1.hook_nothing_here"])
def test_an_sae_of_a_hugging_face_model_goes_to_its_module(own_name):
    host = host_for(tiny.hf_model("gemma2"))
    facts = {"hf_hook_name": "model.layers.1"}
    sae = tiny.sae(hook_name=own_name, metadata=facts)
    assert list(placements(host, sae)) == ["model.layers.1"]


def test_a_transcoder_goes_by_the_name_of_its_output(host, transcoder):
    (place,) = placements(host, transcoder).values()
    assert (place.reads.name, place.site.name) == (INPUT, OUTPUT)
    assert list(placements(host, {(INPUT, OUTPUT): transcoder})) == [OUTPUT]

    # The mapping decides about the output, the config about the input.
    other_output = "blocks.2.hook_mlp_out"
    (place,) = placements(host, {other_output: transcoder}).values()
    assert (place.reads.name, place.site.name) == (INPUT, other_output)


def test_saes_of_a_list_go_to_their_own_sites(host, sae):
    other = tiny.sae(hook_name="blocks.0.hook_resid_post")
    placed = placements(host, [sae, other])
    saes_by_site = {name: place.sae for name, place in placed.items()}
    assert saes_by_site == {SITE: sae, "blocks.0.hook_resid_post": other}
    with pytest.raises(sle.InvalidArgument, match="two of these names are one place"):
        placements(host, [sae, sae])


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("saes", "kinds"), [([], "nothing"), ((3, "sae"), "int, str"), ("sae", "type str")]
)
def test_rejects_anything_but_saes(host, saes, kinds):
    with pytest.raises(sle.InvalidArgument, match=f"sae must be an SAE, .*{kinds}"):
        placements(host, saes)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "saes", [{3: tiny.sae()}, {SITE: "sae"}, {(SITE,): tiny.sae()}, {SITE: None}]
)
def test_rejects_a_mapping_of_other_things(host, saes):
    with pytest.raises(
        sle.InvalidArgument, match="the mapping must go from site names to SAEs"
    ):
        placements(host, saes)


def test_a_site_may_be_without_an_sae(host, sae):
    later_site = "blocks.2.hook_mlp_out"
    placed = placements(host, {later_site: None, SITE: sae}, sae_needed=False)
    assert {name: place.sae for name, place in placed.items()} == {
        later_site: None,
        SITE: sae,
    }
    (place,) = placements(host, {SITE: None}, sae_needed=False).values()
    assert place.sae is None


def test_rejects_two_saes_for_one_place(host):
    saes = {SITE: tiny.sae(), "blocks.1.hook_out": tiny.sae(seed=1)}
    with pytest.raises(
        sle.InvalidArgument, match="two of these names are one place in the model"
    ):
        placements(host, saes)


def test_rejects_an_sae_that_does_not_say_where_it_belongs(host, transcoder):
    with pytest.raises(sle.UnknownSite, match=r"this SAE does not say where it belong"):
        placements(host, tiny.sae(hook_name=None))
    nameless = transcoder.with_config(hook_name_out=None)
    with pytest.raises(
        sle.UnknownSite,
        match=r"this transcoder does not say where it belongs \(config.hook_name_out "
        "is None",
    ):
        placements(host, nameless)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"d_model": 24, "d_out": 32}, "hook_mlp_in is 32 wide.*has d_model=24"),
        ({"d_model": 32, "d_out": 24}, "hook_mlp_out is 32 wide.*has d_out=24"),
    ],
)
def test_rejects_a_transcoder_of_other_widths_than_its_sites(host, widths, message):
    transcoder = tiny.sae_of_kind("relu", **widths)
    with pytest.raises(sle.ShapeMismatch, match=message):
        placements(host, {(INPUT, OUTPUT): transcoder})


def test_rejects_two_names_for_an_autoencoder(host, sae):
    with pytest.raises(sle.InvalidArgument, match="an autoencoder writes where it"):
        placements(host, {(INPUT, OUTPUT): sae})


@pytest.mark.parametrize("name", [INPUT, (INPUT, INPUT)])
def test_rejects_a_transcoder_that_would_write_where_it_reads(host, transcoder, name):
    with pytest.raises(sle.InvalidArgument, match="is where this transcoder reads"):
        placements(host, {name: transcoder})


@pytest.mark.parametrize(
    "call",
    [
        lambda model, saes: sle.sweep_k(model, [[5, 6]], saes, ks=[2], progress=False),
        lambda model, saes: sle.Run.capture(model, [[5, 6]], saes),
    ],
    ids=["sweep_k", "Run.capture"],
)
@pytest.mark.parametrize(
    "name", [(OUTPUT, INPUT), ("blocks.2.hook_mlp_in", "blocks.0.hook_mlp_out")]
)
def test_rejects_a_transcoder_that_reads_after_it_writes(
    gemma2, transcoder, call, name
):
    with pytest.raises(sle.UnknownSite, match="does not fire before"):
        call(gemma2, {name: transcoder.float()})
