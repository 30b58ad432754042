"""The models that are compared: linear attention, and softmax attention of its size."""

from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.experiments.pretraining.config import PretrainConfig


def model_config(
    kernel: str,
    config: PretrainConfig,
    vocab_size: int,
    eos_token_id: int | None = None,
) -> BasedConfig:
    """Config of the model of a kernel, or of softmax attention for ``ATTENTION``.

    Models of linear attention have convolution and linear attention in turns. Softmax
    attention has two thirds as many layers, as published, and the width of MLP that
    brings its number of parameters closest to that of ReBased.

    Raises:
        InvalidArgument: an unknown kernel, or a shape that does not make a model.
    """
    arguments.choice(kernel, "kernel", (*FEATURE_MAPS, ATTENTION))
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.heads,
        "feature_dim": config.feature_dim,
        "eos_token_id": eos_token_id,
    }
    if kernel != ATTENTION:
        return BasedConfig(
            kernel=kernel,  # pyright: ignore[reportArgumentType] - checked above
            num_hidden_layers=config.layers,
            **shape,
        )

    rebased = BasedConfig(kernel="rebased", num_hidden_layers=config.layers, **shape)
    n_layers = max(1, round(config.layers * 2 / 3))
    shape |= {
        "num_hidden_layers": n_layers,
        "layer_types": ["full_attention"] * n_layers,
    }

    # Every unit of an MLP has as many parameters, so their number is a straight line in
    # the width. It always leaves parameters for the MLPs: a convolution alone has more
    # than softmax attention.
    at_width_1 = n_parameters(BasedConfig(**shape, intermediate_size=1))
    at_width_2 = n_parameters(BasedConfig(**shape, intermediate_size=2))
    n_per_unit = at_width_2 - at_width_1
    width = 1 + round((n_parameters(rebased) - at_width_1) / n_per_unit)
    return BasedConfig(**shape, intermediate_size=width)


def n_parameters(config: BasedConfig) -> int:
    """Number of parameters of a model, without allocating it."""
    with torch.device("meta"):
        model = BasedForCausalLM(config)
    return sum(parameter.numel() for parameter in model.parameters())


def new_model(config: BasedConfig, seed: int) -> BasedForCausalLM:
    """Make a model whose weights depend only on the seed.

    The state of torch's default generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BasedForCausalLM(config)
