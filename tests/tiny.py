"""Small random models with the shapes of real ones, built from configs in a second."""

import copy
import functools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

import sae_lens_ext as sle

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{i}" for i in range(92))]


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer_of(WORDS)


def tokenizer_with(words: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer with these words in the place of the last ones."""
    return _tokenizer_of([*WORDS[: -len(words)], *words])


def _tokenizer_of(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        name_or_path="tiny",
        add_bos_token=True,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
    )


_SMALL_GEMMA = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 8,
    "sliding_window": 4,
    "query_pre_attn_scalar": 8,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def _with_weight_in_every_block(model):
    # At its default scale a random model hardly depends on its middle layers.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model.eval()


@functools.cache
def _gemma2() -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    config = Gemma2Config(
        **_SMALL_GEMMA, num_key_value_heads=2, attn_implementation="eager"
    )
    return _with_weight_in_every_block(Gemma2ForCausalLM(config))


@functools.cache
def deep_gemma2() -> Gemma2ForCausalLM:
    """As many blocks as the README's lines for the real one reach, each very small."""
    torch.manual_seed(0)
    changes = {"num_hidden_layers": 14, "layer_types": None}
    config = Gemma2Config.from_dict({**_gemma2().config.to_dict(), **changes})
    return Gemma2ForCausalLM(config).eval()


@functools.cache
def _gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


@functools.cache
def _gemma3() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    layer_types = [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ]
    config = Gemma3TextConfig(
        **_SMALL_GEMMA,
        num_key_value_heads=1,
        layer_types=layer_types,
        architectures=["Gemma3ForCausalLM"],
    )
    return _with_weight_in_every_block(Gemma3ForCausalLM(config))


def based(kernel: str = "rebased", **changes):
    """A linear-attention model with a layer of every kind, in float64.

    Two of its layers are linear attention.
    """
    from sae_lens_ext.based import BasedConfig, BasedForCausalLM

    torch.manual_seed(0)
    layers = [
        "conv",
        "linear_attention",
        "sliding_attention",
        "full_attention",
        "linear_attention",
    ]
    fields = {
        "vocab_size": len(WORDS),
        "hidden_size": 24,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "feature_dim": 4,
        "layer_types": layers,
        "sliding_window": 3,
        "initializer_range": 0.3,
    }
    config = BasedConfig(kernel=kernel, **{**fields, **changes})
    return BasedForCausalLM(config).double().eval()


def hf_model(
    name: str, dtype: torch.dtype = torch.float32, attention: str | None = None
):
    """A fresh copy, because wrapping a model changes it.

    ``attention`` is transformers' name of an implementation, such as "eager"; None
    leaves the model's default.
    """
    models = {"gemma2": _gemma2, "gemma3": _gemma3, "gpt2": _gpt2}
    model = copy.deepcopy(models[name]()).to(dtype)
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


def bridge(
    name: str = "gemma2",
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
):
    """A TransformerBridge, on whichever TransformerLens is installed.

    It has run once, because its first run adds hooks of its own.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(
        f"tiny-{name}",
        hf_model=hf_model(name, dtype, attention),
        tokenizer=tokenizer(),
        dtype=dtype,
    )
    with torch.no_grad():
        model(tokens())
    return model


HOSTS = ("lens", "torch", "nnsight", "transformers_model")


def hosted(
    host: str,
    name: str = "gemma2",
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
):
    """The same weights on any host."""
    if host == "lens":
        return bridge(name, dtype, attention)
    model = hf_model(name, dtype, attention)
    if host == "torch":
        return model

    import nnsight
    from nnsight.modeling.transformers import TransformersModel

    if host == "nnsight":
        return nnsight.NNsight(model)
    return TransformersModel(model, tokenizer=tokenizer(), task="text-generation")


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    """The logits from the host's own call; with gradients where they are on."""
    if hasattr(model, "trace"):
        with model.trace(ids):
            saved = model.output.logits.save()
        return saved
    output = model(ids)
    return output if isinstance(output, torch.Tensor) else output.logits


def tokens(rows: int = 2, length: int = 10, seed: int = 0) -> torch.Tensor:
    """Random words behind a BOS."""
    ids = torch.randint(
        4, len(WORDS), (rows, length), generator=torch.Generator().manual_seed(seed)
    )
    ids[:, 0] = 2
    return ids


def sae(
    d_model: int = 32, d_sae: int = 48, k: int = 8, seed: int = 0, **config
) -> "sle.SAE":
    """A random SAE with nothing zero in it."""
    generator = torch.Generator().manual_seed(seed)
    config = {"hook_name": "blocks.1.hook_resid_post", **config}
    config = sle.SAEConfig(d_model=d_model, d_sae=d_sae, k=k, **config)
    random_sae = sle.SAE(config, generator=generator)
    with torch.no_grad():
        for parameter in random_sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return random_sae


def sae_of_kind(
    kind: str, d_model: int = 32, d_sae: int = 48, seed: int = 0, **config
) -> "sle.SAE":
    """A random SAE or transcoder of any kind, in float64.

    Tokens of unit variance have between none and many active features. A transcoder is
    one with ``d_out``.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    k = 8 if kind == "topk" else None
    config = sle.SAEConfig(d_model=d_model, d_sae=d_sae, kind=kind, k=k, **config)
    tensors = {
        "W_enc": normal(d_model, d_sae) * 4 / d_model**0.5,
        "b_enc": normal(d_sae),
        "W_dec": normal(d_sae, config.output_width),
        "b_dec": normal(config.output_width),
    }
    if config.has_threshold:
        tensors["threshold"] = normal(d_sae) * 3
    if config.skip_connection:
        tensors["W_skip"] = normal(d_model, config.output_width)
    return sle.SAE.from_tensors(config, **tensors).eval()


def identity_sae(width: int, **config) -> "sle.SAE":
    """Coordinates as features, for activations that are not negative."""
    config = sle.SAEConfig(d_model=width, d_sae=width, k=width, **config)
    identity = torch.eye(width)
    zeros = torch.zeros(width)
    return sle.SAE.from_tensors(
        config, W_enc=identity, b_enc=zeros, W_dec=identity, b_dec=zeros
    )


def hooks_of(model):
    """Everything that a splice could leave behind in a model."""
    return [
        (
            name,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(getattr(module, "fwd_hooks", ())),
            "forward" in module.__dict__,
        )
        for name, module in model.named_modules()
    ]
