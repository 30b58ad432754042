"""The encoder of a TopK SAE as one function: product, selection, ReLU."""

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._types import Backend
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_encoder
from sae_lens_ext.kernels.topk_encode import cpu, reference


def topk_encode(
    x: Float[Tensor, "*batch d_model"],
    W_enc: Float[Tensor, "d_model d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    backend: Backend | None = None,
    *,
    centre: Float[Tensor, " d_model"] | None = None,
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """The k strongest features of every token, strongest first, after ReLU.

    >>> import torch
    >>> x, W_enc, b_enc = torch.eye(2), torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, -2.0]]), torch.zeros(3)
    >>> values, indices = topk_encode(x, W_enc, b_enc, k=2)
    >>> values.tolist(), indices[0].tolist()
    ([[3.0, 2.0], [0.5, 0.0]], [1, 2])

    A token with fewer than k positive pre-activations ends in zeros; which features those zeros carry is not defined, nor is
    the order among equal values. Differentiable in ``x``, ``W_enc``, ``b_enc`` and ``centre``; a value that ReLU set to 0
    passes no gradient, and only the chosen features receive any, so the backward pass never holds ``[batch, d_sae]``.

    Args:
        x: activations, scaled already.
        W_enc: encoder weights. Fastest when stored feature by feature, that is, when ``W_enc.T`` is contiguous.
        b_enc: encoder bias.
        k: how many features to keep per token.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.
        centre: subtracted from every activation first, such as the decoder's bias; None when they are centred already. Its gradient
            costs less here than that of a subtraction outside, which would need all of ``x``'s.

    Raises:
        InvalidK: k is not a whole number from 1 to d_sae.
        InvalidArgument: what should be tensors of one floating dtype on one device is not, an unknown backend, or ``torch.vmap``.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the backend that was asked for cannot run here.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK activation).
    """
    check_encoder(x, W_enc, b_enc, centre)
    k = arguments.k(k, W_enc.shape[1])
    chosen = resolve(backend, x, W_enc, b_enc, *([] if centre is None else [centre]))
    if chosen == "gpu":
        from sae_lens_ext.kernels.topk_encode import (
            gpu,
        )  # loads Triton, so only when needed

        return gpu.topk_encode(x, W_enc, b_enc, k, centre)
    return (cpu if chosen == "cpu" else reference).topk_encode(
        x, W_enc, b_enc, k, centre
    )
