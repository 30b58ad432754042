"""What can be done to features and activations in a splice, as frozen values: printable, comparable, JSON in and out.

Edits act in the order given. Those on features read and write the code of each token, in units of the SAE's activations; a
feature that is not among the token's k strongest has activation 0.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._arguments import as_python, mask_length
from sae_lens_ext.errors import FormatError, InvalidArgument, ShapeMismatch
from sae_lens_ext.interventions.positions.window import (
    Window,
    frozen_positions,
    positions_from_json,
    positions_to_json,
)
from sae_lens_ext.interventions.recording import Run
from sae_lens_ext.kernels import holds_numbers

Number = int | float
_LARGEST = torch.finfo(torch.float32).max
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
        object.__setattr__(
            self, "positions", frozen_positions(self.positions, "positions")
        )
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
        named = sorted(
            fields(self), key=lambda item: item.name in ("positions", "rows")
        )
        shown = [
            f"{item.name}={_shown(value[0] if item.name == 'features' and len(value) == 1 else value)}"
            for item in named
            if (value := getattr(self, item.name)) != item.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class FeatureEdit(Edit):
    """An edit of some features' activations.

    Attributes:
        features: one feature, several, or a boolean mask over all of them.
    """

    features: int | Sequence[int] | Tensor

    def __post_init__(self) -> None:
        """Check the features."""
        super().__post_init__()
        object.__setattr__(self, "_mask_length", mask_length(self.features))
        object.__setattr__(self, "features", arguments.features(self.features))

    @property
    def ids(self) -> tuple[int, ...]:
        """The features, always several."""
        assert isinstance(self.features, tuple)
        return self.features

    @property
    def mask_length(self) -> int | None:
        """How many features the mask that they were chosen by was over; None when there was none."""
        return self.__dict__["_mask_length"]

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
        """New activations for these features; only those at the tokens in ``where`` count."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Ablate(FeatureEdit):
    """Replace the activation of features wherever they are active.

    Attributes:
        to: "zero"; "mean", each feature's mean over all tokens that the splice acts on in the same run; a number, or one for each
            feature; or a ``Run``, from which the activation at the same row and position is taken ("resample ablation"), as by ``Patch``.
    """

    to: Literal["zero", "mean"] | Numbers | Run = "zero"

    def __post_init__(self) -> None:
        """Check what to replace activations by."""
        super().__post_init__()
        if isinstance(self.to, str) and self.to not in ("zero", "mean"):
            raise InvalidArgument(
                f"to must be 'zero', 'mean', a number, one number per feature, or a Run; got {self.to!r}"
            )
        if not isinstance(self.to, Run | str):
            object.__setattr__(
                self, "to", _number_or_numbers(self.to, "to", n=len(self.ids))
            )

    @property
    def run(self) -> Run | None:
        """See ``FeatureEdit.run``."""
        return self.to if isinstance(self.to, Run) else None

    def edited(self, acts: Tensor, where: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        if self.to == "zero":
            return torch.zeros_like(acts)
        if isinstance(self.to, Run):
            return torch.where(
                acts != 0, _from_run(self.to, self, acts, where, window, site), acts
            )
        elif self.to == "mean":
            if window.start:
                raise InvalidArgument(
                    "the mean over a run's tokens is not known in cached generation, where a run is one token; give numbers, such as "
                    "Ablate(features, to=run.mean_activations(site, features))"
                )
            spliced = window.spliced(acts).unsqueeze(-1)
            new = (acts * spliced).sum((0, 1)) / spliced.sum()
        else:
            new = acts.new_tensor(self.to)
        return torch.where(acts != 0, new, acts)


@dataclass(frozen=True, repr=False)
class Steer(FeatureEdit):
    """Add to the activation of features, whether they are active or not.

    Attributes:
        by: how much, in units of the SAE's activations; one number, or one for each feature.
    """

    by: Numbers

    def __post_init__(self) -> None:
        """Check how much."""
        super().__post_init__()
        object.__setattr__(
            self, "by", _number_or_numbers(self.by, "by", n=len(self.ids))
        )

    def edited(self, acts: Tensor, where: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts + acts.new_tensor(self.by)


@dataclass(frozen=True, repr=False)
class Clamp(FeatureEdit):
    """Set the activation of features everywhere.

    Attributes:
        to: to how much, in units of the SAE's activations; one number, or one for each feature.
    """

    to: Numbers

    def __post_init__(self) -> None:
        """Check to what."""
        super().__post_init__()
        object.__setattr__(
            self, "to", _number_or_numbers(self.to, "to", n=len(self.ids))
        )

    def edited(self, acts: Tensor, where: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts.new_tensor(self.to).expand_as(acts)


@dataclass(frozen=True, repr=False)
class Scale(FeatureEdit):
    """Multiply the activation of features.

    Attributes:
        by: by how much; one number, or one for each feature.
    """

    by: Numbers

    def __post_init__(self) -> None:
        """Check by how much."""
        super().__post_init__()
        object.__setattr__(
            self, "by", _number_or_numbers(self.by, "by", n=len(self.ids))
        )

    def edited(self, acts: Tensor, where: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return acts * acts.new_tensor(self.by)


@dataclass(frozen=True, repr=False)
class Patch(FeatureEdit):
    """Give features the activations they had in another run, at the same rows and positions, active or not.

    Attributes:
        source: the other run. Tokens that generation adds after its end are left alone.
    """

    source: Run

    def __post_init__(self) -> None:
        """Check the source."""
        super().__post_init__()
        if not isinstance(self.source, Run):
            raise InvalidArgument(
                f"source must be a Run, such as Run.capture(model, other_tokens, sae); got a {type(self.source).__name__}"
            )

    @property
    def run(self) -> Run | None:
        """See ``FeatureEdit.run``."""
        return self.source

    def edited(self, acts: Tensor, where: Tensor, window: Window, site: str) -> Tensor:
        """See ``FeatureEdit.edited``."""
        return _from_run(self.source, self, acts, where, window, site)


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
        object.__setattr__(self, "scale", _number(self.scale, "scale"))

    def added(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " d_model"]:
        """What is added where this edit acts.

        Raises:
            ShapeMismatch: a vector of another width.
        """
        if len(self.vector) != x.shape[-1]:
            raise ShapeMismatch(
                f"the direction to add has {len(self.vector)} numbers; the activation there is {x.shape[-1]} wide"
            )
        return x.new_tensor(self.vector) * self.scale


_KINDS: dict[str, type[Edit]] = {
    kind.__name__: kind for kind in (Ablate, Steer, Clamp, Scale, Patch, AddDirection)
}


def edits_to_json(edits: Iterable[Edit] | Mapping[str, Iterable[Edit]]) -> str:
    """Edits, or edits by site, as a JSON text."""
    if isinstance(edits, Mapping):
        return json.dumps({site: _dicts(some) for site, some in edits.items()})
    return json.dumps(_dicts(edits))


def _dicts(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    some = list(edits) if isinstance(edits, Iterable) else [None]
    if not all(isinstance(edit, Edit) for edit in some):
        raise InvalidArgument(
            f"edits are a list of edits such as [Ablate(17)], or such lists by site; got {edits!r}"
        )
    return [edit.to_dict() for edit in some if edit is not None]


def edits_from_json(text: str) -> list[Edit] | dict[str, list[Edit]]:
    """The inverse of ``edits_to_json``.

    Raises:
        FormatError: a text that is not a list of edits, nor such lists by site.
    """
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise FormatError(f"edits must be JSON text: {error}") from error
    by_site = content if isinstance(content, dict) else {"": content}
    if not all(isinstance(items, list) for items in by_site.values()):
        raise FormatError(
            f"edits are written as a list, or as lists by site; this is {text[:60]!r}"
        )
    found = {
        site: [edit_from_dict(item) for item in items]
        for site, items in by_site.items()
    }
    return found if isinstance(content, dict) else found[""]


def edit_from_dict(content: Any) -> Edit:
    """The inverse of ``Edit.to_dict``.

    Raises:
        FormatError: not an edit.
    """
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("edit"), str)
        or content["edit"] not in _KINDS
    ):
        raise FormatError(
            f"an edit is an object whose 'edit' is one of {', '.join(_KINDS)}; got {content!r}"
        )
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


def _from_run(
    run: Run, edit: FeatureEdit, acts: Tensor, where: Tensor, window: Window, site: str
) -> Tensor:
    """The activations of the edit's features in another run, at the same rows and positions; ``acts`` where it kept none."""
    known = (
        window.of(run.mask(site), f"the run to take activations from at {site}", acts)
        != 0
    )
    # In cached generation a run of the prompt ends before what is generated; in a run of whole texts it should not.
    missing = where & ~known
    if not window.start and holds_numbers(missing) and missing.any():
        missing = missing.any(0).nonzero().flatten().tolist()
        raise ShapeMismatch(
            f"{edit!r} reaches positions {_shown(tuple(missing))}, where the run it takes activations from kept none at {site}; choose "
            "positions=, or capture that run on as long a text and with the positions that are needed"
        )
    new = window.of(
        run.activations(site, edit.ids),
        f"the run to take activations from at {site}",
        acts,
    )
    return torch.where(known.unsqueeze(-1), new, acts)


def _number(value: Any, name: str) -> float:
    number = as_python(value)
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        or not abs(number) <= _LARGEST
    ):
        raise InvalidArgument(f"{name} must be a finite number; got {value!r}")
    return float(number)


def _numbers(values: Any, name: str, n: int | None = None) -> tuple[float, ...]:
    if isinstance(values, Tensor) and values.requires_grad:
        raise InvalidArgument(
            f"{name} is a tensor that wants a gradient, and edits hold plain numbers; give {name}.detach()"
        )
    given = as_python(values)
    if (
        not isinstance(given, list | tuple)
        or not given
        or (n is not None and len(given) != n)
    ):
        wanted = (
            "several numbers"
            if n is None
            else f"one number, or one for each of the {n} features"
        )
        raise InvalidArgument(f"{name} must be {wanted}; got {_shown(values)}")
    return tuple(_number(value, f"each of {name}") for value in given)


def _number_or_numbers(value: Any, name: str, n: int) -> float | tuple[float, ...]:
    several = isinstance(as_python(value), list | tuple) or (
        isinstance(value, Tensor) and value.requires_grad
    )
    return _numbers(value, name, n) if several else _number(value, name)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 12:
        kind = "rows" if isinstance(value[0], tuple) else "numbers"
        return f"<{len(value)} {kind}>"
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
