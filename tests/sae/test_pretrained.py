"""An SAE that is saved and loaded is the same SAE."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

import sae_lens_ext as sle


@pytest.fixture
def folder(tmp_path):
    return tiny.sae(
        levels=tuple(range(1, 9)),
        model_name="tiny",
        exclude_special_tokens=True,
        metadata={"note": [1, "two"]},
    ).save_pretrained(tmp_path / "sae")


def test_a_saved_sae_comes_back_bit_for_bit(folder):
    sae = tiny.sae()
    loaded = sle.SAE.from_pretrained(folder)
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.randn(4, 32)
    assert torch.equal(sae(x, 3), loaded(x, 3))
    assert loaded.W_enc.T.is_contiguous()
    assert loaded.config == sle.SAEConfig(
        d_model=32,
        d_sae=48,
        k=8,
        levels=tuple(range(1, 9)),
        hook_name="blocks.1.hook_resid_post",
        model_name="tiny",
        exclude_special_tokens=True,
        metadata={"note": [1, "two"]},
    )


def test_constants_are_folded_on_disk_and_can_be_taken_out_again(tmp_path):
    sae = tiny.sae()
    sae.activation_mean = torch.randn(32)
    sae.activation_scale = torch.tensor(0.5)
    folder = sae.save_pretrained(tmp_path)
    x = torch.randn(6, 32)
    folded = sle.SAE.from_pretrained(folder)
    unfolded = sle.SAE.from_pretrained(folder, folded=False)
    assert folded.activation_scale == 1
    assert unfolded.activation_scale == 0.5
    torch.testing.assert_close(folded(x, 3), sae(x, 3))
    torch.testing.assert_close(unfolded(x, 3), sae(x, 3))

    # Saving an SAE without constants over it must not leave the old ones behind.
    tiny.sae().save_pretrained(folder)
    assert not (folder / "normalization.safetensors").exists()


def test_matrices_stored_in_bfloat16_are_all_that_is_rounded(tmp_path):
    sae = tiny.sae()
    # As of a residual stream, in one coordinate.
    sae.activation_mean[3] = 6001.0
    sae.activation_scale = torch.tensor(0.5)
    with torch.no_grad():
        sae.b_enc.uniform_()
        sae.b_dec.uniform_()
    folder = sae.save_pretrained(tmp_path, dtype="bfloat16")
    stored = load_file(folder / "sae_weights.safetensors")
    assert {name for name, tensor in stored.items() if tensor.itemsize == 2} == {
        "W_enc",
        "W_dec",
    }

    loaded = sle.SAE.from_pretrained(folder, folded=False)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    for name in ("W_enc", "W_dec"):
        rounded = getattr(sae, name).bfloat16().float()
        assert torch.equal(getattr(loaded, name), rounded), name
    with torch.no_grad():
        sae.W_enc.copy_(loaded.W_enc)
        sae.W_dec.copy_(loaded.W_dec)
    x = sae.activation_mean + torch.randn(6, 32)
    torch.testing.assert_close(loaded(x, 3), sae(x, 3))
    folded = sle.SAE.from_pretrained(folder)
    # Float32 rounds 6001 to 2.4e-4.
    torch.testing.assert_close(folded(x, 3), sae(x, 3), rtol=0, atol=5e-3)


def test_ids_of_special_tokens_survive(tmp_path):
    sae = tiny.sae(exclude_special_tokens=[2, 5])
    assert sae.config.exclude_special_tokens == (2, 5)
    folder = sae.save_pretrained(tmp_path)
    assert sle.SAE.from_pretrained(folder).config.exclude_special_tokens == (2, 5)


@pytest.mark.parametrize("wrong", [torch.int8, "bf16", "nn", "int64"])
def test_rejects_invalid_dtype(folder, wrong):
    with pytest.raises(
        sle.InvalidArgument, match="dtype must be a floating-point dtype"
    ):
        sle.SAE.from_pretrained(folder, dtype=wrong)


def test_dtype_can_be_chosen(folder):
    half = sle.SAE.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.W_dec.dtype == torch.bfloat16
    double = sle.SAE.from_pretrained(folder, dtype="float64")
    assert double.W_dec.dtype == torch.float64


def test_rejects_a_device_that_is_not_here(folder):
    with pytest.raises(sle.InvalidArgument, match="device 'foo' cannot be used here"):
        sle.SAE.from_pretrained(folder, device="foo")


def test_a_subfolder_may_be_a_path_and_a_wrong_one_is_answered_with_the_closest(folder):
    name = folder.name
    sle.SAE.from_pretrained(folder.parent, subfolder=Path(name))
    with pytest.raises(sle.FormatError, match=f"no folder or file .* closest: {name}"):
        sle.SAE.from_pretrained(folder.parent, subfolder=f"{name}x")


@pytest.mark.parametrize("wrong", ["", "a\0b", "a" * 300])
def test_rejects_a_name_that_no_folder_can_have(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sle.InvalidArgument, match="folder|cannot be written to"):
        tiny.sae().save_pretrained(wrong)
    assert not list(tmp_path.iterdir())
