"""Which positions of a run an intervention touches."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts import Host
from sae_lens_ext.kernels import whole_number
from sae_lens_ext.sae import SAE

Positions = slice | Tensor | str | None
"""A slice of positions, a boolean mask ``[batch, pos]`` or ``[pos]``, ``"all"``, or None for what the SAE was trained on."""


def check_positions(positions: Positions) -> None:
    """Refuse what is not a choice of positions.

    Raises:
        InvalidArgument: not a slice, a boolean mask, "all" or None.
    """
    if isinstance(positions, slice):
        bounds = [whole_number(bound) for bound in (positions.start, positions.stop, positions.step) if bound is not None]
        if None in bounds or (positions.step is not None and positions.step < 1):
            raise InvalidArgument(f"a slice of positions must have whole numbers and go forward; got {positions}")
    is_mask = isinstance(positions, Tensor) and positions.dtype == torch.bool and positions.ndim in (1, 2)
    if not (positions is None or isinstance(positions, slice) or is_mask or (isinstance(positions, str) and positions == "all")):
        got = f"a {positions.dtype} tensor {list(positions.shape)}" if isinstance(positions, Tensor) else repr(positions)
        raise InvalidArgument(f"positions must be a slice, a boolean mask [batch, pos] or [pos], 'all' or None; got {got}")


def untrained_token_ids(host: Host, sae: SAE) -> tuple[int, ...]:
    """Ids of the tokens whose activations this SAE was not trained on, by its own account.

    Raises:
        InvalidArgument: it says that special tokens were left out, and the model does not say which tokens are special.
    """
    excluded = sae.config.exclude_special_tokens
    if isinstance(excluded, tuple):
        return excluded
    if not excluded:
        return ()
    special = host.special_token_ids()
    if not special:
        raise InvalidArgument(
            "this SAE was trained without special tokens, and the model has neither a tokenizer nor token ids in its config to "
            "tell which those are; pass positions='all', a slice or a mask"
        )
    return tuple(sorted(special))


def chosen_positions(
    positions: Positions, shape: tuple[int, int], untrained: tuple[int, ...], tokens: Int[Tensor, "batch pos"] | None
) -> Bool[Tensor, "batch pos"] | None:
    """A mask of the positions to touch, or None for all of them.

    Args:
        positions: the user's choice, checked already.
        shape: batch and positions of the activation.
        untrained: token ids to leave alone when ``positions`` is None.
        tokens: the ids of this run, when they are known.

    Raises:
        ShapeMismatch: a mask of another shape than the run.
        InvalidArgument: ids are to be left alone and this run was not given any.
    """
    if isinstance(positions, slice):
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[:, positions] = True
        return mask
    if isinstance(positions, Tensor):
        if positions.shape[-1] != shape[1] or (positions.ndim == 2 and positions.shape[0] not in (1, shape[0])):
            raise ShapeMismatch(f"the mask in positions is {list(positions.shape)}; this run has {list(shape)} (batch, pos)")
        return positions.expand(shape)
    if positions == "all" or not untrained:
        return None
    if tokens is None or tokens.shape != shape:
        raise InvalidArgument(
            "this SAE leaves special tokens alone, and this run was not given token ids to find them by; pass positions='all', "
            "a slice or a mask"
        )
    return ~torch.isin(tokens, torch.tensor(untrained, device=tokens.device))
