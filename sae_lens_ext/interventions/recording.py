"""The features of a run of the model, recorded for use in other runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import (
    FormatError,
    InvalidArgument,
    ShapeMismatch,
    UnknownSite,
    closest,
)
from sae_lens_ext.hosts import (
    by_position,
    capture,
    host_for,
    spellings,
    token_rows,
)
from sae_lens_ext.interventions.encoding import encode_at
from sae_lens_ext.interventions.positions import Positions, SplicedPositions
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.sites import (
    Placement,
    SAEs,
    check_order,
    placements,
)
from sae_lens_ext.sae import SparseCode


@dataclass(frozen=True, eq=False)
class Run:
    """The codes of a run by site name; a source for ``Ablate`` and ``Patch``.

    Two runs are equal when all their numbers are.

    Attributes:
        codes: the features of every token by site name, each code ``[batch, pos, k]``;
            zeros where features were not kept.
        kept: where features were kept, ``[batch, pos]`` by site name; a site that is
            not named was kept everywhere.
        text: which columns are text of their row, ``[batch, pos]``; None for rows
            without padding.
    """

    codes: Mapping[str, SparseCode]
    kept: Mapping[str, Bool[Tensor, "batch pos"]] = field(default_factory=dict)
    text: Bool[Tensor, "batch pos"] | None = None

    def __post_init__(self) -> None:
        """Check the codes.

        Raises:
            InvalidArgument: not codes ``[batch, pos, k]`` by site name.
        """
        is_valid = isinstance(self.codes, Mapping) and all(
            isinstance(code, SparseCode) and code.values.ndim == 3
            for code in self.codes.values()
        )
        if not is_valid:
            raise InvalidArgument(
                "codes must be codes [batch, pos, k] by site name; "
                "Run.capture(model, tokens, sae) makes a Run"
            )

    @classmethod
    def capture(
        cls,
        model: Any,
        tokens: Any,
        sae: SAEs,
        k: int | None = None,
        *,
        positions: Positions = None,
    ) -> "Run":
        """Run the model on ``tokens`` and record the features.

        The model runs as it stands: splices and hooks that are active take part.

        Args:
            model: as in ``splice``.
            tokens: as in ``token_batch``: texts of any lengths, lists of ids, a
                tokenizer's output. Codes are in the columns of that batch, with zeros
                at padding.
            sae: as in ``splice``.
            k: number of features to keep per token; None means the k that the SAE was
                trained at, or every active feature.
            positions: where to keep features, as in ``splice``: by default everywhere
                except on the special tokens that the SAE was not trained on.

        Raises:
            UnknownSite, ShapeMismatch, InvalidK, InvalidArgument, NonFinite: as in
                ``splice``.
        """
        host = host_for(model).plain()
        placed = placements(host, sae)
        batch = token_rows(host, tokens)

        masks = {}
        for name, place in placed.items():
            spliced = SplicedPositions.of(host, place.sae, positions)
            masks[name] = spliced.mask_of(batch)

        with torch.no_grad():
            # Where transcoders write, too, which must come after they have read.
            sites = {site for place in placed.values() for site in place.sites}
            activations = capture(host, batch, sites)
            check_order(placed.values(), activations)
            codes = {
                name: _masked_code(place, activations[place.reads], masks[name], k)
                for name, place in placed.items()
            }
        return cls(codes, masks, batch.mask if batch.is_padded else None)

    def activations(
        self, site: str, features: int | Sequence[int] | Tensor
    ) -> Float[Tensor, "batch pos features"]:
        """The activations of these features at a site.

        They are 0 where a feature is not among the token's k strongest, and where
        features were not kept.

        Raises:
            UnknownSite: this run was not captured there.
            InvalidArgument: the SAE there does not have one of the features.
            ShapeMismatch: ``features`` is a mask over another number of features.
        """
        numbers = arguments.features(features)
        d_sae = self.d_sae(site)
        mask_length = arguments.mask_length(features)
        # A mask over another SAE's features would name the wrong ones here.
        if mask_length not in (None, d_sae):
            raise ShapeMismatch(
                f"the mask is over {mask_length} features; "
                f"the SAE at {site} has {d_sae} of them"
            )
        if max(numbers) >= d_sae:
            raise InvalidArgument(
                f"the SAE at {site} has features 0 to {d_sae - 1}; got {max(numbers)}"
            )

        code = self.codes[self._name_of(site)]
        return activations_of(code, numbers)

    def mean_activations(
        self, site: str, features: int | Sequence[int] | Tensor
    ) -> Float[Tensor, " features"]:
        """The mean of each of these features over the tokens whose features were kept.

        Raises:
            InvalidArgument: no features were kept at the site.
            UnknownSite, ShapeMismatch: as in ``activations``.
        """
        activations = self.activations(site, features)
        mask = self.mask(site)
        if not mask.any():
            raise InvalidArgument(
                f"this run kept no features at {site}, so they have no mean; "
                "capture it with other positions="
            )

        return activations[mask.to(activations.device)].mean(0)

    def d_sae(self, site: str) -> int:
        """The number of features of the SAE at a site; errors as in ``activations``."""
        return self.codes[self._name_of(site)].d_sae

    def mask(self, site: str) -> Bool[Tensor, "batch pos"]:
        """Where features were kept at a site; errors as in ``activations``."""
        name = self._name_of(site)
        if name in self.kept:
            return self.kept[name]

        # A site that ``kept`` does not name has its features everywhere.
        shape = self.codes[name].values.shape[:-1]
        return torch.ones(shape, dtype=torch.bool)

    def by_position(
        self, values: Shaped[Tensor, "batch pos *rest"]
    ) -> Shaped[Tensor, "batch longest *rest"]:
        """Values in this run's columns, by positions of each row's text.

        The same where rows have no padding; zeros after the end of a shorter row.
        """
        if self.text is None:
            return values
        return by_position(values, self.text)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON values; ``from_dict`` reads them."""
        content = {}
        for site, code in self.codes.items():
            content[site] = {
                "d_sae": code.d_sae,
                "indices": code.indices.tolist(),
                "values": code.values.tolist(),
                "kept": self.mask(site).tolist(),
            }
            if self.text is not None:
                content[site]["text"] = self.text.tolist()
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Run":
        """The inverse of ``to_dict``.

        Raises:
            FormatError: anything that ``to_dict`` does not write.
        """
        codes = {}
        masks = {}
        text = None
        try:
            for site, code in content.items():
                codes[site] = SparseCode(
                    torch.tensor(code["values"]),
                    torch.tensor(code["indices"], dtype=torch.int64),
                    code["d_sae"],
                )
                masks[site] = torch.tensor(code["kept"], dtype=torch.bool)
                if "text" in code:
                    text = torch.tensor(code["text"], dtype=torch.bool)
            return cls(codes, masks, text)
        # What torch, SparseCode and a missing key raise for JSON of another kind.
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            ShapeMismatch,
        ) as error:
            raise FormatError(
                "a run is written as d_sae, indices, values and kept by site; "
                f"this is not ({error})"
            ) from error

    def _name_of(self, site: str) -> str:
        """The name this run has for a site, which may be given in another spelling."""
        for name in spellings(site):
            if name in self.codes:
                return name
        raise UnknownSite(
            f"this run was not captured at {site!r}; it was at: "
            f"{closest(site, self.codes)}"
        )

    def __eq__(self, other: object) -> bool:
        """Whether all numbers are equal."""
        return isinstance(other, Run) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """By shape, which equal runs share."""
        return hash(repr(self))

    def __repr__(self) -> str:
        """Sites and shapes."""
        codes = ", ".join(f"{site}: {code!r}" for site, code in self.codes.items())
        return f"Run({codes})"


