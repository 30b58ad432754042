"""The tensors that an SAE is made of: their names, checks, copies and first values."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.config import SAEConfig

ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONSTANTS = ("activation_mean", "activation_scale")
"""Names of the tensors that bring activations to a common centre and size."""


def weight_shapes(config: SAEConfig) -> dict[str, list[int]]:
    """Names and shapes of the trained tensors of an SAE."""
    d_model = config.d_model
    d_sae = config.d_sae
    d_out = config.output_width
    shapes = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, d_out],
        "b_dec": [d_out],
    }
    if config.has_threshold:
        shapes["threshold"] = [d_sae]
    if config.skip_connection:
        shapes["W_skip"] = [d_model, d_out]
    return shapes


def check_weights(config: SAEConfig, weights: Mapping[str, Tensor | None]) -> None:
    """Check the names, shapes and dtypes of the trained tensors.

    Args:
        config: the SAE's.
        weights: the tensors by name; None for one that the SAE does not have.

    Raises:
        InvalidArgument: a tensor is missing, or is not one of an SAE with this config;
            the dtypes differ.
        ShapeMismatch: a shape is not the one that the config asks for.
        NonFinite: float16 weights hold NaN or infinity.
    """
    tensors = {name: tensor for name, tensor in weights.items() if tensor is not None}
    expected_shapes = weight_shapes(config)
    if tensors.keys() != expected_shapes.keys():
        raise InvalidArgument(
            f"an SAE of kind {config.kind} with this config is made of "
            f"{', '.join(expected_shapes)}; got {', '.join(tensors)}"
        )

    dtypes = {str(tensor.dtype) for tensor in tensors.values()}
    if len(dtypes) > 1:
        raise InvalidArgument(
            "the weights of an SAE must be of one dtype; got "
            f"{', '.join(sorted(dtypes))}"
        )

    for name, expected_shape in expected_shapes.items():
        shape = list(tensors[name].shape)
        if shape != expected_shape:
            widths = f"d_model={config.d_model}, d_sae={config.d_sae}"
            if config.is_transcoder:
                widths += f", d_out={config.d_out}"
            raise ShapeMismatch(
                f"{name} must be {expected_shape} for {widths}; got {shape}"
            )
        if exceeds_float16(tensors[name]):
            raise NonFinite(
                f"{name} of this SAE holds numbers beyond what float16 holds (65504); "
                "keep its weights in float32 or bfloat16"
            )


def checked_constants(
    like: Tensor, mean: Tensor | None, scale: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """The mean and scale of the activations as tensors; 0 and 1 where they are None.

    ``like`` is a tensor ``[d_model]`` of the SAE's dtype and device.

    Raises:
        ShapeMismatch: a wrong shape, or a scale that is not positive.
    """
    if mean is None:
        mean = torch.zeros_like(like)
    if scale is None:
        scale = like.new_ones(())
    else:
        scale = torch.as_tensor(scale, dtype=like.dtype)

    # Written so that a scale of NaN is rejected too.
    if mean.shape != like.shape or scale.shape != () or not scale > 0:
        raise ShapeMismatch(
            f"activation_mean must be {list(like.shape)} and activation_scale one "
            f"positive number; got {list(mean.shape)} and {scale.tolist()}"
        )
    return mean, scale


def check_activations(x: object, config: SAEConfig) -> None:
    """Check that the SAE with this config can read activations of this shape.

    Raises:
        InvalidArgument: not a tensor.
        ShapeMismatch: the last axis is not d_model.
    """
    reader = _reader(config)
    if not isinstance(x, Tensor):
        raise InvalidArgument(
            f"{reader} reads tensors; got an object of type {type(x).__name__}"
        )
    if x.is_complex() or x.layout != torch.strided:
        raise InvalidArgument(
            f"{reader} reads dense tensors of real numbers; got {x.dtype}, {x.layout}"
        )
    if x.ndim < 1 or x.shape[-1] != config.d_model:
        raise ShapeMismatch(
            f"{reader} reads activations of width d_model={config.d_model}; got "
            f"{list(x.shape)}"
        )


def check_normalized(u: Tensor, x: Tensor, config: SAEConfig) -> None:
    """Check that what is encoded, ``u``, is finite; ``x`` is what it was made from.

    Raises:
        NonFinite: NaN or infinity.
    """
    # Tensors without numbers come from torch.compile and nnsight's scan.
    if not holds_numbers(u) or torch.isfinite(u).all():
        return

    reader = _reader(config)
    n_bad = int((~torch.isfinite(x)).sum())
    if n_bad:
        raise NonFinite(
            f"{n_bad} of {x.numel()} numbers in the activations given to {reader} are "
            "NaN or infinite; look upstream of it"
        )
    n_beyond = int((~torch.isfinite(u)).sum())
    dtype = str(u.dtype).removeprefix("torch.")
    raise NonFinite(
        f"{n_beyond} of {u.numel()} numbers in the activations given to {reader} are "
        f"beyond what its {dtype} holds ({torch.finfo(u.dtype).max:g}); use it in a "
        "wider dtype, such as float32"
    )


def check_code(code: object, config: SAEConfig) -> None:
    """Check that the SAE with this config can decode a code.

    Raises:
        InvalidArgument: not a code; or one without the statistics of its tokens, for an
            SAE that normalises tokens.
        ShapeMismatch: the code is over another number of features.
    """
    if not isinstance(code, SparseCode):
        raise InvalidArgument(
            "decode takes a SparseCode, as encode returns it; got an object of type "
            f"{type(code).__name__}"
        )
    if code.d_sae != config.d_sae:
        raise ShapeMismatch(
            f"the code is over {code.d_sae} features, this SAE has {config.d_sae}; was "
            "it made by another SAE?"
        )
    if config.token_norm != "none" and code.statistics is None:
        raise InvalidArgument(
            "this SAE normalises every token, so it decodes codes of its own encode, "
            "which have the statistics of their tokens; this one has none"
        )


def _reader(config: SAEConfig) -> str:
    return f"the SAE of {config.hook_name}" if config.hook_name else "this SAE"


def exceeds_float16(tensor: Tensor) -> bool:
    """Whether float16 could not hold what was computed in it.

    It ends at 65504, which activations of large models exceed. In other dtypes finite
    inputs give finite results, and nothing is looked at.
    """
    if tensor.dtype != torch.float16 or not holds_numbers(tensor):
        return False
    return not torch.isfinite(tensor).all()


def in_dtype(dtype: torch.dtype, tensors: Sequence[Tensor | None]) -> list[Any]:
    """Tensors in a dtype, without a copy where they have it; None stays None."""
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


def matrices_in_dtype(
    dtype: torch.dtype, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The matrices among the weights of an SAE in a dtype, without a graph."""
    return {
        name: tensor.detach().to(dtype)
        for name, tensor in weights.items()
        if tensor.ndim == 2
    }


