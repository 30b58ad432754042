"""The random states that everything in a process shares.

The trainer and its streams draw from generators of their own. A stream or an objective
that somebody brings may draw from these.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch, of its GPUs, of Python and of numpy: tensors and facts."""
    tensors = {"torch": torch.get_rng_state()}
    # Asking for it would start CUDA in a process that trains on the CPU.
    if torch.cuda.is_initialized():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{number}"] = state

    version, words, next_gauss = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)

    state: Any = np.random.get_state(legacy=False)
    tensors["numpy"] = torch.from_numpy(state["state"]["key"].astype(np.int64))
    facts = {
        "python": [version, next_gauss],
        "numpy": [state["state"]["pos"], state["has_gauss"], state["gauss"]],
    }
    return tensors, facts


def restore_random_states(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Put what ``random_states`` returned back; GPUs that are not here are left out."""
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if f"cuda.{number}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda.{number}"], number)

    version, next_gauss = facts["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), next_gauss))

    position, has_gauss, gauss = facts["numpy"]
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, position, has_gauss, gauss))
