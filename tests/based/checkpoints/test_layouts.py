"""Published weights give the published logits: random ones under published names, against ``published.py``, which knows no model here."""

import copy
import json
import math

import published
import pytest
import torch
from sae_lens_ext.based.checkpoints.kernels import find_norms
from safetensors.torch import load_file, save_file

import sae_lens_ext as sle
from sae_lens_ext.based import BasedConfig, BasedForCausalLM, load_checkpoint, preset
from sae_lens_ext.based.checkpoints.assemble import empty_model, expected_shapes
from sae_lens_ext.based.checkpoints.configs import from_hub
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import HUB, places

TOKENS = torch.tensor([3, 41, 7, 7, 0, 19, 3, 44, 20, 5, 11])
NORMS = ("ln_q", "ln_k")


def changed(config, **changes):
    """A copy with other fields; a dict is merged into the one that is there."""
    found = copy.deepcopy(config)
    for key, value in changes.items():
        found[key] = (
            {**found[key], **value}
            if isinstance(value, dict) and isinstance(found.get(key), dict)
            else value
        )
    return found


HUB_CONFIG = published.HUB_CONFIG
# Without attention over a window there are no rotary positions, whose angles are float32 here as in what is published.
EXACT_HUB = changed(HUB_CONFIG, alt_mixer_2_layers=[])
EXACT_FLA = changed(published.FLA_CONFIG, attn={"layers": []})
ROTARY, EXACT = 1e-6, 1e-12

CASES = {
    "hub, Based": ("hub", HUB_CONFIG, (), ROTARY),
    "hub, ReBased": ("hub", HUB_CONFIG, NORMS, ROTARY),
    "hub, Based without window": ("hub", EXACT_HUB, (), EXACT),
    "hub, ReBased without window": ("hub", EXACT_HUB, NORMS, EXACT),
    "hub, norms called otherwise": ("hub", EXACT_HUB, ("q_norm", "k_norm"), EXACT),
    "hub, norms in words": (
        "hub",
        EXACT_HUB,
        ("attn.query_norm", "attn.key_norm"),
        EXACT,
    ),
    "hub, LayerNorm's eps": (
        "hub",
        changed(EXACT_HUB, layer_norm_epsilon=1e-2),
        NORMS,
        EXACT,
    ),
    "zoology, Based": ("zoology", published.ZOOLOGY_CONFIG, (), EXACT),
    "zoology, ReBased": ("zoology", published.ZOOLOGY_CONFIG, NORMS, EXACT),
    "fla, Based": ("fla", published.FLA_CONFIG, False, ROTARY),
    "fla, ReBased": ("fla", published.FLA_CONFIG, True, ROTARY),
    "fla, Based without window": ("fla", EXACT_FLA, False, EXACT),
    "fla, ReBased without window": ("fla", EXACT_FLA, True, EXACT),
}


def weights_of(layout, config, norms=()):
    return published.random_weights(
        getattr(published, f"{layout}_shapes")(config, norms)
    )


def logits_of(layout, weights, config, norms=()):
    return getattr(published, f"{layout}_logits")(weights, config, TOKENS, norms)


def write(folder, weights, config=HUB_CONFIG):
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def renamed(weights, old, new):
    assert any(old in name for name in weights)
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def error_of(model, wanted):
    return (model(TOKENS[None]).logits[0] - wanted).abs().max().item()


@pytest.mark.parametrize("case", CASES)
def test_published_weights_give_the_published_logits(case, tmp_path):
    layout, config, norms, tolerance = CASES[case]
    weights = weights_of(layout, config, norms)
    model = load_checkpoint(write(tmp_path, weights, config))
    assert model.config.kernel == ("rebased" if norms else "based")
    assert error_of(model, logits_of(layout, weights, config, norms)) < tolerance


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("0.mlp.fc1.weight", lambda one: torch.cat(one.chunk(2)[::-1])),
        ("3.mixer.in_proj.weight", lambda one: torch.cat(one.chunk(2)[::-1])),
        ("2.mixer.Wqkv.weight", lambda one: one.roll(24, 0)),
        ("0.mixer.conv.conv.weight", lambda one: one.flip(2)),
        ("4.mixer.ln_q.bias", torch.neg),
        ("1.norm1.weight", lambda one: one.flip(0)),
    ],
)
def test_the_comparison_sees_one_tensor_in_disorder(name, spoil, tmp_path):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    name = f"transformer.layers.{name}"
    model = load_checkpoint(write(tmp_path, {**weights, name: spoil(weights[name])}))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG, NORMS)) > 1000 * ROTARY


