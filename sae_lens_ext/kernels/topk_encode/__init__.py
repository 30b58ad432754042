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
    """Return the k strongest features of every token, strongest first, after ReLU.

    >>> import torch
    >>> x = torch.eye(2)
    >>> W_enc = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, -2.0]])
    >>> values, indices = topk_encode(x, W_enc, torch.zeros(3), k=2)
    >>> values.tolist(), indices[0].tolist()
    ([[3.0, 2.0], [0.5, 0.0]], [1, 2])

    Features are in the order of their pre-activations, and of their index where these
    are equal; NaN counts as largest. The order is the same for every k, backend and
    dtype, so a prefix of a token's code is its code at that smaller k. A token with
    fewer than k positive pre-activations ends in zeros, whose features are in that
    order too.

    Differentiable in ``x``, ``W_enc``, ``b_enc`` and ``centre``. A value that ReLU set
    to 0 passes no gradient, and only the chosen features receive a gradient, so the
    backward pass never holds ``[batch, d_sae]``.

    Args:
        x: activations, already scaled.
        W_enc: encoder weights. Fastest when stored feature by feature, that is, when
            ``W_enc.T`` is contiguous.
        b_enc: encoder bias.
        k: number of features to keep per token.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.
        centre: subtracted from every activation first, such as the decoder's bias; None
            if they are centred already. Its gradient costs less here than that of a
            subtraction outside, which would need the whole gradient of ``x``.

    Raises:
        InvalidK: k is not an integer from 1 to d_sae.
        InvalidArgument: the tensors are not floating-point tensors of one dtype on one
            device, the backend is unknown, or the call is under ``torch.vmap``.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the requested backend cannot run here.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK
    activation).
    """
    check_encoder(x, W_enc, b_enc, centre)
    k = arguments.k(k, W_enc.shape[1])

    tensors = (x, W_enc, b_enc) if centre is None else (x, W_enc, b_enc, centre)
    resolved = resolve(backend, *tensors)
    if resolved == "gpu":
        # Loads Triton, so only when needed.
        from sae_lens_ext.kernels.topk_encode import gpu

        return gpu.topk_encode(x, W_enc, b_enc, k, centre)
    if resolved == "cpu":
        return cpu.topk_encode(x, W_enc, b_enc, k, centre)
    return reference.topk_encode(x, W_enc, b_enc, k, centre)