def contiguous_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy without a graph."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def random_unit_rows(
    n_rows: int, width: int, generator: torch.Generator | None, dtype: torch.dtype
) -> Float[Tensor, "rows width"]:
    """Random rows of unit norm."""
    rows = torch.randn(n_rows, width, generator=generator, dtype=dtype)
    rows /= rows.norm(dim=1, keepdim=True)
    return rows


def with_shared_tensors(module: ModuleT) -> ModuleT:
    """A copy of a module without submodules that shares the memory of its tensors.

    The parameters that point to the memory are not shared, so that moving or casting
    the copy leaves the module as it is.
    """
    twin = copy.copy(module)
    parameters = {}
    for name, tensor in module._parameters.items():
        parameter = None
        if tensor is not None:
            parameter = nn.Parameter(tensor.detach(), tensor.requires_grad)
        parameters[name] = parameter
    twin._parameters = parameters
    twin._buffers = dict(module._buffers)
    return twin


def with_tensors(module: ModuleT, tensors: Mapping[str, Tensor]) -> ModuleT:
    """A copy of a module with some of its parameters replaced, each in its dtype.

    The others share the module's memory, as in ``with_shared_tensors``.
    """
    twin = with_shared_tensors(module)
    for name, tensor in tensors.items():
        dtype = getattr(module, name).dtype
        twin._parameters[name] = nn.Parameter(tensor.to(dtype))
    return twin
