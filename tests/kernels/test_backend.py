"""A requested backend runs or raises; without a request one is chosen that is right."""

import pytest
import torch
from torch.autograd import forward_ad

import sae_lens_ext as sle
from kernels.cases import CASES
from sae_lens_ext.errors import BackendError, InvalidArgument
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode, topk_encode

N = 7
D_MODEL = 5
D_SAE = 11
K = 3


def every_kernel(x, **options):
    """A number from every kernel of an SAE, on features that the first one selects."""
    W_dec = torch.arange(D_SAE * D_MODEL).sin().view(D_SAE, D_MODEL).to(x.dtype)
    b_enc = torch.zeros(D_SAE, dtype=x.dtype)
    b_dec = torch.zeros(D_MODEL, dtype=x.dtype)

    values, indices = topk_encode(x, W_dec.T, b_enc, K, **options)
    decoded = sparse_decode(values, indices, W_dec, b_dec, **options)
    loss = hierarchical_loss(values, indices, W_dec, b_dec, x, **options)
    return decoded.square().sum() + loss


@pytest.mark.usefixtures("without_shape_checks")
def test_a_backend_is_used_or_an_error_is_raised():
    inputs = CASES[2].encoder()
    message = (
        "backend='gpu' was asked for, but the tensors are on cpu; leave backend out"
    )
    with pytest.raises(BackendError, match=message):
        topk_encode(**inputs, k=3, backend="gpu")

    message = "backend must be one of reference, cpu, gpu; got 'cuda'"
    with pytest.raises(InvalidArgument, match=message):
        topk_encode(**inputs, k=3, backend="cuda")

    meta = {name: tensor.to("meta") for name, tensor in inputs.items()}
    message = "backend='cpu' was asked for, but the tensors are on meta"
    with pytest.raises(BackendError, match=message):
        topk_encode(**meta, k=3, backend="cpu")


# torch warns here about a part of its own.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
def test_forward_mode_and_function_transforms_give_the_definition_s_derivatives():
    x = torch.randn(N, D_MODEL, dtype=torch.float64)
    direction = torch.randn(N, D_MODEL, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(every_kernel(leaf), leaf)
    slope = (gradient * direction).sum()

    torch.testing.assert_close(torch.func.grad(every_kernel)(x), gradient)
    _, tangent = torch.func.jvp(every_kernel, (x,), (direction,))
    torch.testing.assert_close(tangent, slope)

    with forward_ad.dual_level():
        dual = every_kernel(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)

    message = "it has no derivatives for torch.func and forward mode; leave backend out"
    with pytest.raises(sle.BackendError, match=message):
        torch.func.grad(lambda x: every_kernel(x, backend="cpu"))(x)


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_rejects_vmap(backend):
    x = torch.randn(2, N, D_MODEL)
    message = "cannot be run under vmap; .* so pass the whole batch at once"
    for function in (
        torch.vmap(lambda x: every_kernel(x, backend=backend)),
        torch.func.grad(lambda x: torch.vmap(every_kernel)(x).sum()),
    ):
        with pytest.raises(sle.InvalidArgument, match=message):
            function(x)

    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=D_SAE, k=K))
    with pytest.raises(sle.InvalidArgument, match="under vmap"):
        torch.vmap(sae)(x)
