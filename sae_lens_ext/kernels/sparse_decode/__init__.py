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
    """Reconstruct activations from their active features.

    A token's reconstruction is ``b_dec`` plus the sum of its values times their decoder
    rows.

    >>> import torch
    >>> W_dec = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> b_dec = torch.tensor([0.5, 0.0])
    >>> values, indices = torch.tensor([[2.0, 1.0]]), torch.tensor([[2, 0]])
    >>> sparse_decode(values, indices, W_dec, b_dec).tolist()
    [[3.5, 2.0]]

    An index may occur twice in one token; both count. Differentiable in ``values``,
    ``W_dec`` and ``b_dec``.

    Args:
        values: feature activations.
        indices: their features.
        W_dec: decoder rows.
        b_dec: decoder bias.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.

    Raises:
        ShapeMismatch: the tensors do not fit together.
        InvalidK: k is 0.
        InvalidArgument: the tensors are not floating-point tensors of one dtype on one
            device, the backend is unknown, the call is under ``torch.vmap``, or an
            index is not a feature. (On a GPU, which would have to wait for that check,
            such a token comes out as NaN instead.)
        BackendError: the requested backend cannot run here.
    """
    check_decoder(values, indices, W_dec, b_dec)

    resolved = resolve(backend, values, W_dec, b_dec)
    if resolved == "gpu":
        # Loads Triton, so only when needed.
        from sae_lens_ext.kernels.sparse_decode import gpu

        return gpu.sparse_decode(values, indices, W_dec, b_dec)
    if resolved == "cpu":
        return cpu.sparse_decode(values, indices, W_dec, b_dec)

    check_features(indices, W_dec)
    return reference.sparse_decode(values, indices, W_dec, b_dec)
