"""The projections that write into the residual stream."""

from torch import nn


class Writer(nn.Linear):
    """A linear layer that begins with smaller weights than others: see ``BasedConfig.rescale_prenorm_residual``."""
