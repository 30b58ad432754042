"""Devices that people name."""

import torch

from sae_lens_ext.errors import InvalidArgument


def check_device(device: torch.device | str) -> None:
    """Refuse a device that is not here, before hours of work rather than at their end.

    Raises:
        InvalidArgument: no tensor can be made there, or none that holds numbers.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"device {str(device)!r} cannot be used here ({' '.join(str(error).split())[:120]}); try cpu") from error
    if torch.device(device).type == "meta":
        raise InvalidArgument("device 'meta' holds shapes and no numbers; try cpu")
