"""The base classes of edits, which say where an edit acts and how it is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.interventions.edits.values import shown
from sae_lens_ext.interventions.positions import (
    Window,
    frozen_positions,
    frozen_rows,
    positions_to_json,
)
from sae_lens_ext.interventions.recording import Run

_WHERE = ("positions", "rows")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The base class of edits: where in the batch they act.

    Attributes:
        positions: a slice of positions, a list of them, or a boolean mask
            ``[batch, pos]`` or ``[pos]``; None means everywhere the splice acts. In
            generation with a cache, positions count from the beginning of the text.
        rows: rows of the batch, as a slice or a list; None means all.
    """

    positions: Any = None
    rows: Any = None

    def __post_init__(self) -> None:
        """Check positions and rows, and freeze them so that edits can be compared.

        Raises:
            InvalidArgument: not a selection.
        """
        positions = frozen_positions(self.positions)
        object.__setattr__(self, "positions", positions)

        rows = frozen_rows(self.rows)
        object.__setattr__(self, "rows", rows)

    def to_dict(self) -> dict[str, Any]:
        """The edit as JSON values: its class and what differs from the defaults."""
        content: dict[str, Any] = {"edit": type(self).__name__}
        for name, value in self._options().items():
            if name in _WHERE:
                value = positions_to_json(value)
            elif isinstance(value, Run):
                value = {"run": value.to_dict()}
            elif isinstance(value, tuple):
                value = list(value)
            content[name] = value

        return content

    def __repr__(self) -> str:
        """The call that makes it, without what is left at its default."""
        options = self._options()
        # What an edit does first, then where.
        names = sorted(options, key=lambda name: name in _WHERE)

        parts = []
        for name in names:
            value = options[name]
            # A single feature as a user types it.
            if name == "features" and len(value) == 1:
                value = value[0]
            parts.append(f"{name}={shown(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _options(self) -> dict[str, Any]:
        """The arguments it was made with that differ from the defaults."""
        options = {}
        for item in fields(self):
            value = getattr(self, item.name)
            # Fields outside of __init__ follow from the others.
            if item.init and value != item.default:
                options[item.name] = value
        return options


@dataclass(frozen=True, repr=False)
class FeatureEdit(Edit):
    """An edit of the activations of some features.

    Attributes:
        features: one feature, several, or a boolean mask over all of them.
        mask_length: the number of features that the mask covered; None if ``features``
            was not a mask.
    """

    features: int | Sequence[int] | Tensor
    mask_length: int | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check the features.

        Raises:
            InvalidArgument: not features.
        """
        super().__post_init__()
        # Before the mask becomes the numbers of its features.
        mask_length = arguments.mask_length(self.features)
        object.__setattr__(self, "mask_length", mask_length)

        features = arguments.features(self.features)
        object.__setattr__(self, "features", features)

    @property
    def ids(self) -> tuple[int, ...]:
        """The features as a tuple, also where there is one."""
        assert isinstance(self.features, tuple)
        return self.features

    @property
    def run(self) -> Run | None:
        """The run that activations are taken from, if there is one."""
        return None

    def edited(
        self,
        acts: Float[Tensor, "batch pos features"],
        where: Bool[Tensor, "batch pos"],
        window: Window,
        site: str,
    ) -> Float[Tensor, "batch pos features"]:
        """The new activations of the edit's features.

        Args:
            acts: their activations so far.
            where: the tokens that the edit acts on; results elsewhere are not used.
            window: the positions of the run in progress.
            site: name of the site, for activations of another run.
        """
        raise NotImplementedError
