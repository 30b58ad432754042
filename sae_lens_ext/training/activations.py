"""Activations to train on: collected from a model, cleaned of outliers, saved."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.atomic import replacing, saving
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.training.cleaning import (
    check_finite,
    largest_norm,
    mean_and_scale,
    shrink_outliers,
)
from sae_lens_ext.training.collecting import Collector

# Never float16: one in a thousand tokens of Gemma 3 270M overflows it.
_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Activations:
    """The activations of one site, one row per token."""

    values: Float[Tensor, "token d_model"]
    """The activations, in float32, bfloat16 or float64."""
    hook_name: str
    """The site they come from."""
    n_special: int = 0
    """How many special tokens were left out."""
    n_outliers: int = 0
    """How many tokens were shrunk because their norm exceeded 6 times the median."""

    def __post_init__(self) -> None:
        """Check the values and the name.

        Raises:
            InvalidArgument: ``values`` has another dtype, or is not a tensor;
                ``hook_name`` is not a string.
        """
        arguments.string(self.hook_name, "hook_name")
        is_tensor = isinstance(self.values, Tensor)
        if not is_tensor or self.values.dtype not in _DTYPES:
            got = self.values.dtype if is_tensor else type(self.values).__name__
            reason = ""
            if got == torch.float16:
                reason = ", which overflows on models of the Gemma family"
            raise InvalidArgument(
                "activations must be a tensor of float32, bfloat16 or float64; "
                f"got {got}{reason}"
            )

    def outliers_clipped(self) -> "Activations":
        """Shrink every token whose norm exceeds 6 times the median to that norm.

        In Gemma, one token in ten thousand has ten times the norm of the rest. Left as
        they are, those tokens carry a tenth of the squared error. Dropped, they teach
        nothing, and an SAE that meets one at a large k is far off. The error at k=32 on
        Gemma 3 270M after block 9, over all held-out tokens and over those that are not
        outliers:

        ============================= ===== =============
        outliers                      all   not outliers
        ============================= ===== =============
        dropped                       0.120 0.109
        shrunk to 3 times the median  0.103 0.110
        shrunk to 6 times the median  0.101 0.111
        left alone                    0.102 0.112
        ============================= ===== =============
        """
        limit = largest_norm(self.values)
        values, n_shrunk = shrink_outliers(self.values, limit)

        n_outliers = self.n_outliers + int(n_shrunk)
        return type(self)(values, self.hook_name, self.n_special, n_outliers)

    def mean_and_scale(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """The constants that normalise activations before training.

        Returns:
            The mean of each coordinate, and the factor that gives the centred
            activations a mean square of 1 per coordinate.

        Raises:
            NonFinite: the activations contain NaN or infinity.
            InvalidArgument: all activations are equal.
        """
        return mean_and_scale(self.values)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        path = Path(path)
        facts = {
            "hook_name": self.hook_name,
            "n_special": self.n_special,
            "n_outliers": self.n_outliers,
        }
        with replacing(path) as temporary, saving(path):
            save_file(
                {"values": self.values.contiguous()},
                temporary,
                metadata={"activations": json.dumps(facts)},
            )

    @classmethod
    def load(cls, path: str | Path) -> "Activations":
        """Read a file that ``save`` wrote.

        Raises:
            FormatError: the file is missing, of another kind, or cut short.
        """
        if not Path(path).is_file():
            raise FormatError(f"there is no file {path} of activations")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["activations"])
                return cls(file.get_tensor("values"), **facts)
        except (
            SafetensorError,
            OSError,
            KeyError,
            TypeError,
            json.JSONDecodeError,
        ) as error:
            raise FormatError(
                f"{path} is not a file that Activations.save wrote, or was cut short "
                f"({error}); collect the activations again"
            ) from error


def collect_activations(
    model: Any,
    tokens: Any,
    hook_name: str,
    *,
    positions: Positions = None,
    batch_size: int = 8,
    progress: bool = True,
) -> Activations:
    """Collect the activations at one site for every token that is not special.

    The model computes only the layers up to that site.

    Args:
        model: as in ``splice``.
        tokens: rows of token ids (see ``pack``), or tokens in any other form that
            ``token_batch`` takes. Padding is left out.
        hook_name: the site.
        positions: the tokens to collect instead, as in ``splice``.
        batch_size: rows per forward pass.
        progress: whether to show a progress bar.

    Raises:
        UnknownSite: the model has no such site.
        NonFinite: the model produced NaN or infinity there.
        InvalidArgument: no token is left.
    """
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    arguments.positive_int(batch_size, "batch_size")
    arguments.string(hook_name, "hook_name")
    collector = Collector(model, hook_name, positions)
    tokens = collector.batch(tokens)
    mask = collector.mask_of(tokens)
    n_special = collector.n_special(tokens, mask)

    parts = []
    bar = tqdm(
        total=tokens.n_tokens,
        desc="activations",
        unit="token",
        unit_scale=True,
        disable=not progress,
    )
    with bar:
        for start in range(0, len(tokens), batch_size):
            chunk = slice(start, start + batch_size)
            rows = tokens[chunk]
            collected = collector.collect(rows, mask[chunk])
            parts.append(collected[hook_name].float().cpu())
            bar.update(rows.n_tokens)

    values = torch.cat(parts)
    if not len(values):
        reason = "positions chooses no token of these"
        if positions is None:
            reason = (
                "all tokens are special tokens, which are left out; give rows of text"
            )
        raise InvalidArgument(reason)

    check_finite(hook_name, values)
    return Activations(values, hook_name, n_special=n_special)
