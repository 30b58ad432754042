"""From published tensors to a model: all of them are compared, then put in place."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from sae_lens_ext.based.checkpoints.layouts import Places, Shapes
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.reading import refuse_non_finite

# How many tensors of a kind an error names.
_N_NAMED = 6


def empty_model(config: BasedConfig) -> BasedForCausalLM:
    """Make a model without memory for its weights."""
    with torch.device("meta"):
        return BasedForCausalLM(config)


def expected_shapes(model: BasedForCausalLM, places: Places) -> dict[str, list[int]]:
    """The shape that each published tensor must have, by its published name."""
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    expected = {}
    for name, parts in places.items():
        # Several parameters stand one under the other in a published tensor.
        n_rows = sum(ours[part][0] for part in parts)
        expected[name] = [n_rows, *ours[parts[0]][1:]]
    return expected


def compare(shapes: Shapes, expected: Shapes, where: str) -> None:
    """Check that tensors are exactly the expected ones, in their shapes.

    Args:
        shapes: of the published tensors.
        expected: what they must be.
        where: the folder, for the message.

    Raises:
        FormatError: tensors are missing, have another shape, or are unknown; the
            message names all three kinds.
    """
    missing = []
    reshaped = []
    for name, shape in expected.items():
        if name not in shapes:
            missing.append(f"{name} {list(shape)}")
        elif list(shapes[name]) != list(shape):
            reshaped.append(f"{name} {list(shapes[name])} instead of {list(shape)}")
    unknown = [
        f"{name} {list(shape)}"
        for name, shape in shapes.items()
        if name not in expected
    ]

    problems = {"missing": missing, "of another shape": reshaped, "unknown": unknown}
    stated = [
        f"{kind}: {_shortened(names)}" for kind, names in problems.items() if names
    ]
    if stated:
        raise FormatError(
            f"the weights of {where} are not those of the model that its config.json "
            f"describes; {'; '.join(stated)}"
        )


def fill(
    model: BasedForCausalLM,
    places: Places,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    where: str,
) -> BasedForCausalLM:
    """Put tensors that ``compare`` has passed into an empty model.

    Args:
        model: from ``empty_model``; it is ready to use afterwards.
        places: which parameters each tensor holds.
        weights: the tensors; emptied on the way, so that memory holds each once.
        dtype: of the parameters; None for the widest dtype of the tensors.
        where: the folder, for messages.

    Raises:
        FormatError: a tensor of another kind than floating point.
        NonFinite: NaN or infinity.
    """
    others = [
        f"{name} is {weights[name].dtype}"
        for name in places
        if not weights[name].is_floating_point()
    ]
    if others:
        raise FormatError(
            f"the weights of {where} must be floating-point numbers; "
            f"{_shortened(others)}"
        )
    refuse_non_finite({name: weights[name] for name in places}, where)
    if dtype is None:
        dtype = reduce(torch.promote_types, (weights[name].dtype for name in places))

    n_rows = {name: parameter.shape[0] for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for name, parts in places.items():
        tensors = weights.pop(name).to(dtype).split([n_rows[part] for part in parts])
        if len(parts) > 1:
            # Apart from each other in memory, as parameters are expected to be.
            tensors = [tensor.clone() for tensor in tensors]
        state.update(zip(parts, tensors, strict=True))

    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _shortened(names: Sequence[str]) -> str:
    text = ", ".join(names[:_N_NAMED])
    n_more = len(names) - _N_NAMED
    return f"{text} and {n_more} more" if n_more > 0 else text
