"""The decoder of an SAE for codes that are values and indices."""

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._types import Backend
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_decoder, check_features
from sae_lens_ext.kernels.sparse_decode import cpu, reference


def sparse_decode(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    backend: Backend | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Each token's reconstruction: ``b_dec`` plus the sum of its values times their decoder rows.

    >>> import torch
    >>> W_dec, b_dec = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 0.0])
    >>> sparse_decode(torch.tensor([[2.0, 1.0]]), torch.tensor([[2, 0]]), W_dec, b_dec).tolist()
    [[3.5, 2.0]]

    An index may stand twice in one token; both count. Differentiable in ``values``, ``W_dec`` and ``b_dec``.

    Raises:
        ShapeMismatch: the tensors do not fit together.
        InvalidK: k is 0.
        InvalidArgument: what should be tensors of one floating dtype on one device is not; an unknown backend; ``torch.vmap``; or
            indices of features that do not exist. (On a GPU, where looking would make it wait, such a token comes out as NaN instead.)
        BackendError: the backend that was asked for cannot run here.
    """
    check_decoder(values, indices, W_dec, b_dec)
    chosen = resolve(backend, values, W_dec, b_dec)
    if chosen == "gpu":
        from sae_lens_ext.kernels.sparse_decode import (
            gpu,
        )  # loads Triton, so only when needed

        return gpu.sparse_decode(values, indices, W_dec, b_dec)
    if chosen == "cpu":
        return cpu.sparse_decode(values, indices, W_dec, b_dec)
    check_features(indices, W_dec)
    return reference.sparse_decode(values, indices, W_dec, b_dec)
