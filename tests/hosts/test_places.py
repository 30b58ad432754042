"""Names of sites mean the right side of the right module of a torch model."""

import pytest
import tiny
import torch
import transformers

import sae_lens_ext as sle
from sae_lens_ext.hosts import capture, host_for


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_any_module_s_output_or_input_is_a_site(host):
    model = tiny.hosted(host)
    tokens = tiny.tokens()
    bare = tiny.logits(model, tokens)
    for name, width in (
        ("model.layers.0.mlp.down_proj.input", 64),
        ("model.layers.3.mlp", 32),
        ("2.self_attn.v_proj", 16),
    ):
        sae = tiny.sae(d_model=width, d_sae=96)
        with torch.no_grad(), sle.splice(model, {name: sae}):
            assert not torch.allclose(tiny.logits(model, tokens), bare, atol=1e-3), name
    assert torch.equal(tiny.logits(model, tokens), bare)


def test_a_path_that_ends_several_paths_is_not_guessed():
    with pytest.raises(
        sle.UnknownSite, match="it ends 4 paths, so write one of them out"
    ):
        sle.splice(tiny.hosted("torch"), {"mlp": tiny.sae()})


def test_the_model_itself_is_not_a_site():
    with pytest.raises(sle.UnknownSite, match="no site 'output' in this model"):
        host_for(tiny.hosted("torch")).site("output")


