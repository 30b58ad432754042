"""The shape that an activation must have to be spliced, recorded or averaged."""

from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.sae import SAE


def check_activation(
    name: str, x: Tensor, sae: SAE | None = None, *, is_output: bool = False
) -> None:
    """Check that an activation is a stream of tokens, and as wide as the SAE for it.

    Not every width is known before the model runs.

    Args:
        name: of the site.
        x: the activation there.
        sae: the SAE of the site, if there is one.
        is_output: whether the SAE writes there, instead of reading; a transcoder may
            write another width.

    Raises:
        ShapeMismatch: it is not ``[batch, pos, d]``, or has another width.
    """
    field = "d_model"
    width = None
    if sae is not None:
        width = sae.config.d_model
        if is_output and sae.config.is_transcoder:
            field = "d_out"
            width = sae.config.output_width

    if x.ndim == 3 and width in (None, x.shape[-1]):
        return
    expected = "[batch, pos, d]"
    if sae is not None:
        expected = f"the SAE spliced there has {field}={width}"
    raise ShapeMismatch(f"the activation at {name} is {list(x.shape)}; {expected}")
