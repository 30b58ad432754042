"""Loading gives a model like any other, from every kind of folder, or an error."""

import json

import pytest
import torch
from published import (
    FLA_CONFIG,
    HUB_CONFIG,
    TOKENS,
    error_of,
    logits_of,
    weights_of,
    with_changes,
    write_folder,
)
from safetensors.torch import load_file, save_file

import sae_lens_ext as sle
from sae_lens_ext.based import BasedConfig, BasedForCausalLM, load_checkpoint

# Rotary angles are float32 here as in what is published.
ROTARY = 1e-6


def split_in_two(folder, name, save):
    """Put the weights of a folder into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), start=1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        save({key: tensors[key] for key in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "save"),
    [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)],
)
def test_reads_weights_in_several_files(name, save, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    logits = logits_of("hub", weights, HUB_CONFIG)
    split_in_two(write_folder(tmp_path, weights), name, save)
    assert error_of(load_checkpoint(tmp_path), logits) < ROTARY

    stem, suffix = name.split(".")
    (tmp_path / f"{stem}-00002-of-00002.{suffix}").unlink()
    with pytest.raises(sle.FormatError, match=f"{tmp_path} holds no .*-00002-of-00002"):
        load_checkpoint(tmp_path)


def test_reads_a_bin_file_where_there_are_no_safetensors(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    logits = logits_of("hub", weights, HUB_CONFIG)
    uploaded = {f"model.{name}": tensor for name, tensor in weights.items()}
    uploaded["model.train_metrics.num-tokens.count"] = torch.tensor(7)
    uploaded["model.val_metrics.loss"] = torch.tensor(float("nan"))
    write_folder(tmp_path, weights)
    torch.save(uploaded, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert error_of(load_checkpoint(tmp_path), logits) < ROTARY

    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save(zeros, tmp_path / "pytorch_model.bin")
    save_file(weights, tmp_path / "model.safetensors")
    assert error_of(load_checkpoint(tmp_path), logits) < ROTARY


class Runs:
    """What a pickle can do when it is read."""

    ran = False

    def __reduce__(self):
        return setattr, (Runs, "ran", True)


def test_a_pickle_that_would_run_code_is_rejected_and_runs_nothing(tmp_path):
    write_folder(tmp_path, {})
    content = {"weight": torch.ones(1), "trap": Runs()}
    torch.save(content, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        sle.FormatError,
        match="which could run anything and is not loaded: save its tensors as "
        "safetensors",
    ):
        load_checkpoint(tmp_path)
    assert not Runs.ran


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read \(was it cut short\?\): EOFError"),
        (b"no pickle", "pytorch_model.bin is not a pickle, or"),
    ],
)
def test_rejects_an_invalid_bin_file(content, message, tmp_path):
    (write_folder(tmp_path, {}) / "pytorch_model.bin").write_bytes(content)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(sle.FormatError, match=message):
        load_checkpoint(tmp_path)


def test_rejects_a_bin_file_of_other_things_than_tensors(tmp_path):
    write_folder(tmp_path, {})
    nested = {"state_dict": {"weight": torch.ones(1)}}
    torch.save(nested, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        sle.FormatError,
        match="must hold a state dict: tensors by name, and nothing else",
    ):
        load_checkpoint(tmp_path)


def assert_same_model(model, expected):
    """The same config and the same bits, so the same logits.

    The logits are compared to float64's precision, not bit for bit: matrix products can
    depend on where in memory the weights are.
    """
    ours = model.state_dict()
    theirs = expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == theirs[name].dtype for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # All but the name of the folder, which only transformers' own way of opening keeps.
    fields = model.config.to_dict() | {"_name_or_path": ""}
    assert fields == expected.config.to_dict()

    logits = model(TOKENS[None]).logits
    assert logits.dtype == torch.float64
    torch.testing.assert_close(
        logits, expected(TOKENS[None]).logits, rtol=1e-12, atol=1e-12
    )


def test_a_loaded_model_is_like_any_other(tmp_path):
    weights = weights_of("fla", FLA_CONFIG, True)
    model = load_checkpoint(write_folder(tmp_path / "theirs", weights, FLA_CONFIG))
    assert not model.training
    longer = model.generate(TOKENS[None], max_new_tokens=3, do_sample=False)
    assert longer.shape == (1, 14)
    model(TOKENS[None], labels=TOKENS[None]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.save_pretrained(tmp_path / "ours")
    loaded = load_checkpoint(tmp_path / "ours")
    opened = BasedForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    assert_same_model(loaded, model)
    assert_same_model(opened, model)


@pytest.mark.parametrize(
    "options", [{}, {"norm_layout": "shared", "tie_word_embeddings": False}], ids=str
)
def test_reads_a_folder_of_this_package(options, tmp_path):
    config = BasedConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        feature_dim=4,
        **options,
    )
    model = BasedForCausalLM(config).double().eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert_same_model(load_checkpoint(tmp_path, kernel="rebased"), model)
    with pytest.raises(
        sle.FormatError,
        match="config.json has kernel 'rebased', and kernel='affine_square' was asked "
        "for; leave kernel out",
    ):
        load_checkpoint(tmp_path, kernel="affine_square")


def own_folder(folder, **fields):
    """A folder of this package with other fields in its config.json."""
    config = BasedConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3
    )
    BasedForCausalLM(config).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **fields}))
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        '["a", "list"]',
        '{"max_new_tokens": "many"}',
        '{"cache_implementation": 7}',
    ],
)
def test_rejects_an_invalid_generation_config_before_the_weights_are_read(
    content, tmp_path
):
    (own_folder(tmp_path) / "generation_config.json").write_text(content)
    (tmp_path / "model.safetensors").write_text("of no use")
    with pytest.raises(
        sle.FormatError,
        match=r"generation_config\.json is not a generation config \(.*\); correct it, "
        "or take it out",
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("dtype", "float33"), ("use_rope", "no")])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_fields_in_a_config_of_this_package(name, value, tmp_path):
    with pytest.raises(
        sle.FormatError,
        match=r"config\.json does not describe a model that can be loaded here: "
        rf"{name} must be .*; got '{value}'",
    ):
        load_checkpoint(own_folder(tmp_path, **{name: value}))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_unknown_kernel_or_dtype(tmp_path):
    with pytest.raises(
        sle.InvalidArgument, match="kernel must be one of based, rebased, .*'taylor'"
    ):
        load_checkpoint(tmp_path, kernel="taylor")
    with pytest.raises(
        sle.InvalidArgument, match=r"kernel must be one of .*; got \['based'\]"
    ):
        load_checkpoint(tmp_path, kernel=["based"])
    for dtype in (torch.int8, "float33"):
        with pytest.raises(
            sle.InvalidArgument,
            match=f"dtype must be a floating-point dtype .* got '?{dtype}",
        ):
            load_checkpoint(tmp_path, dtype=dtype)


def test_rejects_a_head_that_is_not_the_embedding_it_is_tied_to(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG)
    weights["lm_head.weight"] += 1
    assert (
        "says that lm_head.weight is transformer.embeddings.word_embeddings.weight "
        "(tie_word_embeddings), but they differ"
    ) in refusal(write_folder(tmp_path, weights))

    untied = with_changes(HUB_CONFIG, tie_word_embeddings=False)
    assert load_checkpoint(write_folder(tmp_path, weights, untied)) is not None


def test_rejects_a_name_with_and_without_a_prefix(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG)
    weights["model.transformer.ln_f.weight"] = torch.ones(24)
    assert (
        "the weights hold transformer.ln_f.weight with and without a leading 'model.'"
        in refusal(write_folder(tmp_path, weights))
    )


def test_rejects_models_of_other_kinds(tmp_path, refusal):
    weights = {"transformer.h.0.attn.c_attn.weight": torch.ones(2, 2)}
    message = refusal(write_folder(tmp_path, weights, {"model_type": "gpt2"}))
    assert (
        "does not hold a model of a supported kind: its tensors are outside of "
        "transformer.layers.0.mixer, backbone.layers.0."
    ) in message
    assert message.endswith("it holds transformer.h.0.attn.c_attn.weight")


def test_rejects_a_folder_without_weights_or_config(tmp_path, refusal):
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG))
    (tmp_path / "config.json").rename(tmp_path / "cfg.json")
    assert refusal(tmp_path) == (
        f"{tmp_path} holds no config.json, so nothing says how its weights are put "
        "together: add the config.json it was published with"
    )

    (tmp_path / "cfg.json").rename(tmp_path / "config.json")
    (tmp_path / "model.safetensors").unlink()
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} holds no weights: ")
    assert "model.safetensors, pytorch_model.bin" in message
    assert message.endswith("nor an index of either")


@pytest.mark.parametrize(
    "weight_map", [None, {}, {"a": "../elsewhere.safetensors"}, {"a": 3}], ids=str
)
def test_rejects_an_index_that_leads_nowhere(weight_map, tmp_path, refusal):
    write_folder(tmp_path, {})
    (tmp_path / "model.safetensors").unlink()
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert (
        "must say under weight_map in which file beside it each tensor is"
        in refusal(tmp_path)
    )


def test_rejects_a_file_and_an_invalid_name(tmp_path, refusal):
    path = write_folder(tmp_path, {}) / "model.safetensors"
    assert "is a file, so give the folder that holds it" in refusal(path)
    message = refusal("based 360m")
    assert "no folder 'based 360m' here" in message
    assert "the name of a hub repository (owner/name)" in message