_IDS = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_SIZES = {
    **_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
_GPT = {**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_EXPERTS = {
    **_HEADS,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
_FAMILIES = {
    # Families whose branches are known by name as well.
    "gemma": _HEADS,
    "gemma2": _HEADS,
    "gemma3_text": {**_HEADS, "num_key_value_heads": 1},
    "gpt2": _GPT,
    "gpt_neox": {**_SIZES, "use_parallel_residual": True},
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "olmo2": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _HEADS,
    # Attention and MLP add the stream by themselves.
    "bloom": {**_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {**_IDS, "d_model": 32, "n_layers": 2, "n_heads": 4},
    # Both read the same stream.
    "cohere": _GROUPED,
    "falcon": _SIZES,
    "gptj": {**_GPT, "rotary_dim": 4},
    "phi": _GROUPED,
    # Norms before and behind, dropout behind, experts, linear attention.
    "glm4": _HEADS,
    "phi3": _GROUPED,
    "gpt_oss": _EXPERTS,
    "mixtral": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "modernbert-decoder": _GROUPED,
}
_POINTS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def _language_model(family, **changes):
    config = transformers.AutoConfig.for_model(
        family, **{**_FAMILIES.get(family, {}), **changes}
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def _assert_sum_is_exact(model, block=1, rtol=1e-5, atol=1e-6):
    """What attention and MLP add to the stream is what the block adds."""
    host = host_for(model)
    sites = [host.site(f"blocks.{block}.{name}") for name in _POINTS]
    with torch.no_grad():
        at = capture(host, torch.randint(3, 60, (2, 7)), sites)
    before, attention, mlp, after = (at[site] for site in sites)
    torch.testing.assert_close(before + attention + mlp, after, rtol=rtol, atol=atol)


@pytest.mark.parametrize("family", _FAMILIES)
def test_attention_and_mlp_outputs_are_the_gain_of_the_stream(family):
    model = _language_model(family)
    _assert_sum_is_exact(model)

    host = host_for(model)
    names = ("hook_mlp_in", "hook_mlp_out", "hook_resid_post")
    mlp_in, mlp_out, after = (host.site(f"blocks.1.{name}") for name in names)
    tokens = torch.tensor([[5, 7, 9]])
    with torch.no_grad():
        expected = capture(host, tokens, [after])[after] + 1
        undo = host.attach(mlp_out, lambda x: x + 1)
        torch.testing.assert_close(capture(host, tokens, [after])[after], expected)
        undo()
        # Nothing else reads what the MLP reads.
        undo = host.attach(mlp_in, torch.zeros_like)
        changed = capture(host, tokens, [mlp_out])[mlp_out]
        undo()
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))


@pytest.mark.parametrize("family", [*_FAMILIES, "opt", "jamba"])
def test_heads_are_mixed_into_what_attention_returns(family):
    model = _language_model(family, **_HEADS_OF_OTHERS.get(family, {}))
    host = host_for(model)
    heads = host.site("blocks.1.attn.hook_z")
    added = host.site("blocks.1.hook_attn_out")
    tokens = torch.tensor([[5, 7, 9]])
    with torch.no_grad():
        bare = capture(host, tokens, [heads, added])
        undo = host.attach(heads, torch.zeros_like)
        without = capture(host, tokens, [added])[added]
        undo()
        mixing = model.get_submodule(heads.key.removesuffix(".input"))
        returned = mixing(bare[heads])
    assert bare[heads].shape[-1] % 4 == 0, "four heads"
    torch.testing.assert_close(without, without[:, :1].expand_as(without))
    has_norm_behind = "norm" in added.key
    assert has_norm_behind or torch.allclose(returned, bare[added], atol=1e-6)


_HYBRID = {
    **_GROUPED,
    "num_experts": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "mamba_d_state": 4,
}
_HEADS_OF_OTHERS = {
    "jamba": _HYBRID,
    "opt": {
        **_SIZES,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    },
}
_STATES = {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize(
    ("family", "config", "point", "message"),
    [
        (
            "granite",
            {**_GROUPED, "residual_multiplier": 0.5},
            "hook_attn_out",
            r"before block 1 \+ self_attn \+ mlp differs from the stream after it by "
            r"\S+ of what block 1 adds; give the path of a module instead, such as "
            "model.layers.1",
        ),
        (
            "openai-gpt",
            _GPT,
            "hook_mlp_out",
            r"before block 1 \+ \S+ \+ \S+ differs from the stream after it",
        ),
        ("mamba", _STATES, "hook_attn_out", "mixer of block 1 is a MambaMixer, not"),
        ("mamba", _STATES, "hook_mlp_out", "adds nothing to the stream but the output"),
        ("jamba", _HYBRID, "hook_attn_out", "mamba of block 0 is a JambaMambaMixer"),
        (
            "opt",
            _HEADS_OF_OTHERS["opt"],
            "hook_mlp_out",
            r"the output of fc2 is \[6, 32\], and an activation is \[batch, pos, d\]",
        ),
        (
            "opt",
            _HEADS_OF_OTHERS["opt"],
            "hook_mlp_in",
            "there the MLP is not one module that reads it",
        ),
    ],
)
def test_a_point_that_no_module_is_is_rejected_with_what_was_seen(
    family, config, point, message
):
    model = _language_model(family, **config)
    index = 0 if family == "jamba" else 1
    with pytest.raises(sle.UnknownSite, match=f"blocks.{index}.{point}: .*{message}"):
        sle.splice(model, {f"blocks.{index}.{point}": tiny.sae()})
    with sle.splice(model, {f"blocks.{index}.hook_resid_post": tiny.sae()}) as spliced:
        model(torch.tensor([[5, 6]]))
        assert spliced.codes


def test_the_mlp_of_a_block_without_attention_is_a_point():
    model = _language_model("jamba", **_HYBRID)
    assert (
        host_for(model)
        .site("blocks.0.hook_mlp_out")
        .key.endswith("feed_forward.output")
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["bloom", "gemma2", "mixtral", "olmo2", "phi3"])
def test_points_are_the_same_in_half_precision(family, dtype):
    model = _language_model(family)
    points = ("hook_attn_out", "hook_mlp_out", "hook_mlp_in", "attn.hook_z")
    names = [f"blocks.{index}.{point}" for index in (0, 1) for point in points]
    keys = [host_for(model).site(name).key for name in names]
    half = _language_model(family).to(dtype)
    assert [host_for(half).site(name).key for name in names] == keys


@pytest.mark.parametrize("multiplier", [0.22, 0.9])
def test_a_factor_is_noticed_in_half_precision(multiplier):
    model = _language_model("granite", **_GROUPED, residual_multiplier=multiplier)
    with pytest.raises(sle.UnknownSite, match="differs from the stream after it"):
        host_for(model.bfloat16()).site("blocks.1.hook_attn_out")


def test_the_points_of_a_model_of_text_and_images_are_those_of_its_text():
    text = {**_HEADS, "vocab_size": 64}
    images = {key: _SIZES[key] for key in _SIZES if key not in _IDS}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text),
        vision_config=transformers.SiglipVisionConfig(
            **{**images, "num_hidden_layers": 3, "image_size": 8, "patch_size": 4}
        ),
        mm_tokens_per_image=4,
        image_token_index=3,
        boi_token_index=61,
        eoi_token_index=62,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    site = host_for(model).site("blocks.1.hook_attn_out")
    assert site.key.startswith("model.language_model.layers.1.post_attention")


def test_a_block_that_is_in_the_list_twice_is_not_a_site():
    model = tiny.hf_model("gpt2")
    layers = model.transformer.h
    layers[2] = layers[0]
    message = "block 2 of this model is one of 2 blocks that are the same module"
    with pytest.raises(sle.UnknownSite, match=message):
        host_for(model).site("blocks.2.hook_resid_post")
    assert host_for(model).site("blocks.1.hook_resid_post")
