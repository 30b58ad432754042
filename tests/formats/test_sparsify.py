"""Folders of the sparsify library compute what sparsify computes."""

import json

import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle

D_MODEL = 6
D_SAE = 20
K = 4


@pytest.fixture
def folder(tmp_path):
    """As sparsify 1.3 writes it.

    The encoder has torch's names, and the size is an expansion factor or a number of
    latents.
    """
    folder = tmp_path / "layers.3"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "encoder.weight": (D_SAE, D_MODEL),
        "encoder.bias": (D_SAE,),
        "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
    }
    weights = {
        name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    save_file(weights, folder / "sae.safetensors")
    _configure(folder)
    return folder


def _configure(folder, **changes):
    """Write cfg.json; a value of ``...`` leaves the key out."""
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_MODEL,
        **changes,
    }
    stated = {key: value for key, value in config.items() if value is not ...}
    (folder / "cfg.json").write_text(json.dumps(stated))


def test_computes_what_sparsify_does(folder):
    sae = sle.SAE.from_pretrained(folder)
    x = torch.randn(3, D_MODEL)
    acts = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    values, indices = acts.topk(K)
    expected = torch.einsum("nk,nkd->nd", values, sae.W_dec[indices]) + sae.b_dec
    torch.testing.assert_close(sae(x), expected)
    assert sae.W_enc.T.is_contiguous()
    assert (sae.config.k, sae.config.levels, sae.config.hook_name) == (
        K,
        (K,),
        "blocks.3.hook_resid_post",
    )
    assert sae.config.metadata["hf_hook_name"] == "layers.3"


def test_an_ambiguous_site_is_left_to_the_user(folder):
    sae = sle.SAE.from_pretrained(folder.rename(folder.parent / "layers.3.mlp"))
    assert sae.config.hook_name is None
    assert sae.config.metadata["hf_hook_name"] == "layers.3.mlp"


def test_saving_it_again_writes_our_format(folder, tmp_path):
    sae = sle.SAE.from_pretrained(folder)
    again = sle.SAE.from_pretrained(sae.save_pretrained(tmp_path / "ours"))
    x = torch.randn(3, D_MODEL)
    assert torch.equal(sae(x), again(x))
    assert again.config == sae.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation": "groupmax"},
            "describes activation 'groupmax'; this reader knows 'topk'",
        ),
        ({"transcode": 1}, "transcode must be true or false; it is 1"),
        (
            {"skip_connection": True},
            "describes an autoencoder with a skip connection",
        ),
        ({"k": ...}, "lacks k"),
        ({"d_in": 0}, "d_in must be a positive integer; it is 0"),
        ({"k": D_SAE + 1}, "k=21 is more than d_sae=20 features"),
        ({"num_latents": 0}, "must be \\[192, 6\\], by cfg.json; it is \\[20, 6\\]"),
        ({"num_latents": "20"}, "num_latents must be a positive integer; it is '20'"),
        (
            {"num_latents": 0, "expansion_factor": None},
            "expansion_factor must be a positive integer; it is None",
        ),
        (
            {"signed": True},
            "sets 'signed' to True, which may change what the coder computes",
        ),
    ],
)
def test_rejects_other_coders_and_invalid_configs(folder, changes, message):
    _configure(folder, **changes)
    with pytest.raises(sle.FormatError, match=message):
        sle.SAE.from_pretrained(folder)


def test_saving_over_it_replaces_it(folder):
    sae = sle.SAE.from_pretrained(folder)
    with torch.no_grad():
        sae.W_dec.zero_()
    sae.save_pretrained(folder)
    assert not sle.SAE.from_pretrained(folder).W_dec.any()
