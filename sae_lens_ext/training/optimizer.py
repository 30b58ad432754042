"""The optimizer of a training, and its state as tensors with names.

The names are ``KEY.PARAMETER``, such as ``exp_avg.W_enc``. An average of torchao in 8
bits is a tensor made of others, which follow with names of their own, such as
``exp_avg.W_enc.codes``.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.parallel import copy_into, is_distributed

_ENCODER = ("W_enc", "b_enc", "threshold")
# Key of a parameter group: its learning rate as a share of the others'.
_SHARE = "lr_share"


class _Adam(torch.optim.Adam):
    """Adam for weights that may be stored transposed, as ``W_enc`` is.

    The fused step on a CPU copies such a weight, its gradient and its averages there
    and back, which takes seven times as long as the step. Adam works number by number,
    so the transposed tensors do as well.
    """

    def _init_group(self, group: Any, *lists: Any) -> Any:
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [_as_stored(tensor) for tensor in tensors]
        return has_complex


def _as_stored(tensor: Tensor) -> Tensor:
    is_transposed = tensor.ndim == 2 and not tensor.is_contiguous()
    # A tensor of several processes has no storage of its own.
    if not is_transposed or is_distributed(tensor):
        return tensor
    return tensor.T


def new_optimizer(sae: SAE, config: TrainConfig) -> Optimizer:
    """Adam for the weights of an SAE.

    Raises:
        MissingDependency: averages in 8 bits need torchao, which is not installed.
    """
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas}
    trained = _groups(sae, config)
    if not config.eight_bit:
        return _Adam(trained, fused=True, **options)

    optim = require("torchao.optim", "Averages of Adam in 8 bits (eight_bit=True)")
    return optim.Adam8bit(trained, **options)


def _groups(sae: SAE, config: TrainConfig) -> list[dict[str, Any]]:
    """The trained weights: those of the encoder, if they have a rate of their own."""
    named = trained_weights(sae, config)
    if config.encoder_lr is None:
        return [{"params": list(named.values())}]
    encoder = [named[name] for name in _ENCODER if name in named]
    rest = [weight for name, weight in named.items() if name not in _ENCODER]
    share = config.encoder_lr / config.lr
    return [{"params": rest}, {"params": encoder, _SHARE: share}]


def trained_weights(sae: SAE, config: TrainConfig) -> dict[str, nn.Parameter]:
    """The weights that the optimizer changes, by name."""
    named = dict(sae.named_parameters())
    if config.freeze_decoder:
        # Of its gradient, only the norms' part is used.
        del named["W_dec"]
    return named


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate; where the encoder has its own, that in proportion."""
    for group in optimizer.param_groups:
        group_lr = lr * group.get(_SHARE, 1.0)
        # torchao keeps it in a tensor, so that a new number compiles nothing anew.
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group_lr)
        else:
            group["lr"] = group_lr


def optimizer_tensors(optimizer: Optimizer, sae: SAE) -> dict[str, Tensor]:
    """The state of the optimizer, by name; not copied."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in sae.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors |= dict(_parts(f"{key}.{name}", value))
    return tensors


def initialize_optimizer(
    optimizer: Optimizer, sae: SAE, trained: Collection[str] | None = None
) -> None:
    """Make a new optimizer create its state; this changes the weights.

    Args:
        optimizer: before its first step.
        sae: what it trains.
        trained: the parameters that have had a gradient, and so have a state; None for
            all.
    """
    # A step creates it, of whatever kind it is.
    for name, parameter in sae.named_parameters():
        has_state = trained is None or name in trained
        parameter.grad = torch.zeros_like(parameter) if has_state else None
    optimizer.step()
    optimizer.zero_grad()


def restore_optimizer(
    optimizer: Optimizer, sae: SAE, tensors: Mapping[str, Tensor]
) -> None:
    """Put a new optimizer into a state that ``optimizer_tensors`` returned.

    Changes the weights too, so these are restored afterwards.

    Raises:
        FormatError: it is the state of another optimizer, or of other weights.
    """
    trained = {name.split(".")[1] for name in tensors}
    initialize_optimizer(optimizer, sae, trained)

    current = optimizer_tensors(optimizer, sae)
    if current.keys() != tensors.keys():
        odd = sorted(current.keys() ^ tensors.keys())
        raise FormatError(f"{odd[0]} of the optimizer is only there, or only here")
    for name, tensor in tensors.items():
        if tensor.shape != current[name].shape:
            raise FormatError(
                f"{name} of the optimizer is {list(tensor.shape)} there and "
                f"{list(current[name].shape)} here"
            )
        copy_into(current[name], tensor)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or the tensors that it is made of."""
    if is_distributed(value):
        yield name, value
    elif hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value
