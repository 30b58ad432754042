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


# Small configs of the families whose attention and MLP outputs have TransformerLens
# names on plain modules.
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_FAMILIES = {
    "gemma": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {**_SIZES, "num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {
        "vocab_size": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
    },
    "gpt_neox": {**_SIZES, "use_parallel_residual": True},
    "llama": {**_SIZES, "num_key_value_heads": 2},
    "mistral": {**_SIZES, "num_key_value_heads": 2},
    "olmo2": {**_SIZES, "num_key_value_heads": 2},
    "qwen2": {**_SIZES, "num_key_value_heads": 2},
    "qwen3": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_attention_and_mlp_outputs_are_the_gain_of_the_stream(family):
    token_ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(family, **_FAMILIES[family], **token_ids)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    host = host_for(model)
    before, attention, mlp, after = (
        host.site(f"blocks.1.{name}")
        for name in (
            "hook_resid_pre",
            "hook_attn_out",
            "hook_mlp_out",
            "hook_resid_post",
        )
    )
    with torch.no_grad():
        tokens = torch.randint(3, 64, (2, 7))
        at = capture(host, tokens, [before, attention, mlp, after])
    torch.testing.assert_close(
        at[before] + at[attention] + at[mlp], at[after], rtol=1e-5, atol=1e-6
    )

    heads = "blocks.0.attn.hook_z"
    run = sle.Run.capture(model, torch.tensor([[2, 5, 7]]), {heads: tiny.sae()})
    assert run.codes[heads].values.shape == (1, 3, 8)


def test_an_unchecked_family_is_rejected_at_its_branches_and_nowhere_else():
    config = transformers.AutoConfig.for_model(
        "bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(
        sle.UnknownSite,
        match="of a bloom was not checked; give the path of a module instead, such as "
        "transformer.h.1",
    ):
        sle.splice(model, {"blocks.1.hook_attn_out": tiny.sae()})
    with sle.splice(model, {"blocks.1.hook_resid_post": tiny.sae()}) as spliced:
        model(torch.tensor([[5, 6]]))
        assert spliced.codes