@pytest.mark.parametrize(
    "change",
    [
        {"alt_mixer_2": {"window_size": 8}},
        {"rotary_emb_fraction": 0},
        {"rotary_emb_base": 500},
        {"layer_norm_epsilon": 1e-3},
    ],
    ids=str,
)
def test_what_only_the_config_says_is_heeded(change, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    model = load_checkpoint(write(tmp_path, weights, changed(HUB_CONFIG, **change)))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG)) > 100 * ROTARY


def test_a_window_of_128_is_64_tokens_back(tmp_path):
    config = changed(HUB_CONFIG, alt_mixer_2={"window_size": 128})
    assert (
        load_checkpoint(
            write(tmp_path, weights_of("hub", config), config)
        ).config.sliding_window
        == 64
    )


FULL = changed(
    HUB_CONFIG,
    n_embd=1024,
    n_inner=2048,
    n_head=16,
    n_layer=27,
    vocab_size=50257,
    embd_pdrop=0.0,
    alt_mixer={"feature_dim": 16, "num_heads": 16, "feature_map": {"input_dim": 16}},
    alt_mixer_layers=[1, 6, 11, 16, 21],
    alt_mixer_2={"window_size": 128, "num_heads": 16},
    alt_mixer_2_layers=[2, 7, 12, 17, 22],
)
SMALL = changed(
    FULL,
    n_embd=768,
    n_inner=1536,
    n_head=12,
    n_layer=18,
    vocab_size=50277,
    alt_mixer={"num_heads": 12},
    alt_mixer_layers=list(range(1, 18, 2)),
)
SMALL = {
    key: value for key, value in SMALL.items() if not key.startswith("alt_mixer_2")
}
LARGE = changed(
    FULL,
    n_embd=1792,
    n_inner=3584,
    n_layer=36,
    alt_mixer_layers=[1, 6, 11, 16, 21, 27, 33],
    alt_mixer_2_layers=[2, 7, 12, 17, 22, 28, 34],
)


@pytest.mark.parametrize(
    ("name", "config", "norms"),
    [
        ("based-360m", FULL, ()),
        ("rebased-360m", FULL, NORMS),
        ("based-1.3b", LARGE, ()),
        ("based-small", SMALL, ()),
        ("rebased-small", SMALL, NORMS),
    ],
)
def test_at_full_size_every_published_tensor_is_wanted_in_its_shape_and_no_other(
    name, config, norms, tmp_path
):
    shapes = published.hub_shapes({"alt_mixer_2_layers": [], **config}, norms)
    del shapes["lm_head.weight"]
    fields = Fields(tmp_path, config)
    ours = BasedConfig(
        kernel="rebased" if norms else "based", **from_hub(fields, shapes, "based")
    )
    fields.check()
    assert ours.to_dict() == preset(name).to_dict()
    model = empty_model(ours)
    mixer = {
        name.partition(".mixer.")[2]: shape
        for name, shape in shapes.items()
        if ".layers.1.mixer." in name
    }
    found_norms = find_norms([mixer])
    where = places(
        HUB,
        ours,
        shapes,
        found_norms.names if norms else {},
        dict(model.named_parameters()),
    )
    assert expected_shapes(model, where) == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_the_shapes_of_based_360m_written_out():
    """As candle's loader has them: what the table in ``published.py`` must come to."""
    shapes = published.hub_shapes(FULL)
    assert shapes["transformer.embeddings.word_embeddings.weight"] == [50264, 1024]
    assert {
        name.removeprefix("transformer.layers.0."): shape
        for name, shape in shapes.items()
        if ".layers.0." in name
    } == {
        "norm1.weight": [1024],
        "norm2.weight": [1024],
        "mlp.fc1.weight": [4096, 1024],
        "mlp.fc2.weight": [1024, 2048],
        "mixer.in_proj.weight": [4096, 1024],
        "mixer.in_proj.bias": [4096],
        "mixer.conv.conv.weight": [2048, 1, 3],
        "mixer.out_proj.weight": [1024, 2048],
        "mixer.out_proj.bias": [1024],
    }
    assert (
        shapes["transformer.layers.1.mixer.proj_q.weight"]
        == shapes["transformer.layers.1.mixer.proj_k.weight"]
        == [256, 1024]
    )
    assert (
        shapes["transformer.layers.1.mixer.proj_v.weight"]
        == shapes["transformer.layers.1.mixer.out_proj.weight"]
        == [1024, 1024]
    )
    assert shapes["transformer.layers.2.mixer.Wqkv.weight"] == [3072, 1024]


