"""The tensors that an SAE is made of: their names, checks, copies and first values."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae.config import SAEConfig

ModuleT = TypeVar("ModuleT", bound=nn.Module)

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
"""Names of an SAE's trained tensors."""

CONSTANTS = ("activation_mean", "activation_scale")
"""Names of the tensors that bring activations to a common centre and size."""


def check_weights(config: SAEConfig, **weights: Tensor) -> None:
    """Check the shapes and dtypes of the four weights, which are passed by name.

    Raises:
        InvalidArgument: the dtypes differ.
        ShapeMismatch: a shape is not the one that the config asks for.
    """
    dtypes = {str(tensor.dtype) for tensor in weights.values()}
    if len(dtypes) > 1:
        raise InvalidArgument(
            "the weights of an SAE must be of one dtype; got "
            f"{', '.join(sorted(dtypes))}"
        )

    d_model = config.d_model
    d_sae = config.d_sae
    expected_shapes = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    for name, expected_shape in expected_shapes.items():
        shape = list(weights[name].shape)
        if shape != expected_shape:
            raise ShapeMismatch(
                f"{name} must be {expected_shape} for d_model={d_model}, "
                f"d_sae={d_sae}; got {shape}"
            )


def checked_constants(
    b_dec: Tensor, mean: Tensor | None, scale: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """The mean and scale of the activations as tensors; 0 and 1 where they are None.

    Raises:
        ShapeMismatch: a wrong shape, or a scale that is not positive.
    """
    if mean is None:
        mean = torch.zeros_like(b_dec)
    if scale is None:
        scale = b_dec.new_ones(())
    else:
        scale = torch.as_tensor(scale, dtype=b_dec.dtype)

    # Written so that a scale of NaN is rejected too.
    if mean.shape != b_dec.shape or scale.shape != () or not scale > 0:
        raise ShapeMismatch(
            f"activation_mean must be {list(b_dec.shape)} and activation_scale one "
            f"positive number; got {list(mean.shape)} and {scale.tolist()}"
        )
    return mean, scale


def check_activations(x: object, config: SAEConfig) -> None:
    """Check the activations that the SAE with this config is to read.

    Raises:
        InvalidArgument: not a tensor.
        ShapeMismatch: the last axis is not d_model.
        NonFinite: NaN or infinity.
    """
    reader = f"the SAE of {config.hook_name}" if config.hook_name else "this SAE"
    if not isinstance(x, Tensor):
        raise InvalidArgument(
            f"{reader} reads tensors; got an object of type {type(x).__name__}"
        )
    if x.ndim < 1 or x.shape[-1] != config.d_model:
        raise ShapeMismatch(
            f"{reader} reads activations of width d_model={config.d_model}; got "
            f"{list(x.shape)}"
        )
    # Tensors without numbers come from torch.compile and nnsight's scan.
    if holds_numbers(x) and not torch.isfinite(x).all():
        n_bad = int((~torch.isfinite(x)).sum())
        raise NonFinite(
            f"{n_bad} of {x.numel()} numbers in the activations given to {reader} are "
            "NaN or infinite; look upstream of it"
        )


def contiguous_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy without a graph."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def random_unit_rows(
    config: SAEConfig, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    """Random decoder rows of unit norm, ``[d_sae, d_model]``."""
    shape = (config.d_sae, config.d_model)
    rows = torch.randn(shape, generator=generator, dtype=dtype)
    rows /= rows.norm(dim=1, keepdim=True)
    return rows


def with_shared_tensors(module: ModuleT) -> ModuleT:
    """A copy of a module without submodules that shares the memory of its tensors.

    The parameters that point to the memory are not shared, so that moving or casting
    the copy leaves the module as it is.
    """
    twin = copy.copy(module)
    parameters = {}
    for name, tensor in module.named_parameters():
        parameters[name] = nn.Parameter(tensor.detach(), tensor.requires_grad)
    twin._parameters = parameters
    twin._buffers = dict(module._buffers)
    return twin
