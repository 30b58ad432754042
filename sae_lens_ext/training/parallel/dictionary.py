"""Several processes with a slice of the dictionary each.

The weights of features are DTensors, divided by features; biases of the decoder are
DTensors that all have. The optimizer and the norm of all gradients take DTensors as
they are. What an objective needs of other slices is exchanged by ``GatheredSAE``.
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.training.parallel.data import DataRanks
from sae_lens_ext.training.parallel.gathered import GatheredSAE
from sae_lens_ext.training.parallel.group import Group

# The axis of features; weights without one are on all processes.
_FEATURE_AXIS = {"W_enc": 1, "b_enc": 0, "W_dec": 0}


class DictionaryRanks(DataRanks):
    """The processes of one training, each with a slice of the dictionary."""

    has_parts = True

    def __init__(self, group: Group, d_sae: int) -> None:
        """Divide a dictionary between the processes of a group.

        Args:
            group: the processes.
            d_sae: features of the whole dictionary.

        Raises:
            InvalidArgument: a process would have no feature.
        """
        super().__init__(group)
        # As torch divides a tensor, and with it a DTensor.
        parts = torch.arange(d_sae).chunk(self.size)
        if len(parts) < self.size:
            raise InvalidArgument(
                f"d_sae={d_sae} features cannot be divided between {self.size} "
                "processes; start fewer of them"
            )
        self._numbers = [len(part) for part in parts]
        self._starts = [int(part[0]) for part in parts]
        mesh: Any = DeviceMesh.from_group(group.of_device, group.device.type)
        self._mesh = mesh

    def divided(self, sae: SAE, device: torch.device) -> SAE:
        """See ``Ranks.divided``: its weights become DTensors."""
        own = self.features(sae.config.d_sae)
        for name, tensor in sae.weights().items():
            axis = _FEATURE_AXIS.get(name)
            part = tensor.detach()
            placement: Any = Replicate()
            if axis is not None:
                part = part.narrow(axis, own.start, own.stop - own.start)
                placement = Shard(axis)
            # The rest stays behind: it may not fit on the device.
            weight = DTensor.from_local(
                _copied(part).to(device),
                self._mesh,
                [placement],
                run_check=False,
                shape=tensor.shape,
                stride=tensor.stride(),
            )
            setattr(sae, name, nn.Parameter(weight))
        sae.activation_mean = sae.activation_mean.to(device)
        sae.activation_scale = sae.activation_scale.to(device)
        return sae

    def whole(self, sae: SAE) -> SAE:
        """See ``Ranks.whole``; on the CPU of every process."""
        tensors: dict[str, Any] = {}
        for name, weight in sae.weights().items():
            distributed: Any = weight.detach()
            with self.group.exchanging():
                tensors[name] = distributed.full_tensor().cpu()
        if not sae.config.is_transcoder:
            tensors["activation_mean"] = sae.activation_mean.cpu()
            tensors["activation_scale"] = sae.activation_scale.cpu()
        return SAE.from_tensors(sae.config, **tensors)

    def seen(self, sae: SAE) -> SAE:
        """See ``Ranks.seen``."""
        return GatheredSAE(sae, self.group, self._starts)

    def code_of(self, seen: SAE, code: SparseCode) -> SparseCode:
        """See ``Ranks.code_of``."""
        assert isinstance(seen, GatheredSAE)
        return seen.global_code(code)

    def features(self, d_sae: int) -> slice:
        """See ``Ranks.features``."""
        start = self._starts[self.rank]
        return slice(start, start + self._numbers[self.rank])

    def most_rows(self, d_sae: int, n_tokens: int, k: int) -> int:
        """See ``Ranks.most_rows``."""
        n_own = -(-n_tokens // self.size)
        return min(d_sae, n_own * k)

    def add_gradients(self, sae: SAE) -> None:
        """Add up the gradients of weights that all processes have."""
        for parameter in sae.parameters():
            grad: Any = parameter.grad
            if grad is not None and grad.placements[0].is_partial():
                with self.group.exchanging():
                    parameter.grad = grad.redistribute(placements=[Replicate()])

    def clip_gradients(self, sae: SAE, largest_norm: float) -> None:
        """See ``Ranks.clip_gradients``."""
        with self.group.exchanging():
            super().clip_gradients(sae, largest_norm)

    def by_feature(self, values: Shaped[Tensor, " slice"]) -> Shaped[Tensor, " d_sae"]:
        """See ``Ranks.by_feature``."""
        return self.group.gather_rows(values, self._numbers)


def _copied(part: Tensor) -> Tensor:
    """A copy, so that the rest can be freed; the encoder stays feature by feature."""
    if part.ndim == 2 and part.stride(0) == 1:
        return part.T.clone(memory_format=torch.contiguous_format).T
    return part.clone(memory_format=torch.contiguous_format)