def with_prefix(weights):
    return {f"model.{name}": tensor for name, tensor in weights.items()}


def with_counters(weights):
    return {
        **weights,
        "train_metrics.num-tokens.count": torch.tensor(7),
        "val_metrics.loss": torch.tensor(float("nan")),
    }


def with_buffers(weights):
    return {
        **weights,
        "transformer.decay.decay": torch.zeros(3),
        "transformer.layers.2.mixer.rotary_emb.inv_freq": torch.ones(4),
    }


def without_head(weights):
    return {
        name: tensor for name, tensor in weights.items() if name != "lm_head.weight"
    }


@pytest.mark.parametrize(
    "change",
    [
        with_prefix,
        with_counters,
        with_buffers,
        without_head,
        lambda weights: renamed(weights, ".conv.conv.", ".conv1.conv."),
        lambda weights: with_prefix(with_counters(weights)),
    ],
    ids=[
        "prefix",
        "counters",
        "buffers",
        "no head",
        "an older name",
        "prefix and counters",
    ],
)
def test_what_differs_between_uploads_makes_no_difference(change, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    model = load_checkpoint(write(tmp_path, change(weights)))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG)) < ROTARY


def test_the_output_of_linear_attention_may_be_called_as_in_corl_s_code(tmp_path):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    other = {
        name.replace("out_proj", "proj_o")
        if ".1.mixer" in name or ".4.mixer" in name
        else name: one
        for name, one in weights.items()
    }
    model = load_checkpoint(write(tmp_path, other))
    assert error_of(model, logits_of("hub", weights, HUB_CONFIG, NORMS)) < ROTARY


def test_models_of_zoology_without_hybrid_layers_are_read(tmp_path):
    config = changed(published.ZOOLOGY_CONFIG)
    weights = renamed(
        weights_of("zoology", config), ".sequence_mixer.mixer.", ".sequence_mixer."
    )
    model = load_checkpoint(
        write(tmp_path, weights, {"model": config, "learning_rate": 0.001})
    )
    assert (
        error_of(model, logits_of("zoology", weights_of("zoology", config), config))
        < EXACT
    )


def test_layers_without_a_mixer_are_softmax_attention_over_everything(tmp_path):
    """As hazyresearch/attn-360m: the window never ends."""
    config = {key: value for key, value in HUB_CONFIG.items() if "mixer" not in key}
    like = changed(
        HUB_CONFIG,
        alt_mixer_layers=[],
        alt_mixer_2_layers=list(range(5)),
        alt_mixer_2={"window_size": 100},
    )
    weights = weights_of("hub", like)
    model = load_checkpoint(write(tmp_path, weights, config))
    assert model.config.layer_types == ["full_attention"] * 5
    assert error_of(model, logits_of("hub", weights, like)) < ROTARY


# Files.


