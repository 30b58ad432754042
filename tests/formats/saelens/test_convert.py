"""A config and a state dict of SAELens become a checkpoint, or an error names why."""

import json

import checkpoints
import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.formats import checkpoint_from_saelens, read_sae

D_IN = 6
D_SAE = 20
METADATA = {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.hook_resid_post"}


def config(architecture="topk", **changes):
    values = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": dict(METADATA),
    }
    if architecture == "topk":
        values["k"] = 4
    if architecture.endswith("transcoder"):
        values["d_out"] = D_IN
    return {**values, **changes}


def tensors(**changes):
    """Four random tensors; others by name, and ``...`` leaves one out."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (D_IN, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, D_IN),
        "b_dec": (D_IN,),
    }
    weights = {name: torch.randn(shapes[name], generator=generator) for name in shapes}
    weights |= changes
    return {name: tensor for name, tensor in weights.items() if tensor is not ...}


def read(config, tensors):
    return checkpoint_from_saelens(config, tensors, "the SAE")


@pytest.mark.parametrize(
    ("architecture", "extra", "kind"),
    [
        ("standard", {}, "relu"),
        ("topk", {}, "topk"),
        ("jumprelu", {"threshold": torch.rand(D_SAE)}, "jumprelu"),
        ("batchtopk", {"topk_threshold": torch.tensor(0.5).double()}, "batchtopk"),
        ("transcoder", {}, "relu"),
        ("skip_transcoder", {"W_skip": torch.ones(D_IN, D_IN)}, "relu"),
        ("jumprelu_transcoder", {"threshold": torch.rand(D_SAE)}, "jumprelu"),
    ],
)
def test_an_architecture_is_a_kind(architecture, extra, kind):
    checkpoint = read(config(architecture), tensors(**extra))
    assert checkpoint.kind == kind
    assert checkpoint.k == (4 if kind == "topk" else None)
    is_transcoder = architecture.endswith("transcoder")
    assert checkpoint.d_out == (D_IN if is_transcoder else None)
    assert checkpoint.metadata == {"hook_name": METADATA["hook_name"]}
    has_threshold = kind in ("jumprelu", "batchtopk")
    assert ("threshold" in checkpoint.tensors) == has_threshold


def test_the_skip_connection_is_stored_the_other_way_round():
    W_skip = torch.randn(D_IN + 1, D_IN)
    weights = tensors(
        W_skip=W_skip, W_dec=torch.randn(D_SAE, D_IN + 1), b_dec=torch.randn(D_IN + 1)
    )
    checkpoint = read(config("skip_transcoder", d_out=D_IN + 1), weights)
    assert torch.equal(checkpoint.tensors["W_skip"], W_skip.T)


def test_batchtopk_has_an_average_k_in_its_metadata():
    weights = tensors(topk_threshold=torch.tensor(0.5).double())
    checkpoint = read(config("batchtopk", k=12.5), weights)
    assert checkpoint.metadata["average_k"] == 12.5
    assert checkpoint.k is None

    facts = {
        "training_architecture": "matryoshka_batchtopk",
        "training_architecture_details": {"k": 7},
    }
    saved = config("jumprelu", metadata={**METADATA, **facts})
    checkpoint = read(saved, tensors(threshold=torch.full((D_SAE,), 0.5)))
    assert checkpoint.kind == "batchtopk"
    assert checkpoint.metadata["average_k"] == 7


def test_a_decoder_row_of_zeros_wins_no_place():
    weights = tensors()
    weights["W_dec"][7] = 0
    weights["b_enc"][7] = 30.0
    checkpoint = read(config(rescale_acts_by_decoder_norm=True), weights)
    x = torch.randn(9, D_IN)
    norms = weights["W_dec"].norm(dim=1)
    scores = (x @ weights["W_enc"] + weights["b_enc"]) * norms
    values, indices = scores.relu().topk(4)
    acts = torch.zeros(9, D_SAE).scatter(-1, indices, values)
    assert not bool(checkpoints.encoded(checkpoint, x)[:, 7].any())
    torch.testing.assert_close(
        checkpoints.reconstructed(checkpoint, x),
        torch.where(norms > 0, acts / norms, 0.0) @ weights["W_dec"] + weights["b_dec"],
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("name", "token_norm"),
    [("layer_norm", "layer_norm"), ("constant_norm_rescale", "unit_norm")],
)
def test_norms_per_token_are_computed_not_folded(name, token_norm):
    checkpoint = read(config(normalize_activations=name), tensors())
    assert checkpoint.token_norm == token_norm
    assert torch.equal(checkpoint.tensors["W_enc"], tensors()["W_enc"])


def test_a_constant_factor_is_folded():
    changes = {
        "normalize_activations": "constant_scalar_rescale",
        "activation_normalization_factor": 0.25,
    }
    checkpoint = read(config(**changes), tensors())
    plain = read(config(), tensors())
    x = torch.randn(5, D_IN)
    torch.testing.assert_close(
        checkpoints.reconstructed(checkpoint, x),
        checkpoints.reconstructed(plain, 0.25 * x) / 0.25,
    )


def test_an_overflow_in_a_fold_is_found_although_the_file_is_finite():
    weights = {name: tensor.half() for name, tensor in tensors().items()}
    weights["b_enc"][0] = 60_000
    weights["W_dec"][0] = 10
    changes = {"rescale_acts_by_decoder_norm": True}
    with pytest.raises(
        sle.NonFinite, match=r"1 of 20 numbers in b_enc of the SAE .*convert it to flo"
    ):
        read(config(**changes), weights)
    widened = {name: tensor.float() for name, tensor in weights.items()}
    assert read(config(**changes), widened).tensors["b_enc"][0] > 65_504


def test_weights_keep_their_dtype_and_a_threshold_takes_it():
    weights = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    weights["threshold"] = torch.rand(D_SAE)
    checkpoint = read(config("jumprelu"), weights)
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.bfloat16}
    assert bool((checkpoint.tensors["threshold"] <= weights["threshold"]).all())


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({"architecture": "temporal"}, {}, "'temporal'; it reads the tokens before"),
        ({"architecture": "matching_pursuit"}, {}, "chooses features one after the"),
        ({"architecture": "abstopk"}, {}, "its features may be negative"),
        (
            {"architecture": "crosscoder"},
            {},
            "describes architecture 'crosscoder'; thi",
        ),
        ({"architecture": ["topk"]}, {}, r"describes architecture \['topk'\]"),
        ({"architecture": ...}, {}, "the SAE lacks architecture"),
        ({"k": ...}, {}, "the SAE lacks k"),
        ({"k": 10**30}, {}, f"k must be a positive integer; it is {10**30}"),
        ({"d_in": "6"}, {}, "d_in must be a positive integer; it is '6'"),
        (
            {"architecture": "transcoder"},
            {},
            "d_out must be a positive integer; it is N",
        ),
        (
            {"normalize_activations": "batch_norm"},
            {},
            "normalize_activations is 'batch_norm'; this reader knows none, expect",
        ),
        (
            {"normalize_activations": "covariance_whitening"},
            {},
            "activation_whitening.safetensors is not beside it",
        ),
        (
            {
                "normalize_activations": "constant_scalar_rescale",
                "activation_normalization_factor": float("inf"),
            },
            {},
            "the factor of the activations must be a positive number; it is inf",
        ),
        (
            {
                "architecture": "transcoder",
                "d_out": 6,
                "normalize_activations": "layer_norm",
            },
            {},
            "a transcoder with the per-token normalisation 'layer_norm'",
        ),
        (
            {
                "architecture": "transcoder",
                "d_out": 6,
                "normalize_activations": "expected_average_only_in",
            },
            {},
            "a transcoder with normalize_activations 'expected_average_only_in'",
        ),
        (
            {"architecture": "standard", "rescale_acts_by_decoder_norm": True},
            {},
            "rescale_acts_by_decoder_norm is true with architecture 'standard'",
        ),
        (
            {"reshape_activations": "conv"},
            {},
            "reshape_activations is 'conv'; this reader knows 'none' and 'hook_z'",
        ),
        (
            {},
            {"scaling_factor": torch.full((D_SAE,), 2.0)},
            "says finetuning_scaling_factor false, but its weights hold scaling_factor",
        ),
        (
            {"finetuning_scaling_factor": True},
            {"scaling_factor": torch.full((3,), 2.0)},
            r"scaling_factor must be \[20\]; it is \[3\]",
        ),
        ({}, {"threshold": torch.rand(D_SAE)}, "must hold exactly W_dec, W_enc, b_dec"),
        (
            {},
            {"b_enc": torch.zeros(D_SAE).double()},
            "tensors of one floating-point dt",
        ),
        (
            {},
            {"b_enc": torch.zeros(D_SAE).to_sparse()},
            "must be an ordinary dense ten",
        ),
        ({}, {"b_enc": torch.zeros(D_SAE, device="meta")}, "must be an ordinary dense"),
        (
            {
                "metadata": {
                    **METADATA,
                    "sae_lens_ext": {"format_version": 1, "kind": 3},
                }
            },
            {},
            "metadata.sae_lens_ext.kind must be a string; it is 3",
        ),
        (
            {
                "metadata": {
                    **METADATA,
                    "sae_lens_ext": {"format_version": 1, "kind": "relu"},
                }
            },
            {},
            "metadata.sae_lens_ext.kind is 'relu', which architecture 'topk' is not",
        ),
    ],
)
def test_rejects_what_would_be_computed_wrongly(changes, weights, message):
    changed = {**config(), **changes}
    stated = {key: value for key, value in changed.items() if value is not ...}
    with pytest.raises(sle.FormatError, match=message):
        read(stated, tensors(**weights))


def test_metadata_that_json_does_not_have_become_none():
    facts = {"explained": float("nan"), "nothing": None, "slice": (1, None)}
    checkpoint = read(config(metadata={**METADATA, **facts}), tensors())
    assert checkpoint.metadata["explained"] is None
    assert "nothing" not in checkpoint.metadata
    assert checkpoint.metadata["slice"] == [1, None]
    with pytest.raises(sle.FormatError, match="its metadata must be JSON values"):
        read(config(metadata={**METADATA, "x": object()}), tensors())


def test_the_factor_of_the_activations_can_be_put_beside_the_folder(tmp_path):
    save_file(tensors(), tmp_path / "sae_weights.safetensors")
    asking = config(normalize_activations="expected_average_only_in")
    (tmp_path / "cfg.json").write_text(json.dumps(asking))
    with pytest.raises(sle.FormatError, match="Put it into activation_scaler.json"):
        read_sae(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    checkpoint = read_sae(tmp_path)
    torch.testing.assert_close(checkpoint.tensors["W_enc"], tensors()["W_enc"] / 2)
