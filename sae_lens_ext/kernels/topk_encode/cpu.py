"""``topk_encode`` on a CPU: the product and the selection in token chunks that stay in cache, and a sparse backward pass.

A torch custom operator, so that it is one step for torch.compile and for stand-in tensors that have only shapes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from sae_lens_ext.kernels import _rows_cpu
from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels._second_order import gradients_by_definition

# Pre-activations of one chunk, in elements: 2 MB of float32, about one core's second-level cache. A chunk that leaves the
# cache costs a write and several reads of [batch, d_sae] during the selection.
_CHUNK_ELEMENTS = 1 << 19
# Below this many pre-activations in all, torch's selection is done before threads have started.
_COMPILED_FROM = 1 << 17


def topk_encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As in ``reference``; the gradients are those of the chosen features only, which is all of them."""
    values, indices = torch.ops.sae_lens_ext.topk_encode(x.reshape(-1, x.shape[-1]), W_enc, b_enc, k)
    return values.view(*x.shape[:-1], k), indices.view(*x.shape[:-1], k)


def _encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, d_sae = x.shape[0], W_enc.shape[1]
    values = x.new_empty(n, k)
    indices = torch.empty(n, k, dtype=torch.int64)
    rows = max(64, _CHUNK_ELEMENTS // d_sae)
    with _selection(n, d_sae, k) as select:
        for start in range(0, n, rows):
            chunk = slice(start, start + rows)
            select(torch.addmm(b_enc, x[chunk], W_enc), values[chunk], indices[chunk])
    return values.relu_(), indices


def _selection(n: int, d_sae: int, k: int) -> AbstractContextManager[Callable[[Tensor, Tensor, Tensor], None]]:
    """What writes the k largest of the rows of its first argument, and where they are, into the other two."""
    if n * d_sae >= _COMPILED_FROM and has_numba():
        from sae_lens_ext.kernels.topk_encode import compiled  # loads numba, so only when needed

        if compiled.saves_work(d_sae, k):
            return compiled.selection(torch.get_num_threads())
    return nullcontext(_select)


def _select(pre: Tensor, values: Tensor, indices: Tensor) -> None:
    # Assigned rather than written by out=, because under autocast the product comes in another dtype than x.
    values[:], indices[:] = torch.topk(pre, values.shape[1], dim=-1, sorted=True)


def _encode_shapes(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int64)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, W_enc, b_enc, _ = inputs
    ctx.save_for_backward(x, W_enc, b_enc, *output)


def _backward(ctx: Any, grad_values: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, W_enc, b_enc, values, indices = ctx.saved_tensors
    if torch.is_grad_enabled():

        def chosen(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
            return (einsum(x, W_enc.T[indices], "n d, n k d -> n k") + b_enc[indices]).relu()

        return (*gradients_by_definition(chosen, (x, W_enc, b_enc), ctx.needs_input_grad[:3], grad_values), None)
    grad_pre = torch.where(values > 0, grad_values, 0)
    grad_x = grad_W = grad_b = None
    if ctx.needs_input_grad[0]:
        grad_x = _rows_cpu.weighted_row_sum(grad_pre, indices, W_enc.T.contiguous())
    if ctx.needs_input_grad[1]:
        # The transpose of a [d_sae, d_model] result: a W_enc stored feature by feature gets a gradient laid out like it.
        grad_W = _rows_cpu.scatter_row_sum(grad_pre, indices, x.contiguous(), W_enc.shape[1]).T
    if ctx.needs_input_grad[2]:
        grad_b = _rows_cpu.scatter_sum(grad_pre, indices, W_enc.shape[1])
    return grad_x, grad_W, grad_b, None


def _register() -> None:
    # Kept in torch.ops alone, where it is called: this module can then be sent to an nnsight server, which an operator cannot.
    operator = torch.library.custom_op("sae_lens_ext::topk_encode", _encode, mutates_args=())
    operator.register_fake(_encode_shapes)
    operator.register_autograd(_backward, setup_context=_keep)


_register()