def split(folder, name, save):
    """The weights of a folder in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    names = sorted(tensors)
    files = {
        f"{stem}-{i + 1:05}-of-00002.{suffix}": part
        for i, part in enumerate((names[:10], names[10:]))
    }
    for file, part in files.items():
        save({key: tensors[key] for key in part}, folder / file)
    weight_map = {key: file for file, part in files.items() for key in part}
    (folder / f"{name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


@pytest.mark.parametrize(
    ("name", "save"),
    [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)],
)
def test_weights_in_several_files_are_read(name, save, tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    split(write(tmp_path, weights), name, save)
    assert (
        error_of(load_checkpoint(tmp_path), logits_of("hub", weights, HUB_CONFIG))
        < ROTARY
    )
    (tmp_path / f"{name.split('.')[0]}-00002-of-00002.{name.split('.')[1]}").unlink()
    with pytest.raises(sle.FormatError, match=f"{tmp_path} holds no .*-00002-of-00002"):
        load_checkpoint(tmp_path)


def test_a_bin_file_is_read_where_there_is_nothing_better(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    torch.save(
        with_prefix(with_counters(weights)),
        write(tmp_path, weights) / "pytorch_model.bin",
    )
    (tmp_path / "model.safetensors").unlink()
    assert (
        error_of(load_checkpoint(tmp_path), logits_of("hub", weights, HUB_CONFIG))
        < ROTARY
    )
    torch.save(
        {name: one.zero_() for name, one in weights.items()},
        tmp_path / "pytorch_model.bin",
    )
    save_file(weights_of("hub", HUB_CONFIG), tmp_path / "model.safetensors")
    assert (
        error_of(
            load_checkpoint(tmp_path),
            logits_of("hub", weights_of("hub", HUB_CONFIG), HUB_CONFIG),
        )
        < ROTARY
    )


class Runs:
    """What a pickle can do when it is read."""

    ran = False

    def __reduce__(self):
        return setattr, (Runs, "ran", True)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    torch.save(
        {"weight": torch.ones(1), "trap": Runs()},
        write(tmp_path, {}) / "pytorch_model.bin",
    )
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        sle.FormatError,
        match="one of more than tensors, which could run anything and is not loaded: save its tensors as safetensors",
    ):
        load_checkpoint(tmp_path)
    assert not Runs.ran


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"cannot be read \(was it cut short\?\): EOFError"),
        (b"no pickle", "is no pickle, or"),
    ],
)
def test_a_bin_file_that_is_none_is_refused(content, said, tmp_path):
    (write(tmp_path, {}) / "pytorch_model.bin").write_bytes(content)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(sle.FormatError, match=said):
        load_checkpoint(tmp_path)


def test_a_bin_file_of_other_things_than_tensors_is_refused(tmp_path):
    torch.save(
        {"state_dict": {"weight": torch.ones(1)}},
        write(tmp_path, {}) / "pytorch_model.bin",
    )
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        sle.FormatError,
        match="must hold a state dict: tensors by name, and nothing else",
    ):
        load_checkpoint(tmp_path)


def test_the_type_of_the_weights_is_the_stored_one_the_widest_or_the_one_asked_for(
    tmp_path,
):
    weights = {
        name: one.bfloat16() for name, one in weights_of("hub", HUB_CONFIG).items()
    }
    assert {
        one.dtype
        for one in load_checkpoint(write(tmp_path, weights)).state_dict().values()
    } == {torch.bfloat16}
    mixed = {
        **weights,
        "transformer.ln_f.weight": weights["transformer.ln_f.weight"].float(),
    }
    assert {
        one.dtype
        for one in load_checkpoint(write(tmp_path, mixed)).state_dict().values()
    } == {torch.float32}
    assert {
        one.dtype
        for one in load_checkpoint(tmp_path, dtype=torch.float16).state_dict().values()
    } == {torch.float16}


# What comes of it.


def test_a_loaded_model_is_one_like_any_other(tmp_path):
    weights = weights_of("fla", published.FLA_CONFIG, True)
    model = load_checkpoint(write(tmp_path / "theirs", weights, published.FLA_CONFIG))
    assert not model.training
    assert model.generate(TOKENS[None], max_new_tokens=3, do_sample=False).shape == (
        1,
        14,
    )
    model(TOKENS[None], labels=TOKENS[None]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path / "ours")
    for again in (
        load_checkpoint(tmp_path / "ours"),
        BasedForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64),
    ):
        assert torch.equal(again(TOKENS[None]).logits, model(TOKENS[None]).logits)


def test_parameters_of_one_published_tensor_do_not_share_memory(tmp_path):
    model = load_checkpoint(write(tmp_path, weights_of("hub", HUB_CONFIG)))
    parameters = list(model.parameters())
    assert len({one.untyped_storage().data_ptr() for one in parameters}) == len(
        parameters
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "options", [{}, {"norm_layout": "shared", "tie_word_embeddings": False}], ids=str
)
def test_a_folder_of_our_own_is_read_too(options, tmp_path):
    model = BasedForCausalLM(
        BasedConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=4,
            num_attention_heads=3,
            feature_dim=4,
            **options,
        )
    )
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    again = load_checkpoint(tmp_path, kernel="rebased")
    assert torch.equal(again(TOKENS[None]).logits, model.eval()(TOKENS[None]).logits)
    with pytest.raises(
        sle.FormatError,
        match="config.json says kernel 'rebased', and kernel='affine_square' was asked for; leave kernel out",
    ):
        load_checkpoint(tmp_path, kernel="affine_square")


def own_folder(folder, **described):
    """A folder of ours with something else in its config.json."""
    BasedForCausalLM(
        BasedConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3
        )
    ).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **described}))
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
def test_a_generation_config_that_is_none_is_refused_before_the_weights_are_read(
    content, tmp_path
):
    (own_folder(tmp_path) / "generation_config.json").write_text(content)
    (tmp_path / "model.safetensors").write_text("of no use")
    with pytest.raises(
        sle.FormatError,
        match=r"generation_config\.json is no generation config \(.*\); mend it, or take it out",
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("dtype", "float33"), ("use_rope", "no")])
@pytest.mark.usefixtures("without_shape_checks")
def test_what_our_own_config_cannot_be_is_refused(name, value, tmp_path):
    with pytest.raises(
        sle.FormatError,
        match=rf"config\.json describes no model that can be loaded here: {name} must be .*; got '{value}'",
    ):
        load_checkpoint(own_folder(tmp_path, **{name: value}))


# Based or ReBased.


@pytest.mark.parametrize(
    ("norms", "kernel"),
    [
        ((), "based"),
        ((), "norm_square"),
        ((), "shifted_parabola"),
        (NORMS, "rebased"),
        (NORMS, "affine_square"),
    ],
)
def test_a_kernel_with_the_same_parameters_is_told_by_name(norms, kernel, tmp_path):
    model = load_checkpoint(
        write(tmp_path, weights_of("hub", HUB_CONFIG, norms)), kernel=kernel
    )
    assert model.config.kernel == kernel


def test_a_kernel_that_the_weights_are_not_of_is_refused(tmp_path):
    write(tmp_path, weights_of("hub", HUB_CONFIG, NORMS))
    for kernel in ("based", "scaled_square"):
        with pytest.raises(sle.FormatError) as caught:
            load_checkpoint(tmp_path, kernel=kernel)
        assert str(caught.value) == (
            f"kernel={kernel!r} has other parameters for the norm of queries and keys than the weights of {tmp_path} have (there is "
            "ln_q.weight, ln_q.bias, ln_k.weight, ln_k.bias); leave kernel out, or give one of rebased, affine_square"
        )
    with pytest.raises(
        sle.FormatError,
        match=r"\(there is none\); leave kernel out, or give one of based, square, norm_square, shifted_para",
    ):
        load_checkpoint(
            write(tmp_path, weights_of("hub", HUB_CONFIG)), kernel="rebased"
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_a_kernel_or_a_type_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(
        sle.InvalidArgument,
        match="kernel must be one of based, rebased, .*, or None; got 'taylor'",
    ):
        load_checkpoint(tmp_path, kernel="taylor")
    with pytest.raises(
        sle.InvalidArgument, match=r"kernel must be one of .*; got \['based'\]"
    ):
        load_checkpoint(tmp_path, kernel=["based"])
    for dtype in (torch.int8, "float32"):
        with pytest.raises(
            sle.InvalidArgument,
            match=f"dtype must be a floating point one of torch, .* got '?{dtype}",
        ):
            load_checkpoint(tmp_path, dtype=dtype)


# What is wrong is said, all of it.


def refusal(folder):
    with pytest.raises(sle.FormatError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


def test_everything_that_is_wrong_with_the_weights_is_in_one_message(tmp_path):
    weights = renamed(
        weights_of("hub", HUB_CONFIG), "layers.0.mlp.fc2", "layers.0.mlp.fc3"
    )
    weights["transformer.layers.1.mixer.proj_q.weight"] = torch.ones(16, 24)
    assert refusal(write(tmp_path, weights)) == (
        f"the weights of {tmp_path} are not those of the model that its config.json describes; "
        "missing: transformer.layers.0.mlp.fc2.weight [24, 40]; "
        "of another shape: transformer.layers.1.mixer.proj_q.weight [16, 24] instead of [12, 24]; "
        "not known: transformer.layers.0.mlp.fc3.weight [24, 40]"
    )


def test_a_long_list_is_shortened(tmp_path):
    said = refusal(
        write(tmp_path, weights_of("hub", HUB_CONFIG), changed(HUB_CONFIG, n_layer=7))
    )
    assert "missing: transformer.layers.5.norm1.weight [24], " in said
    assert said.endswith(" and 12 more")


def test_a_norm_that_one_layer_lacks_is_missed_there(tmp_path):
    weights = weights_of("hub", HUB_CONFIG, NORMS)
    del weights["transformer.layers.4.mixer.ln_q.bias"]
    assert "missing: transformer.layers.4.mixer.ln_q.bias [12]" in refusal(
        write(tmp_path, weights)
    )


def test_the_scalers_of_corl_s_ablations_are_not_taken_for_norms(tmp_path):
    weights = weights_of("zoology", published.ZOOLOGY_CONFIG, NORMS)
    for norm in NORMS:
        weights = renamed(
            renamed(weights, f"{norm}.weight", f"{norm}.gamma"),
            f"{norm}.bias",
            f"{norm}.beta",
        )
    said = refusal(write(tmp_path, weights, published.ZOOLOGY_CONFIG))
    assert "missing" not in said
    assert "not known: backbone.layers.1.sequence_mixer.mixer.ln_k.beta [16]" in said


def of_fla(**changes):
    return changed(published.FLA_CONFIG, **changes), "fla"


def of_zoology(**changes):
    config = changed(published.ZOOLOGY_CONFIG)
    conv, attention = (
        one["kwargs"] for one in config["sequence_mixer"]["kwargs"]["configs"]
    )
    for key, value in changes.items():
        target = (
            conv
            if key == "use_act"
            else attention
            if key in ("num_heads", "num_key_value_heads", "use_gamma")
            else config
        )
        target[key] = value
    return config, "zoology"


def of_hub(**changes):
    return changed(HUB_CONFIG, **changes), "hub"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (of_hub(n_layer=None), "it lacks n_layer"),
        (of_hub(alt_mixer={"feature_dim": None}), "it lacks alt_mixer.feature_dim"),
        (
            of_hub(n_head="three"),
            "n_head must be a whole number of at least 1, and is 'three'",
        ),
        (
            of_hub(layer_norm_epsilon=-1),
            "layer_norm_epsilon must be a number of at least 0, and is -1",
        ),
        (
            of_hub(activation_function="geglu"),
            "activation_function is 'geglu', and only 'swiglu' is known here",
        ),
        (
            of_hub(activation_function=None),
            "activation_function is 'gelu_new', and only 'swiglu' is known here",
        ),
        (
            of_hub(rotary_emb_fraction=0.5),
            "rotary_emb_fraction is 0.5, and only 1 or 0 is known here",
        ),
        (
            of_hub(alt_mixer_layers=[1, 2]),
            r"layers \[2\] are in alt_mixer_layers and in alt_mixer_2_layers",
        ),
        (
            of_hub(alt_mixer_layers=[1, 5]),
            r"alt_mixer_layers must list layers from 0 to 4, and is \[1, 5\]",
        ),
        (
            of_hub(alt_mixer={"num_heads": 6}),
            "alt_mixer.num_heads is 6 in a model with 3 heads, and must be the same",
        ),
        (
            of_hub(alt_mixer={"feature_map": {"input_dim": 16}}),
            "alt_mixer.feature_map.input_dim is 16, and only 4 is known here",
        ),
        (
            of_hub(alt_mixer="based.LinearAttention"),
            "alt_mixer must be an object, and is 'based.LinearAttention'",
        ),
        (
            of_hub(n_embd=2),
            "hidden_size=2 leaves nothing for each of num_attention_heads=3 heads",
        ),
        (
            of_zoology(num_heads=None),
            r"it lacks sequence_mixer.kwargs.configs\[1\].kwargs.num_heads",
        ),
        (
            of_zoology(num_key_value_heads=2),
            r"num_key_value_heads is 2, and only 4 is known here",
        ),
        (
            of_zoology(use_act=True),
            r"configs\[0\].kwargs.use_act is True, and only False is known here",
        ),
        (
            of_zoology(use_gamma=True),
            r"use_gamma is an option of ReBased, and the weights have no norm .*: say with kernel= which",
        ),
        (
            of_zoology(sequence_mixer={"kwargs": {"configs": []}}),
            r"sequence_mixer.kwargs.configs must list mixers, and is \[\]",
        ),
        (
            of_zoology(layer_norm_epsilon=1e-6),
            "layer_norm_epsilon is 1e-06, and only 1e-05 is known here",
        ),
        (
            of_zoology(block_type="MambaBlock"),
            "block_type is 'MambaBlock', and only 'TransformerBlock' is known here",
        ),
        (
            of_fla(hidden_act="gelu"),
            "hidden_act is 'gelu', and only 'swish' or 'silu' is known here",
        ),
        (
            of_fla(attn={"num_heads": 6}),
            "attn.num_heads is 6 in a model with 3 heads, and must be the same",
        ),
        (of_fla(feature_dim=None), "it lacks feature_dim"),
    ],
)
def test_a_config_that_lacks_something_or_contradicts_itself_is_refused(
    config, said, tmp_path
):
    described, layout = config
    whole = {
        "hub": HUB_CONFIG,
        "zoology": published.ZOOLOGY_CONFIG,
        "fla": published.FLA_CONFIG,
    }[layout]
    write(
        tmp_path, weights_of(layout, whole, False if layout == "fla" else ()), described
    )
    with pytest.raises(
        sle.FormatError,
        match=f"config.json describes no model that can be loaded here: .*{said}",
    ):
        load_checkpoint(tmp_path)


def test_everything_that_is_wrong_with_a_config_is_in_one_message(tmp_path):
    config = changed(
        HUB_CONFIG,
        n_inner=None,
        activation_function="relu",
        alt_mixer_2={"window_size": None},
    )
    assert refusal(write(tmp_path, weights_of("hub", HUB_CONFIG), config)) == (
        f"{tmp_path / 'config.json'} describes no model that can be loaded here: it lacks n_inner; "
        "activation_function is 'relu', and only 'swiglu' is known here; it lacks alt_mixer_2.window_size"
    )


def test_a_mixer_that_no_layer_here_is_like_is_refused(tmp_path):
    weights = renamed(
        weights_of("zoology", published.ZOOLOGY_CONFIG),
        ".1.sequence_mixer.mixer.proj_q",
        ".1.sequence_mixer.mixer.Wqkv",
    )
    said = refusal(write(tmp_path, weights, published.ZOOLOGY_CONFIG))
    assert (
        "layer 1 holds Wqkv.weight, proj_k.weight, proj_o.weight, proj_v.weight, and only a convolution with projection.weight"
        in said
    )


def test_an_mlp_in_a_model_of_zoology_is_refused(tmp_path):
    """As in elephantmipt/rebased_minimal, whose MLP is GELU's."""
    weights = {
        **weights_of("zoology", published.ZOOLOGY_CONFIG),
        "backbone.layers.0.state_mixer.fc1.weight": torch.ones(88, 22),
    }
    assert (
        "its state_mixer has weights, and only the identity is known here"
        in refusal(write(tmp_path, weights, published.ZOOLOGY_CONFIG))
    )


