"""What an SAE says of the activations at its site in one run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.hosts import Site
from sae_lens_ext.interventions.encoding import encode_at
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.sites import Placement
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True, eq=False)
class Encoded:
    """The activations at a site, and their code, by position of the text.

    Attributes:
        x: the activations, in float32 or wider, zeros outside of the mask.
        code: their code at the largest k, values in the same dtype.
        constants: what the SAE writes without any feature: its biases and means, and
            what a transcoder's skip connection adds.
    """

    x: Float[Tensor, "batch pos d_out"]
    code: SparseCode
    constants: Float[Tensor, "batch pos d_out"]

    @classmethod
    def of(
        cls,
        place: Placement,
        activations: Mapping[Site, Tensor],
        mask: Bool[Tensor, "batch pos"],
        k: int | None,
        *,
        extrapolate: bool,
        with_gradients: bool = False,
    ) -> "Encoded":
        """Encode what a run has at a place, at the positions of a mask.

        Gradients pass to the activations only where ``with_gradients`` is set.

        Raises:
            ShapeMismatch: the SAE has another width.
            NonFinite: an activation holds NaN or infinity.
        """
        sae = place.sae
        assert sae is not None
        device = sae.W_dec.device
        mask = mask.to(device)
        x = activations[place.site].to(device)
        check_activation(place.site.name, x, sae, is_output=True)
        source = activations[place.reads].to(device)
        check_activation(place.reads.name, source, sae)

        with torch.set_grad_enabled(with_gradients):
            x = _zeroed(_wide(x), mask)
            source = _zeroed(source, mask)
            if not bool(torch.isfinite(x).all()):
                raise NonFinite(
                    f"the activation at {place.site.name} holds NaN or infinity at a "
                    "position whose features are looked at; check the weights and the "
                    "dtype of the model"
                )
            code = encode_at(sae, source, mask, k, extrapolate=extrapolate)
            code = replace(code, values=_wide(code.values))
            constants = _zeroed(_constants(sae, code, source), mask)
        return cls(x, code, constants)

    def of_rows(self, rows: Int[Tensor, " rows"]) -> "Encoded":
        """The same of some rows, in their order."""
        rows = rows.to(self.x.device)
        return Encoded(self.x[rows], self.code[rows], self.constants[rows])

    def padded(self, k: int) -> "Encoded":
        """The same with a code of at least this width, which ends in zeros."""
        return replace(self, code=padded_code(self.code, max(0, k - self.code.k)))


def padded_code(code: SparseCode, n_missing: int) -> SparseCode:
    """The same code with zeros at its end."""
    return replace(
        code,
        values=F.pad(code.values, (0, n_missing)),
        indices=F.pad(code.indices, (0, n_missing)),
    )


def _wide(tensor: Tensor) -> Tensor:
    """A tensor in float32, or in its own dtype if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _zeroed(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.where(mask.unsqueeze(-1), 0)


def _constants(sae: SAE, code: SparseCode, source: Tensor) -> Tensor:
    """What the SAE writes at tokens whose code is empty."""
    one = (*code.values.shape[:-1], 1)
    empty = replace(
        code, values=code.values.new_zeros(one), indices=code.indices.new_zeros(one)
    )
    constants = sae.decode(empty)
    skipped = sae.skip(source)
    return constants if skipped is None else constants + skipped
