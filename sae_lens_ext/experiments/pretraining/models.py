"""The models that are compared: linear attention of any kernel, and softmax attention with as many parameters."""

import torch

from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.pretraining.config import PretrainConfig


def model_config(
    kernel: str,
    config: PretrainConfig,
    vocab_size: int,
    eos_token_id: int | None = None,
) -> BasedConfig:
    """The model of a kernel, or of ``ATTENTION``.

    Linear kernels take convolution and linear attention in turns. Softmax attention has two thirds as many layers, as published, and the
    width of MLP that brings its parameters closest to ReBased's.

    Raises:
        InvalidArgument: no such kernel, or a shape that makes no model.
    """
    if kernel not in (*FEATURE_MAPS, ATTENTION):
        raise InvalidArgument(
            f"kernel must be one of {', '.join((*FEATURE_MAPS, ATTENTION))}; got {kernel!r}"
        )
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.heads,
        "feature_dim": config.feature_dim,
        "eos_token_id": eos_token_id,
    }
    linear = BasedConfig(
        kernel="rebased" if kernel == ATTENTION else kernel,
        num_hidden_layers=config.layers,
        **shape,
    )  # pyright: ignore[reportArgumentType] - checked above
    if kernel != ATTENTION:
        return linear
    layers = max(1, round(config.layers * 2 / 3))
    shape |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
    # Every unit of an MLP has as many parameters, so the count is a straight line. There is always something left for the MLPs: a
    # convolution alone has more parameters than softmax attention.
    narrow, wider = (
        n_parameters(BasedConfig(**shape, intermediate_size=width)) for width in (1, 2)
    )
    width = 1 + round((n_parameters(linear) - narrow) / (wider - narrow))
    return BasedConfig(**shape, intermediate_size=width)


def n_parameters(config: BasedConfig) -> int:
    """How many parameters a model has, without making it."""
    with torch.device("meta"):
        return sum(
            parameter.numel() for parameter in BasedForCausalLM(config).parameters()
        )


def new_model(config: BasedConfig, seed: int) -> BasedForCausalLM:
    """With weights that depend on nothing but the seed; the caller's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BasedForCausalLM(config)