def test_a_head_that_is_not_the_embedding_it_is_said_to_be_is_refused(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    weights["lm_head.weight"] += 1
    said = "says that lm_head.weight is transformer.embeddings.word_embeddings.weight (tie_word_embeddings), and it is not"
    assert said in refusal(write(tmp_path, weights))
    assert (
        load_checkpoint(
            write(tmp_path, weights, changed(HUB_CONFIG, tie_word_embeddings=False))
        )
        is not None
    )


def test_fewer_rows_than_tokens_are_refused_and_more_are_padding(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    assert (
        load_checkpoint(
            write(tmp_path, weights, changed(HUB_CONFIG, pad_vocab_size_multiple=1))
        ).config.vocab_size
        == 48
    )
    said = refusal(write(tmp_path, weights, changed(HUB_CONFIG, vocab_size=50)))
    assert (
        "of another shape: transformer.embeddings.word_embeddings.weight [48, 24] instead of [56, 24]"
        in said
    )


def test_a_name_with_and_without_a_prefix_is_refused(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    twice = {**weights, "model.transformer.ln_f.weight": torch.ones(24)}
    assert (
        "the weights hold transformer.ln_f.weight with and without a leading 'model.'"
        in refusal(write(tmp_path, twice))
    )


def test_numbers_that_are_none_are_refused(tmp_path):
    weights = weights_of("hub", HUB_CONFIG)
    weights["transformer.layers.3.norm2.weight"][5] = float("inf")
    with pytest.raises(
        sle.NonFinite,
        match="1 of 24 numbers in transformer.layers.3.norm2.weight of .* are NaN or infinite",
    ):
        load_checkpoint(write(tmp_path, weights))
    weights["transformer.layers.3.norm2.weight"] = torch.ones(24, dtype=torch.int64)
    assert (
        "must be floating point numbers; transformer.layers.3.norm2.weight is torch.int64"
        in refusal(write(tmp_path, weights))
    )


def test_other_models_are_refused(tmp_path):
    said = refusal(
        write(
            tmp_path,
            {"transformer.h.0.attn.c_attn.weight": torch.ones(2, 2)},
            {"model_type": "gpt2"},
        )
    )
    assert (
        "holds no model of a kind that is known here: none of its tensors is in transformer.layers.0.mixer, backbone.layers.0."
        in said
    )
    assert said.endswith("it holds transformer.h.0.attn.c_attn.weight")


def test_a_folder_that_lacks_its_weights_or_its_config_is_refused(tmp_path):
    write(tmp_path, weights_of("hub", HUB_CONFIG))
    (tmp_path / "config.json").rename(tmp_path / "cfg.json")
    assert refusal(tmp_path) == (
        f"{tmp_path} holds no config.json, so nothing says how its weights are put together: add the config.json it was published with"
    )
    (tmp_path / "cfg.json").rename(tmp_path / "config.json")
    (tmp_path / "model.safetensors").unlink()
    assert (
        refusal(tmp_path)
        == f"{tmp_path} holds no weights: none of model.safetensors, pytorch_model.bin, nor an index of either"
    )


@pytest.mark.parametrize(
    "weight_map", [None, {}, {"a": "../elsewhere.safetensors"}, {"a": 3}], ids=str
)
def test_an_index_that_leads_nowhere_is_refused(weight_map, tmp_path):
    write(tmp_path, {})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    assert (
        "must say under weight_map in which file beside it each tensor is"
        in refusal(tmp_path)
    )


def test_a_file_in_place_of_a_folder_and_a_name_that_is_none_are_refused(tmp_path):
    path = write(tmp_path, {}) / "model.safetensors"
    assert "is a file, so give the folder that holds it" in refusal(path)
    assert (
        "no folder 'based 360m' here, and it is not the name of a hub repository (owner/name) either"
        in refusal("based 360m")
    )
