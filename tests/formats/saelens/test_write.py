"""Every kind is written as the architecture of SAELens that computes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats import SAECheckpoint, read_sae, write_saelens

D_MODEL = 6
D_OUT = 5
D_SAE = 20


def checkpoint(kind, *, is_transcoder=False, has_skip=False, **changes):
    width = D_OUT if is_transcoder else D_MODEL
    shapes = {
        "W_enc": (D_MODEL, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, width),
        "b_dec": (width,),
    }
    if kind in ("jumprelu", "batchtopk"):
        shapes["threshold"] = (D_SAE,)
    if has_skip:
        shapes["W_skip"] = (D_MODEL, width)
    return SAECheckpoint(
        **{
            "d_model": D_MODEL,
            "d_sae": D_SAE,
            "kind": kind,
            "k": 3 if kind == "topk" else None,
            "apply_b_dec_to_input": not is_transcoder,
            "d_out": D_OUT if is_transcoder else None,
            "tensors": {name: torch.randn(shape) for name, shape in shapes.items()},
            "metadata": {"hook_name": "blocks.0.hook_resid_post"},
            **changes,
        }
    )


@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "unit_norm"])
@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("topk", "topk"),
        ("relu", "standard"),
        ("jumprelu", "jumprelu"),
        ("batchtopk", "jumprelu"),
    ],
)
def test_an_sae_is_read_back_as_it_was(tmp_path, kind, architecture, token_norm):
    written = checkpoint(kind, token_norm=token_norm)
    read = read_sae(write_saelens(tmp_path, written))
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == architecture
    _check_equal(read, written)


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("topk", "topk_transcoder"),
        ("relu", "transcoder"),
        ("jumprelu", "jumprelu_transcoder"),
        ("batchtopk", "jumprelu_transcoder"),
    ],
)
def test_a_transcoder_is_read_back_as_it_was(tmp_path, kind, architecture, has_skip):
    written = checkpoint(kind, is_transcoder=True, has_skip=has_skip)
    read = read_sae(write_saelens(tmp_path, written))
    config = json.loads((tmp_path / "cfg.json").read_text())
    if has_skip:
        architecture = architecture.replace("transcoder", "skip_transcoder")
        # SAELens multiplies by the transpose.
        stored = load_file(tmp_path / "sae_weights.safetensors")["W_skip"]
        assert torch.equal(stored, written.tensors["W_skip"].T)
    assert config["architecture"] == architecture
    assert config["d_out"] == D_OUT
    _check_equal(read, written)


def _check_equal(read, written):
    for field in ("kind", "k", "d_out", "token_norm", "apply_b_dec_to_input"):
        assert getattr(read, field) == getattr(written, field), field
    assert read.metadata == written.metadata
    assert read.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert torch.equal(read.tensors[name], tensor), name


@pytest.mark.parametrize(
    ("hook_name", "stored"),
    [("blocks.0.attn.hook_z", "hook_z"), ("blocks.0.hook_resid_post", "none")],
)
def test_heads_are_reshaped_at_their_hook_only(tmp_path, hook_name, stored):
    metadata = {"hook_name": hook_name, "reshape_activations": "hook_z"}
    write_saelens(tmp_path, checkpoint("relu", metadata=metadata))
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["reshape_activations"] == stored


@pytest.mark.parametrize(
    "changes", [{"token_norm": "layer_norm"}, {"apply_b_dec_to_input": True}]
)
def test_rejects_a_transcoder_that_is_not_defined(tmp_path, changes):
    written = checkpoint("relu", is_transcoder=True, **changes)
    with pytest.raises(InvalidArgument, match="a transcoder to be saved must have"):
        write_saelens(tmp_path / "new", written)
    assert not (tmp_path / "new").exists()


def test_a_save_without_constants_removes_those_of_an_earlier_one(tmp_path):
    constants = {
        "activation_mean": torch.ones(D_MODEL),
        "activation_scale": torch.tensor(2.0),
    }
    write_saelens(tmp_path, checkpoint("topk", normalization=constants))
    assert read_sae(tmp_path).normalization.keys() == constants.keys()
    write_saelens(tmp_path, checkpoint("topk"))
    assert read_sae(tmp_path).normalization == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
