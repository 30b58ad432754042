"""Tensors are compared with the model, all of them, before any is put in place."""

import pytest
import torch
from published import HUB_CONFIG, renamed, weights_of, with_changes, write_folder

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


def dtypes_of(model):
    return {tensor.dtype for tensor in model.state_dict().values()}


def test_one_message_names_everything_wrong_with_the_weights(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG)
    weights = renamed(weights, "layers.0.mlp.fc2", "layers.0.mlp.fc3")
    weights["transformer.layers.1.mixer.proj_q.weight"] = torch.ones(16, 24)
    assert refusal(write_folder(tmp_path, weights)) == (
        f"the weights of {tmp_path} are not those of the model that its config.json "
        "describes; missing: transformer.layers.0.mlp.fc2.weight [24, 40]; of another "
        "shape: transformer.layers.1.mixer.proj_q.weight [16, 24] instead of [12, 24]; "
        "unknown: transformer.layers.0.mlp.fc3.weight [24, 40]"
    )


def test_a_long_list_is_shortened(tmp_path, refusal):
    config = with_changes(HUB_CONFIG, n_layer=7)
    message = refusal(write_folder(tmp_path, weights_of("hub", HUB_CONFIG), config))
    assert "missing: transformer.layers.5.norm1.weight [24], " in message
    assert message.endswith(" and 12 more")


def test_weights_have_the_stored_dtype_the_widest_or_the_requested_one(tmp_path):
    weights = {
        name: tensor.bfloat16()
        for name, tensor in weights_of("hub", HUB_CONFIG).items()
    }
    write_folder(tmp_path, weights)
    assert dtypes_of(load_checkpoint(tmp_path)) == {torch.bfloat16}

    last_norm = "transformer.ln_f.weight"
    write_folder(tmp_path, {**weights, last_norm: weights[last_norm].float()})
    assert dtypes_of(load_checkpoint(tmp_path)) == {torch.float32}
    for dtype in (torch.float16, "float16"):
        assert dtypes_of(load_checkpoint(tmp_path, dtype=dtype)) == {torch.float16}


def test_parameters_from_one_published_tensor_do_not_share_memory(tmp_path):
    model = load_checkpoint(write_folder(tmp_path, weights_of("hub", HUB_CONFIG)))
    parameters = list(model.parameters())
    storages = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    assert len(storages) == len(parameters)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rejects_infinite_numbers_and_integers(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG)
    weights["transformer.layers.3.norm2.weight"][5] = float("inf")
    with pytest.raises(
        sle.NonFinite,
        match="1 of 24 numbers in transformer.layers.3.norm2.weight of .* are NaN or "
        "infinite",
    ):
        load_checkpoint(write_folder(tmp_path, weights))

    weights["transformer.layers.3.norm2.weight"] = torch.ones(24, dtype=torch.int64)
    assert (
        "must be floating-point numbers; transformer.layers.3.norm2.weight is "
        "torch.int64"
    ) in refusal(write_folder(tmp_path, weights))
