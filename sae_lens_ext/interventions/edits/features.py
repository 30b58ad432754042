"""Edits of features: ablate, steer, clamp, scale and patch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.interventions.edits.base import FeatureEdit
from sae_lens_ext.interventions.edits.values import Numbers, number_or_numbers, shown
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.interventions.recording import Run
from sae_lens_ext.kernels import holds_numbers


@dataclass(frozen=True, repr=False)
class Ablate(FeatureEdit):
    """Replace the activation of features wherever they are active.

    Attributes:
        to: "zero"; "mean", each feature's mean over all tokens that the splice acts on
            in the same run; a number, or one per feature; or a ``Run``, from which the
            activation at the same row and position is taken ("resample ablation"), as
            by ``Patch``.
    """

    to: Literal["zero", "mean"] | Numbers | Run = "zero"

    def __post_init__(self) -> None:
        """Check ``to``.

        Raises:
            InvalidArgument: none of the values above.
        """
        super().__post_init__()
        is_string = isinstance(self.to, str)
        if is_string and self.to not in ("zero", "mean"):
            raise InvalidArgument(
                "to must be 'zero', 'mean', a number, one number per feature, or a "
                f"Run; got {self.to!r}"
            )
        if not isinstance(self.to, Run | str):
            _set_numbers(self, "to")

    @property
    def run(self) -> Run | None:
        """See ``FeatureEdit.run``."""
        return self.to if isinstance(self.to, Run) else None

    def edited(
        self,
        acts: Tensor,
        where: Tensor,
        window: Window,
        site: str,
    ) -> Tensor:
        """See ``FeatureEdit.edited``."""
        if self.to == "zero":
            return torch.zeros_like(acts)

        if isinstance(self.to, Run):
            replacement = _from_run(self.to, self, acts, where, window, site)
        elif self.to == "mean":
            replacement = _mean_of_run(acts, window)
        else:
            replacement = acts.new_tensor(self.to)
        # A feature that is not active stays at 0.
        is_active = acts != 0
        return torch.where(is_active, replacement, acts)


@dataclass(frozen=True, repr=False)
class Steer(FeatureEdit):
    """Add to the activation of features, whether they are active or not.

    Attributes:
        by: how much, in units of the SAE's activations; one number, or one per feature.
    """

    by: Numbers

    def __post_init__(self) -> None:
        """Check ``by``.

        Raises:
            InvalidArgument: not finite numbers.
        """
        super().__post_init__()
        _set_numbers(self, "by")

    def edited(
        self,
        acts: Tensor,
        where: Tensor,
        window: Window,
        site: str,
    ) -> Tensor:
        """See ``FeatureEdit.edited``."""
        amounts = acts.new_tensor(self.by)
        return acts + amounts


@dataclass(frozen=True, repr=False)
class Clamp(FeatureEdit):
    """Set the activation of features everywhere.

    Attributes:
        to: the new activation, in units of the SAE's activations; one number, or one
            per feature.
    """

    to: Numbers

    def __post_init__(self) -> None:
        """Check ``to``.

        Raises:
            InvalidArgument: not finite numbers.
        """
        super().__post_init__()
        _set_numbers(self, "to")

    def edited(
        self,
        acts: Tensor,
        where: Tensor,
        window: Window,
        site: str,
    ) -> Tensor:
        """See ``FeatureEdit.edited``."""
        new_acts = acts.new_tensor(self.to)
        return new_acts.expand_as(acts)


@dataclass(frozen=True, repr=False)
class Scale(FeatureEdit):
    """Multiply the activation of features.

    Attributes:
        by: the factor; one number, or one per feature.
    """

    by: Numbers

    def __post_init__(self) -> None:
        """Check ``by``.

        Raises:
            InvalidArgument: not finite numbers.
        """
        super().__post_init__()
        _set_numbers(self, "by")

    def edited(
        self,
        acts: Tensor,
        where: Tensor,
        window: Window,
        site: str,
    ) -> Tensor:
        """See ``FeatureEdit.edited``."""
        factors = acts.new_tensor(self.by)
        return acts * factors


@dataclass(frozen=True, repr=False)
class Patch(FeatureEdit):
    """Give features the activations they had in another run, active or not.

    Activations are taken from the same rows and positions.

    Attributes:
        source: the other run. Tokens that generation adds after its end are left alone.
    """

    source: Run

    def __post_init__(self) -> None:
        """Check the source.

        Raises:
            InvalidArgument: not a ``Run``.
        """
        super().__post_init__()
        if not isinstance(self.source, Run):
            raise InvalidArgument(
                "source must be a Run, such as Run.capture(model, other_tokens, sae); "
                f"got an object of type {type(self.source).__name__}"
            )

    @property
    def run(self) -> Run | None:
        """See ``FeatureEdit.run``."""
        return self.source

    def edited(
        self,
        acts: Tensor,
        where: Tensor,
        window: Window,
        site: str,
    ) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return _from_run(self.source, self, acts, where, window, site)


def _set_numbers(edit: FeatureEdit, name: str) -> None:
    """Replace a field of a frozen edit by the plain numbers that it holds."""
    n_features = len(edit.ids)
    value = getattr(edit, name)
    values = number_or_numbers(value, name, n_features)
    # Past the class's own __setattr__, which raises because the class is frozen.
    object.__setattr__(edit, name, values)


def _mean_of_run(acts: Tensor, window: Window) -> Tensor:
    """Each feature's mean over the tokens of the run that the splice acts on."""
    if window.start:
        raise InvalidArgument(
            "the mean over a run's tokens is not known in cached generation, where a "
            "run is one token; give numbers, such as "
            "Ablate(features, to=run.mean_activations(site, features))"
        )

    mask = window.spliced_mask(acts.device)
    mask = mask.unsqueeze(-1)
    # A product, because a boolean index would have a shape that depends on the mask.
    masked = acts * mask
    total = masked.sum((0, 1))
    return total / mask.sum()


def _from_run(
    run: Run,
    edit: FeatureEdit,
    acts: Tensor,
    where: Tensor,
    window: Window,
    site: str,
) -> Tensor:
    """The activations of the edit's features in another run, at the same tokens.

    Returns ``acts`` where the other run did not keep features.
    """
    name = f"the run to take activations from at {site}"
    # The mask comes in the dtype of the activations, as 0 and 1.
    known_positions = run.by_position(run.mask(site))
    known = window.part_of(known_positions, name, acts)
    is_known = known != 0

    # In cached generation a run of the prompt ends before the generated tokens; in a
    # run of whole texts every token that is edited must be known.
    missing = where & ~is_known
    if not window.start and holds_numbers(missing) and missing.any():
        numbers = window.positions.to(missing.device)[missing].unique()
        positions = tuple(numbers.tolist())
        raise ShapeMismatch(
            f"{edit!r} reaches positions {shown(positions)}, where the run it takes "
            f"activations from kept no features at {site}; choose positions=, or "
            "capture that run on as long a text and with the positions that are needed"
        )

    recorded = run.by_position(run.activations(site, edit.ids))
    replacement = window.part_of(recorded, name, acts)
    return torch.where(is_known.unsqueeze(-1), replacement, acts)
