"""Qwen-Scope: a ``layer{n}.sae.pt`` for every layer, many of them in one repository.

k and the model are in the repository's name only, as in
``Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``.

Source: the loader of SAELens 6.54 (``qwen_scope_...``).
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.origin import number_in, origin

FILE = re.compile(r"layer\d+\.sae\.pt")
"""The name of such a file."""

_REPO = re.compile(r"SAE-Res-([\w.-]+)-W\d+K-L0_(\d{1,9})(?!\d)")


def from_qwen_scope(path: Path, tensors: Mapping[str, Tensor]) -> SAECheckpoint:
    """The checkpoint in a file of Qwen-Scope: a TopK SAE without a pre-bias.

    Both matrices are stored the other way round than in SAELens.

    Raises:
        FormatError: other tensors, or k is not in the names that lead to the file.
        NonFinite: a tensor holds NaN or infinity.
    """
    names = origin(path)
    repo = _REPO.search(names)
    if repo is None:
        raise FormatError(
            f"{path}: its k is in the name of the repository only, as in "
            "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50; keep the file in a folder of "
            "that name"
        )
    weights = dict(tensors)
    for name in ("W_enc", "W_dec"):
        if name in weights:
            weights[name] = transposed(weights[name])

    layer = number_in(r"layer(\d+)\.sae\.pt", path.name)
    return assembled(
        path,
        kind="topk",
        tensors=weights,
        k=int(repo[2]),
        apply_b_dec_to_input=False,
        metadata={
            "trained_with": "Qwen-Scope",
            "model_name": f"Qwen/{repo[1]}",
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "hf_hook_name": f"model.layers.{layer}",
        },
    )
