"""The shape that an activation must have to be spliced, recorded or averaged."""

from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.sae import SAE


def check_activation(name: str, x: Tensor, sae: SAE | None = None) -> None:
    """Check that an activation is a stream of tokens, and as wide as the SAE for it.

    Not every width is known before the model runs.

    Args:
        name: of the site.
        x: the activation there.
        sae: the SAE that is to read it, if there is one.

    Raises:
        ShapeMismatch: it is not ``[batch, pos, d]``, or has another width.
    """
    if x.ndim == 3 and (sae is None or x.shape[-1] == sae.config.d_model):
        return
    expected = "[batch, pos, d]"
    if sae is not None:
        expected = f"the SAE spliced there has d_model={sae.config.d_model}"
    raise ShapeMismatch(f"the activation at {name} is {list(x.shape)}; {expected}")