def activations_of(
    code: SparseCode, features: Sequence[int]
) -> Float[Tensor, "*batch features"]:
    """Columns of the dense code, without building it.

    >>> code = SparseCode(torch.tensor([[3.0, 1.0]]), torch.tensor([[4, 0]]), d_sae=6)
    >>> activations_of(code, [0, 5, 4])
    tensor([[1., 0., 3.]])

    Args:
        code: the code.
        features: numbers of the columns, without repetition.
    """
    n_features = len(features)
    device = code.indices.device

    # Feature -> its column of the result, or the one after the last.
    column = code.indices.new_full((code.d_sae,), n_features)
    numbers = torch.as_tensor(features, device=device)
    column[numbers] = torch.arange(n_features, device=device)

    # All other features are added to one more column, which is dropped.
    columns = code.values.new_zeros(*code.values.shape[:-1], n_features + 1)
    targets = column[code.indices]
    columns = columns.scatter_add(-1, targets, code.values)
    return columns[..., :-1]


def _masked_code(
    place: Placement,
    x: Tensor,
    mask: Tensor,
    k: int | None,
) -> SparseCode:
    sae = place.sae
    assert sae is not None
    check_activation(place.reads.name, x, sae)
    x_on_device = x.to(sae.W_enc.device)
    return encode_at(sae, x_on_device, mask, k)
