"""What can be done to features and activations in a splice, as frozen values: printable, comparable, JSON in and out.

Edits act in the order given. Those on features read and write the code of each token, in units of the SAE's activations; a
feature that is not among the token's k strongest has activation 0.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._numbers import whole_number
from sae_lens_ext.errors import FormatError, InvalidArgument, ShapeMismatch
from sae_lens_ext.interventions.positions import Window, frozen_positions, positions_from_json, positions_to_json
from sae_lens_ext.interventions.run import Run

Number = int | float
Numbers = Number | Sequence[Number] | Tensor
"""One for all features, or one for each."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What all edits share: where in the batch they act.

    Attributes:
        positions: a slice of positions, a list of them, or a boolean mask ``[batch, pos]`` or ``[pos]``; None means everywhere the
            splice acts. In generation with a cache, positions count from the beginning of the text.
        rows: rows of the batch, as a slice or a list; None means all.
    """

    positions: Any = None
    rows: Any = None

    def __post_init__(self) -> None:
        """Check what is shared, and bring lists and tensors into a form that can be compared."""
        object.__setattr__(self, "positions", frozen_positions(self.positions, "positions"))
        object.__setattr__(self, "rows", frozen_positions(self.rows, "rows"))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``edit_from_dict`` reads them."""
        content: dict[str, Any] = {"edit": type(self).__name__}
        for item in fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            if item.name in ("positions", "rows"):
                value = positions_to_json(value)
            elif isinstance(value, Run):
                value = {"run": value.to_dict()}
            elif isinstance(value, tuple):
                value = list(value)
            content[item.name] = value
        return content

    def __repr__(self) -> str:
        """As it would be typed, without what is left at its default."""
        # What an edit does first, then where.
        named = sorted(fields(self), key=lambda item: item.name in ("positions", "rows"))
        shown = [f"{item.name}={_shown(getattr(self, item.name))}" for item in named if getattr(self, item.name) != item.default]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class FeatureEdit(Edit):
    """An edit of some features' activations.

    Attributes:
        features: one feature or several.
    """

    features: int | Sequence[int] | Tensor

    def __post_init__(self) -> None:
        """Check the features."""
        super().__post_init__()
        given = self.features.tolist() if isinstance(self.features, Tensor) else self.features
        numbers = [whole_number(feature) for feature in (given if isinstance(given, list | tuple | range) else [given])]
        if not numbers or any(number is None or number < 0 for number in numbers):
            raise InvalidArgument(f"features must be whole numbers from 0 on, at least one; got {self.features!r}")
        if len(set(numbers)) < len(numbers):
            raise InvalidArgument(f"a feature can be named once in an edit; got {self.features!r}")
        object.__setattr__(self, "features", tuple(numbers))

    @property
    def ids(self) -> tuple[int, ...]:
        """The features, always several."""
        assert isinstance(self.features, tuple)
        return self.features

    def edited(self, acts: Float[Tensor, "batch pos features"], window: Window, site: str) -> Float[Tensor, "batch pos features"]:
        """New activations for these features, before ``positions`` and ``rows`` choose where they count."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Ablate(FeatureEdit):
    """Replace the activation of features wherever they are active.

    Attributes:
        to: "zero"; "mean", each feature's mean over all tokens that the splice acts on in the same run; a number, or one for each
            feature; or a ``Run``, from which the activation at the same row and position is taken ("resample ablation").
    """

    to: Literal["zero", "mean"] | Numbers | Run = "zero"

    def __post_init__(self) -> None:
        """Check what to replace activations by."""
        super().__post_init__()
        if isinstance(self.to, list | tuple | Tensor):
            object.__setattr__(self, "to", _numbers(self.to, "to", n=len(self.ids)))
        elif not (isinstance(self.to, Run) or self.to in ("zero", "mean") or _is_number(self.to)):
            raise InvalidArgument(f"to must be 'zero', 'mean', a number, one number per feature, or a Run; got {self.to!r}")

    def edited(self, acts: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        if self.to == "zero":
            return torch.zeros_like(acts)
        if isinstance(self.to, Run):
            new = window.of(self.to.activations(site, self.ids), f"the run to ablate to at {site}", acts)
        elif self.to == "mean":
            if window.start:
                raise InvalidArgument(
                    "the mean over a run's tokens is not known in cached generation, where a run is one token; give numbers, such as "
                    "Ablate(features, to=run.activations(site, features).mean((0, 1)))"
                )
            spliced = window.spliced(acts).unsqueeze(-1)
            new = (acts * spliced).sum((0, 1)) / spliced.sum()
        else:
            new = acts.new_tensor(self.to)
        return torch.where(acts != 0, new, acts)


@dataclass(frozen=True, repr=False)
class Steer(FeatureEdit):
    """Add to the activation of features, whether they are active or not."""

    by: Numbers

    def __post_init__(self) -> None:
        """Check how much."""
        super().__post_init__()
        object.__setattr__(self, "by", _number_or_numbers(self.by, "by", n=len(self.ids)))

    def edited(self, acts: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts + acts.new_tensor(self.by)


@dataclass(frozen=True, repr=False)
class Clamp(FeatureEdit):
    """Set the activation of features everywhere."""

    to: Numbers

    def __post_init__(self) -> None:
        """Check to what."""
        super().__post_init__()
        object.__setattr__(self, "to", _number_or_numbers(self.to, "to", n=len(self.ids)))

    def edited(self, acts: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts.new_tensor(self.to).expand_as(acts)


@dataclass(frozen=True, repr=False)
class Scale(FeatureEdit):
    """Multiply the activation of features."""

    by: Numbers

    def __post_init__(self) -> None:
        """Check by how much."""
        super().__post_init__()
        object.__setattr__(self, "by", _number_or_numbers(self.by, "by", n=len(self.ids)))

    def edited(self, acts: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts * acts.new_tensor(self.by)


@dataclass(frozen=True, repr=False)
class Patch(FeatureEdit):
    """Give features the activations they had in another run, at the same rows and positions, active or not."""

    source: Run

    def __post_init__(self) -> None:
        """Check the source."""
        super().__post_init__()
        if not isinstance(self.source, Run):
            raise InvalidArgument(
                f"source must be a Run, such as Run.capture(model, other_tokens, sae); got a {type(self.source).__name__}"
            )

    def edited(self, acts: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return window.of(self.source.activations(site, self.ids), f"the run to patch from at {site}", acts)


@dataclass(frozen=True, repr=False)
class AddDirection(Edit):
    """Add a vector to the activation itself, after everything else the splice does.

    Attributes:
        vector: the direction, ``[d_model]``, from anywhere; ``difference_in_means`` is the usual baseline.
        scale: how much of it.
    """

    vector: Sequence[Number] | Tensor
    scale: Number = 1.0

    def __post_init__(self) -> None:
        """Check the vector."""
        super().__post_init__()
        object.__setattr__(self, "vector", _numbers(self.vector, "vector"))
        if not _is_number(self.scale):
            raise InvalidArgument(f"scale must be a number; got {self.scale!r}")

    def added(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " d_model"]:
        """What is added where this edit acts.

        Raises:
            ShapeMismatch: a vector of another width.
        """
        if len(self.vector) != x.shape[-1]:
            raise ShapeMismatch(f"the direction to add has {len(self.vector)} numbers; the activation there is {x.shape[-1]} wide")
        return x.new_tensor(self.vector) * self.scale


_KINDS: dict[str, type[Edit]] = {kind.__name__: kind for kind in (Ablate, Steer, Clamp, Scale, Patch, AddDirection)}


def edits_to_json(edits: Iterable[Edit]) -> str:
    """Edits as a JSON text."""
    return json.dumps([edit.to_dict() for edit in edits])


def edits_from_json(text: str) -> list[Edit]:
    """The inverse of ``edits_to_json``.

    Raises:
        FormatError: a text that is not a list of edits.
    """
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise FormatError(f"edits must be JSON text: {error}") from error
    if not isinstance(content, list):
        raise FormatError(f"edits are written as a list; this is a {type(content).__name__}")
    return [edit_from_dict(item) for item in content]


def edit_from_dict(content: Any) -> Edit:
    """The inverse of ``Edit.to_dict``.

    Raises:
        FormatError: not an edit.
    """
    if not isinstance(content, dict) or content.get("edit") not in _KINDS:
        raise FormatError(f"an edit is an object whose 'edit' is one of {', '.join(_KINDS)}; got {content!r}")
    options = {name: value for name, value in content.items() if name != "edit"}
    for name in ("positions", "rows"):
        if name in options:
            options[name] = positions_from_json(options[name])
    for name, value in options.items():
        if isinstance(value, dict) and set(value) == {"run"}:
            options[name] = Run.from_dict(value["run"])
    try:
        return _KINDS[content["edit"]](**options)
    except (TypeError, InvalidArgument) as error:
        raise FormatError(f"{content['edit']} is not written right: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(values: Any, name: str, n: int | None = None) -> tuple[float, ...]:
    given = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(given, list | tuple) or not given or not all(map(_is_number, given)) or (n is not None and len(given) != n):
        wanted = "numbers" if n is None else f"one number, or one for each of the {n} features"
        raise InvalidArgument(f"{name} must be {wanted}; got {_shown(values)}")
    return tuple(map(float, given))


def _number_or_numbers(value: Any, name: str, n: int) -> float | tuple[float, ...]:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    return float(value) if _is_number(value) else _numbers(value, name, n)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 12:
        kind = "numbers" if all(map(_is_number, value)) else "rows"
        return f"<{len(value)} {kind}>"
    if isinstance(value, tuple) and len(value) == 1 and whole_number(value[0]) is not None:
        return str(value[0])
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
