"""The walk in torch holds nothing whose size grows with ``k * d_model``."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae_lens_ext.kernels.hierarchical_loss import chunked
from sae_lens_ext.kernels.hierarchical_loss.task import Task


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return result


def largest_tensor(k):
    g = torch.Generator().manual_seed(0)
    values = torch.rand(64, k, generator=g)
    indices = torch.randint(0, 512, (64, k), generator=g)
    weights = torch.full((k,), 1 / k)
    task = Task(
        levels=list(range(1, k + 1)),
        weights=weights.tolist(),
        needs=[True] * 4,
        details=False,
        deterministic=False,
    )
    with LargestTensor() as largest:
        chunked.walk(
            values, indices, torch.randn(512, 96), torch.randn(64, 96), weights, task
        )
    return largest.n_elements


def test_the_largest_tensor_is_the_gradient_of_the_decoder_at_every_k():
    assert largest_tensor(128) == largest_tensor(16) == 512 * 96
