"""Random weights of a new model."""

from torch import nn

from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.norms import Norm, QueryKeyNorm


class ResidualLinear(nn.Linear):
    """A linear layer that writes into the residual stream.

    Its weights begin smaller than others; see ``BasedConfig.rescale_prenorm_residual``.
    """


def initialize_weights(module: nn.Module, config: BasedConfig) -> None:
    """Initialise the parameters of a module itself, not those of its children."""
    if isinstance(module, nn.Linear | nn.Embedding):
        # Scaled at once, because transformers does not let a weight be initialised
        # twice.
        std = config.initializer_range
        if isinstance(module, ResidualLinear) and config.rescale_prenorm_residual:
            std = std / (2 * config.num_hidden_layers) ** 0.5
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    if isinstance(module, Norm | QueryKeyNorm):
        if module.weight is not None:
            nn.init.ones_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
