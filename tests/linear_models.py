"""Tiny models that are linear once attention patterns and norms are held fixed."""

import functools

import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

SITE = "blocks.0.hook_resid_post"
NAMES = ("gpt2", "llama", "gemma2", "gemma3", "based", "rebased")


def linear_model(name: str, attention: str = "eager"):
    """A fresh Hugging Face model; its MLPs are linear, or write nothing.

    ``attention`` is transformers' name of an implementation.
    """
    if name in ("based", "rebased"):
        return _based(name)
    if name == "gpt2":
        return _gpt2(attention)
    if name == "llama":
        return _llama(attention)

    model = tiny.hf_model(name)
    # A soft cap of the logits is not linear.
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
    return model


def _based(kernel: str):
    # Without gated convolutions and MLPs.
    layers = ["linear_attention", "sliding_attention", "full_attention"]
    return tiny.based(
        kernel, num_hidden_layers=3, layer_types=layers, mlp="identity"
    ).float()


def _gpt2(attention: str):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny.WORDS),
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        activation_function="linear",
        attn_implementation=attention,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _strong(GPT2LMHeadModel(config))


def _llama(attention: str):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = _strong(LlamaForCausalLM(config))
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
    return model


def _strong(model):
    """With patterns that are far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model.eval()


@functools.cache
def sae(width: int = 32, site: str = SITE, seed: int = 0):
    """A random SAE for one of these models, with a scale and a mean of its own."""
    random_sae = tiny.sae(d_model=width, k=8, hook_name=site, seed=seed)
    with torch.no_grad():
        random_sae.activation_scale.fill_(0.5)
        random_sae.activation_mean.normal_(generator=torch.Generator().manual_seed(1))
    return random_sae


def width_of(model) -> int:
    """Width of the residual stream."""
    return model.config.hidden_size
