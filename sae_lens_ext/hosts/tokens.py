"""Token ids from what users pass."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts.base import Host


def token_rows(host: Host, tokens: Any) -> Int[Tensor, "batch pos"]:
    """Token ids as ``[batch, pos]`` on the model's device, from a tensor, an array, lists of ids, a text or texts of one length.

    Raises:
        InvalidArgument: anything else, no row at all, or texts of different lengths (padding would be counted as text).
    """
    if isinstance(tokens, str) or (
        isinstance(tokens, list | tuple)
        and tokens
        and all(isinstance(text, str) for text in tokens)
    ):
        rows = [
            host.to_tokens(text)
            for text in ([tokens] if isinstance(tokens, str) else tokens)
        ]
        if len({row.shape[1] for row in rows}) > 1:
            lengths = ", ".join(str(row.shape[1]) for row in rows)
            raise InvalidArgument(
                f"the texts have different lengths ({lengths} tokens); give one at a time, or rows of one length"
            )
        ids = torch.cat(rows)
    else:
        try:
            ids = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidArgument(
                f"tokens must be ids [batch, pos] or text; got a {type(tokens).__name__} ({error})"
            ) from error
    ids = ids.unsqueeze(0) if ids.ndim == 1 else ids
    if (
        ids.ndim != 2
        or ids.is_floating_point()
        or ids.dtype == torch.bool
        or 0 in ids.shape
    ):
        raise InvalidArgument(
            f"tokens must be ids [batch, pos], at least one of each; got {ids.dtype} {list(ids.shape)}"
        )
    if host.d_vocab is not None and not (
        int(ids.min()) >= 0 and int(ids.max()) < host.d_vocab
    ):
        raise InvalidArgument(
            f"token ids must be from 0 to {host.d_vocab - 1} for this model; they run from {int(ids.min())} to {int(ids.max())}"
        )
    device = next(
        (parameter.device for parameter in host.model.parameters()), ids.device
    )
    return ids.to(device, torch.int64)
