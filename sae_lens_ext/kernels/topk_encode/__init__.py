"""The encoder of an SAE as one function: product, gate, selection, ReLU."""

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_encoder
from sae_lens_ext.kernels.topk_encode import cpu, reference


def topk_encode(
    x: Float[Tensor, "*batch d_model"],
    W_enc: Float[Tensor, "d_model d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int | None,
    backend: Backend | None = None,
    *,
    centre: Float[Tensor, " d_model"] | None = None,
    threshold: Float[Tensor, " d_sae"] | Float[Tensor, ""] | None = None,
    screen: bool = False,
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """Return the k strongest features of every token, strongest first, after ReLU.

    >>> import torch
    >>> x = torch.eye(2)
    >>> W_enc = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, -2.0]])
    >>> b_enc = torch.zeros(3)
    >>> values, indices = topk_encode(x, W_enc, b_enc, k=2)
    >>> values.tolist(), indices[0].tolist()
    ([[3.0, 2.0], [0.5, 0.0]], [1, 2])

    With ``threshold`` it is the encoder of a JumpReLU SAE whose code is cut at k: a
    feature is active if its pre-activation is larger than its threshold and larger than
    0, and its value is the pre-activation itself. The code is gated, then sorted, then
    cut at k. ``k=None`` does not cut: the result is as wide as the token with the most
    active features needs, and at least 1.

    >>> threshold = torch.tensor([1.5, 1.5, 2.5])
    >>> values, indices = topk_encode(x, W_enc, b_enc, k=None, threshold=threshold)
    >>> values.tolist(), indices[0].tolist()
    ([[3.0], [0.0]], [1])

    Features are in the order of their pre-activations, and of their index where these
    are equal. The order is the same for every k, backend and dtype, so a prefix of a
    token's code is its code at that smaller k. A token with fewer than k active
    features ends in zeros, for features that are not active: without ``threshold`` the
    next in order, with it, or without k, those of the smallest index. NaN counts as
    the largest number, and as active.

    Differentiable in ``x``, ``W_enc``, ``b_enc`` and ``centre``. Only the chosen
    features that are active pass a gradient, so the backward pass never holds ``[batch,
    d_sae]``. ``threshold`` receives no gradient: a step has none, and training one
    needs a straight-through estimator, which is a matter of the objective.

    Args:
        x: activations, already scaled.
        W_enc: encoder weights. Fastest when stored feature by feature, that is, when
            ``W_enc.T`` is contiguous.
        b_enc: encoder bias.
        k: number of features to keep per token; None keeps all that are active. The
            width depends on the data then, and memory on the token with the most active
            features.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.
        centre: subtracted from every activation first, such as the decoder's bias; None
            if they are centred already. Its gradient costs less here than that of a
            subtraction outside, which would need the whole gradient of ``x``.
        threshold: of every feature, or one for all; a feature whose threshold is NaN is
            never active. None leaves the choice to k, or without k to ReLU.
        screen: whether a CPU may rule features out by a product in bfloat16, where that
            is faster; training does. The code is then that of exact pre-activations,
            so a value may differ in its last digit from that of another call, and two
            codes at different k are prefixes of each other but for that.

    Raises:
        InvalidK: k is not an integer from 1 to d_sae.
        InvalidArgument: the tensors are not floating-point tensors of one dtype on one
            device, the backend is unknown, the call is under ``torch.vmap``, or k is
            None and the tensors are on the meta device, where nothing can be counted.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the requested backend cannot run here.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK
    activation); Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction
    Fidelity with JumpReLU Sparse Autoencoders" (arXiv 2407.14435, equation 3).
    """
    check_encoder(x, W_enc, b_enc, centre, threshold)
    if k is not None:
        k = arguments.k(k, W_enc.shape[1])
    elif x.device.type == "meta":
        raise InvalidArgument(
            "k must be an integer on the meta device: k=None keeps all active "
            "features, and tensors without numbers do not say how many there are"
        )

    optional = [tensor for tensor in (centre, threshold) if tensor is not None]
    resolved = resolve(backend, x, W_enc, b_enc, *optional)
    if threshold is not None:
        # The number for all features, or one for each.
        threshold = threshold.detach().expand(W_enc.shape[1])

    if resolved == "gpu":
        # Loads Triton, so only when needed.
        from sae_lens_ext.kernels.topk_encode import gpu

        return gpu.topk_encode(x, W_enc, b_enc, k, centre, threshold)
    if resolved == "cpu":
        return cpu.topk_encode(x, W_enc, b_enc, k, centre, threshold, screen=screen)
    return reference.topk_encode(x, W_enc, b_enc, k, centre, threshold)
