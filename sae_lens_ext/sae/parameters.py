"""The tensors of an SAE as a torch module, and the same SAE in other tensors."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.sae.config import SAEConfig
from sae_lens_ext.sae.folding import fold, unfold
from sae_lens_ext.sae.tensors import (
    check_weights,
    checked_constants,
    contiguous_copy,
    random_unit_rows,
    weight_shapes,
    with_shared_tensors,
)

# Not typing.Self, which the run-time shape checks of the tests do not know.
SelfT = TypeVar("SelfT", bound="SAEParameters")


class SAEParameters(nn.Module):
    """The tensors that an SAE with a config is made of; see ``SAE``."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    threshold: nn.Parameter | None
    W_skip: nn.Parameter | None
    activation_mean: Tensor
    activation_scale: Tensor

    def __init__(
        self,
        config: SAEConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make an untrained SAE.

        Decoder rows are random with unit norm. The encoder starts equal to them (and is
        not tied afterwards), except in a transcoder, whose input is of another kind.
        Biases, thresholds and the skip connection are zero.

        Raises:
            InvalidArgument: ``config`` is not an ``SAEConfig``.
        """
        super().__init__()
        if not isinstance(config, SAEConfig):
            raise InvalidArgument(
                "an SAE is made from an SAEConfig; got an object of type "
                f"{type(config).__name__}"
            )
        self.config = config
        d_sae = config.d_sae
        rows = random_unit_rows(d_sae, config.output_width, generator, dtype)
        if config.is_transcoder:
            columns = random_unit_rows(d_sae, config.d_model, generator, dtype)
        else:
            columns = rows.clone()
        # A view of a contiguous [d_sae, d_model]: sparse gradients write its rows.
        self.W_enc = nn.Parameter(columns.T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.output_width, dtype=dtype))

        for name in ("threshold", "W_skip"):
            shape = weight_shapes(config).get(name)
            parameter = None
            if shape is not None:
                parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
            self.register_parameter(name, parameter)

        mean = torch.zeros(config.d_model, dtype=dtype)
        scale = torch.ones((), dtype=dtype)
        self.register_buffer("activation_mean", mean)
        self.register_buffer("activation_scale", scale)

    @classmethod
    def from_tensors(
        cls: type[SelfT],
        config: SAEConfig,
        W_enc: Float[Tensor, "d_model d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        W_dec: Float[Tensor, "d_sae d_out"],
        b_dec: Float[Tensor, " d_out"],
        activation_mean: Float[Tensor, " d_model"] | None = None,
        activation_scale: Float[Tensor, ""] | None = None,
        *,
        threshold: Float[Tensor, " d_sae"] | None = None,
        W_skip: Float[Tensor, "d_model d_out"] | None = None,
    ) -> SelfT:
        """An SAE with copies of these weights.

        Raises:
            ShapeMismatch: a tensor does not have the shape that the config asks for.
            InvalidArgument: the weights have different dtypes; one that the config asks
                for is missing, or the other way round; or a transcoder has constants.
            NonFinite: float16 weights hold NaN or infinity.
        """
        # On meta, because every tensor is replaced at once.
        with torch.device("meta"):
            sae = cls(config)
        weights = {
            "W_enc": W_enc,
            "b_enc": b_enc,
            "W_dec": W_dec,
            "b_dec": b_dec,
            "threshold": threshold,
            "W_skip": W_skip,
        }
        check_weights(config, weights)
        has_constants = activation_mean is not None or activation_scale is not None
        if config.is_transcoder and has_constants:
            raise InvalidArgument(
                "activation_mean and activation_scale are those of an autoencoder, "
                "which writes what it reads; fold a transcoder's into its weights"
            )
        mean, scale = checked_constants(W_enc[:, 0], activation_mean, activation_scale)

        sae.W_enc = nn.Parameter(contiguous_copy(W_enc.T).T)
        for name, tensor in weights.items():
            if name != "W_enc" and tensor is not None:
                setattr(sae, name, nn.Parameter(contiguous_copy(tensor)))
        sae.activation_mean = mean.detach().clone()
        sae.activation_scale = scale.detach().clone()
        return sae

    def folded(self: SelfT) -> SelfT:
        """The same function with activation_mean and activation_scale in the weights.

        Its features are in units of the activations; the decoder rows keep their norm.
        """
        weights = fold(
            self.weights(),
            self.activation_mean,
            self.activation_scale,
            has_pre_bias=bool(self.config.apply_b_dec_to_input),
        )
        # Without constants, which are then 0 and 1.
        return self.from_tensors(self.config, **weights)

    def unfolded(
        self: SelfT,
        activation_mean: Float[Tensor, " d_model"],
        activation_scale: Float[Tensor, ""],
    ) -> SelfT:
        """The inverse of ``folded``: the same function with these constants of its own.

        Raises:
            InvalidArgument: this SAE already has constants other than 0 and 1, or is a
                transcoder.
        """
        if self.is_normalized():
            raise InvalidArgument(
                "this SAE has an activation_mean or activation_scale of its own; call "
                "folded() first"
            )
        tensors = unfold(
            self.weights(),
            activation_mean,
            activation_scale,
            has_pre_bias=bool(self.config.apply_b_dec_to_input),
        )
        return self.from_tensors(self.config, **tensors)

    def with_config(self: SelfT, **changes: object) -> SelfT:
        """The same weights with some fields of the config replaced.

        For instance ``hook_name``. The weights are shared, not copied.

        Raises:
            InvalidArgument: no such field, or one that belongs to the weights.
        """
        config = self.config.with_changes(**changes)
        sae = with_shared_tensors(self)
        sae.config = config
        return sae

    def weights(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {name: getattr(self, name) for name in weight_shapes(self.config)}

    def is_normalized(self) -> bool:
        """Whether activation_mean or activation_scale are other than 0 and 1."""
        is_scaled = bool(self.activation_scale != 1)
        return is_scaled or bool(self.activation_mean.any())

    def extra_repr(self) -> str:
        """One line for notebooks."""
        names = ["d_model", "d_sae", "k", "hook_name"]
        if self.config.k is None:
            names[2] = "kind"
        if self.config.is_transcoder:
            names += ["d_out", "hook_name_out"]
        return ", ".join(f"{name}={getattr(self.config, name)!r}" for name in names)
