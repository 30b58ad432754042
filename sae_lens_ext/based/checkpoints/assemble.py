"""From published tensors to a model: compared first, all of them, and then put in place."""

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
_SHOWN = 6


def empty_model(config: BasedConfig) -> BasedForCausalLM:
    """A model without memory for its weights."""
    with torch.device("meta"):
        return BasedForCausalLM(config)


def expected_shapes(model: BasedForCausalLM, places: Places) -> dict[str, list[int]]:
    """Published name -> the shape it must have."""
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return {
        name: [sum(ours[part][0] for part in parts), *ours[parts[0]][1:]]
        for name, parts in places.items()
    }


def compare(found: Shapes, wanted: Shapes, where: str) -> None:
    """Refuse weights that are not exactly those wanted, naming what is wrong.

    Raises:
        FormatError: tensors are missing, of another shape, or of no use.
    """
    complaints = {
        "missing": [
            f"{name} {list(shape)}"
            for name, shape in wanted.items()
            if name not in found
        ],
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in found and list(found[name]) != list(shape)
        ],
        "not known": [
            f"{name} {list(shape)}"
            for name, shape in found.items()
            if name not in wanted
        ],
    }
    said = [
        f"{what}: {_shortened(names)}" for what, names in complaints.items() if names
    ]
    if said:
        raise FormatError(
            f"the weights of {where} are not those of the model that its config.json describes; {'; '.join(said)}"
        )


def fill(
    model: BasedForCausalLM,
    places: Places,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    where: str,
) -> BasedForCausalLM:
    """Put tensors that ``compare`` has passed into an empty model, which is ready to use then; ``weights`` is emptied on the way.

    Raises:
        FormatError: something else than floating point numbers.
        NonFinite: NaN or infinity.
    """
    kinds = {
        name: str(weights[name].dtype)
        for name in places
        if not weights[name].is_floating_point()
    }
    if kinds:
        raise FormatError(
            f"the weights of {where} must be floating point numbers; {_shortened([f'{n} is {k}' for n, k in kinds.items()])}"
        )
    refuse_non_finite({name: weights[name] for name in places}, where)
    dtype = (
        reduce(torch.promote_types, (weights[name].dtype for name in places))
        if dtype is None
        else dtype
    )
    rows = {name: parameter.shape[0] for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for name, parts in places.items():
        halves = weights.pop(name).to(dtype).split([rows[part] for part in parts])
        # Apart from each other in memory, as parameters are expected to be.
        state.update(
            zip(
                parts,
                halves if len(parts) == 1 else [half.clone() for half in halves],
                strict=True,
            )
        )
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
