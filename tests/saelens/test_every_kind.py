"""An SAE of SAELens and ours compute the same, whichever of the two it comes from."""

import pytest
import sae_lens
import tiny
import torch
from sae_lens.saes import transcoder
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

import sae_lens_ext as sle

THEIRS = {
    "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
    "topk": (
        sae_lens.TopKSAE,
        sae_lens.TopKSAEConfig,
        {"k": 5, "rescale_acts_by_decoder_norm": True},
    ),
    "jumprelu": (
        sae_lens.JumpReLUSAE,
        sae_lens.JumpReLUSAEConfig,
        {"normalize_activations": "layer_norm"},
    ),
    "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
    "transcoder": (
        transcoder.JumpReLUSkipTranscoder,
        transcoder.JumpReLUSkipTranscoderConfig,
        {"d_out": 24, "apply_b_dec_to_input": False},
    ),
    "in training": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 5}),
}


@pytest.fixture(params=THEIRS, ids=lambda name: name.replace(" ", "-"))
def theirs(request):
    sae_class, config_class, fields = THEIRS[request.param]
    sae = sae_class(config_class(d_in=32, d_sae=48, **fields))
    with torch.no_grad():
        for tensor in sae.state_dict().values():
            tensor.normal_()
            if tensor.ndim == 0:
                tensor.fill_(0.7)
    return sae.eval()


@torch.no_grad()
def test_takes_an_sae_from_memory(theirs, tmp_path):
    ours = sle.SAE.from_sae_lens(theirs)
    computing = theirs
    if isinstance(theirs, BatchTopKTrainingSAE):
        # At inference it has a threshold, which SAELens sets when it saves.
        theirs.save_inference_model(tmp_path)
        computing = sae_lens.SAE.load_from_disk(tmp_path)
    x = torch.randn(20, 32)
    scale = computing(x).abs().max()
    assert (ours(x) - computing(x)).abs().max() <= 1e-5 * scale
    acts = computing.encode(x)
    assert (ours.encode(x).dense() - acts).abs().max() <= 1e-5 * acts.max()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("topk", {}),
        ("topk", {"token_norm": "layer_norm"}),
        ("jumprelu", {}),
        ("jumprelu", {"token_norm": "unit_norm", "apply_b_dec_to_input": False}),
        ("batchtopk", {}),
        ("relu", {}),
        ("relu", {"d_out": 24}),
        ("relu", {"d_out": 24, "skip_connection": True}),
        ("jumprelu", {"d_out": 24}),
        ("jumprelu", {"d_out": 24, "skip_connection": True}),
    ],
)
@torch.no_grad()
def test_saelens_computes_the_same_from_our_folder(kind, fields, tmp_path):
    ours = tiny.sae_of_kind(kind, **fields).float()
    theirs = sae_lens.SAE.load_from_disk(ours.save_pretrained(tmp_path))
    x = torch.randn(20, 32)
    scale = ours(x).abs().max()
    assert (theirs(x) - ours(x)).abs().max() <= 1e-5 * scale
    again = sle.SAE.from_pretrained(tmp_path)
    assert again.config == ours.config
    assert torch.equal(again(x), ours(x))


@torch.no_grad()
def test_saelens_refuses_a_transcoder_that_it_would_misread(tmp_path):
    ours = tiny.sae_of_kind("topk", d_out=24).float()
    ours.save_pretrained(tmp_path)
    with pytest.raises(KeyError, match="topk"):
        sae_lens.SAE.load_from_disk(tmp_path)
    x = torch.randn(20, 32)
    assert torch.equal(sle.SAE.from_pretrained(tmp_path)(x), ours(x))


def test_rejects_what_is_not_an_sae_of_saelens():
    with pytest.raises(
        sle.InvalidArgument, match=r"give an SAE of SAELens 6; got .*Linear"
    ):
        sle.SAE.from_sae_lens(torch.nn.Linear(2, 2))
