"""A TopK sparse autoencoder that takes k as an argument."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import (
    FormatError,
    InvalidArgument,
    InvalidK,
    NonFinite,
    ShapeMismatch,
    closest,
)
from sae_lens_ext.formats import SAECheckpoint, locate, read_sae, write_saelens
from sae_lens_ext.kernels import holds_numbers, sparse_decode, topk_encode
from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.config import SAEConfig

_FIELDS_IN_METADATA = ("hook_name", "model_name", "exclude_special_tokens")


class SAE(nn.Module):
    """A sparse autoencoder whose k is chosen with every call.

    >>> sae = SAE(SAEConfig(d_model=8, d_sae=32, k=4), generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    >>> sae(x, k=2).shape, sae.encode(x)
    (torch.Size([2, 5, 8]), SparseCode(batch=[2, 5], k=4, d_sae=32))

    With u = (x - activation_mean) * activation_scale, the k features of an activation x are those with the largest
    (u - b_dec) @ W_enc + b_enc, after ReLU, and its reconstruction is (values @ W_dec[features] + b_dec) / activation_scale +
    activation_mean. The two constants are 0 and 1 unless training set them; ``folded`` moves them into the weights.

    Attributes:
        W_enc: encoder, ``[d_model, d_sae]``; stored feature by feature, so ``W_enc.T`` is contiguous.
        b_enc: encoder bias, ``[d_sae]``.
        W_dec: decoder rows, ``[d_sae, d_model]``; training keeps them at unit norm.
        b_dec: decoder bias, ``[d_model]``.
        activation_mean: centre of the activations, ``[d_model]``.
        activation_scale: factor that brings them to a common size, a scalar.

    Source: Gao et al. 2024 (TopK SAE); Balagansky, Aksenov et al. 2025 (one SAE at every k).
    """

    def __init__(
        self,
        config: SAEConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Random unit-norm decoder rows, the encoder equal to them (tied at the start only), zero biases."""
        super().__init__()
        self.config = config
        rows = torch.randn(
            config.d_sae, config.d_model, generator=generator, dtype=dtype
        )
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(rows.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_model, dtype=dtype))
        self.register_buffer(
            "activation_mean", torch.zeros(config.d_model, dtype=dtype)
        )
        self.register_buffer("activation_scale", torch.ones((), dtype=dtype))
        self.activation_mean: Tensor
        self.activation_scale: Tensor

    @classmethod
    def from_tensors(
        cls,
        config: SAEConfig,
        W_enc: Float[Tensor, "d_model d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        activation_mean: Float[Tensor, " d_model"] | None = None,
        activation_scale: Float[Tensor, ""] | None = None,
    ) -> "SAE":
        """An SAE with copies of these weights.

        Raises:
            ShapeMismatch: a tensor does not have the shape that the config asks for.
        """
        with torch.device("meta"):
            sae = cls(config)
        mixed = {tensor.dtype for tensor in (W_enc, b_enc, W_dec, b_dec)}
        if len(mixed) > 1:
            raise InvalidArgument(
                f"the weights of an SAE must be of one dtype; got {', '.join(sorted(map(str, mixed)))}"
            )
        given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        for name, tensor in given.items():
            wanted = getattr(sae, name).shape
            if tensor.shape != wanted:
                raise ShapeMismatch(
                    f"{name} must be {list(wanted)} for d_model={config.d_model}, d_sae={config.d_sae}; got {list(tensor.shape)}"
                )
            rows = tensor.detach().T if name == "W_enc" else tensor.detach()
            rows = rows.clone(memory_format=torch.contiguous_format)
            setattr(sae, name, nn.Parameter(rows.T if name == "W_enc" else rows))
        mean = (
            b_dec.new_zeros(config.d_model)
            if activation_mean is None
            else activation_mean
        )
        scale = (
            b_dec.new_ones(())
            if activation_scale is None
            else torch.as_tensor(activation_scale, dtype=b_dec.dtype)
        )
        if mean.shape != b_dec.shape or scale.shape != () or not scale > 0:
            raise ShapeMismatch(
                f"activation_mean must be [{config.d_model}] and activation_scale one number above 0; "
                f"got {list(mean.shape)} and {scale.tolist()}"
            )
        sae.activation_mean, sae.activation_scale = (
            mean.detach().clone(),
            scale.detach().clone(),
        )
        return sae

    def encode(
        self,
        x: Float[Tensor, "*batch d_model"],
        k: int | None = None,
        *,
        extrapolate: bool = False,
    ) -> SparseCode:
        """The k strongest features of every activation, strongest first.

        Args:
            x: activations, of any dtype; computed in the SAE's own.
            k: how many features to keep; None means the trained maximum.
            extrapolate: allow a k above the trained maximum.

        Raises:
            InvalidK: a k this SAE cannot serve.
            ShapeMismatch: the last axis of x is not d_model.
            NonFinite: x holds NaN or infinity.
        """
        k = self.config.checked_k(k, extrapolate=extrapolate)
        return self.encode_normalized(self.normalized(x), k)

    def encode_normalized(
        self, u: Float[Tensor, "*batch d_model"], k: int
    ) -> SparseCode:
        """The code of activations that are ``normalized`` already; no k is refused that the dictionary has."""
        centre = self.b_dec if self.config.apply_b_dec_to_input else None
        values, indices = topk_encode(u, self.W_enc, self.b_enc, k, centre=centre)
        return SparseCode(values, indices, self.config.d_sae)

    def normalized(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Activations in the SAE's dtype, centred and scaled."""
        if not isinstance(x, Tensor):
            raise InvalidArgument(
                f"{self._name()} reads tensors; got a {type(x).__name__}"
            )
        if x.ndim < 1 or x.shape[-1] != self.config.d_model:
            raise ShapeMismatch(
                f"{self._name()} reads activations of width d_model={self.config.d_model}; got {list(x.shape)}"
            )
        if holds_numbers(x) and not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x)).sum())
            raise NonFinite(
                f"{bad} of {x.numel()} numbers in the activations given to {self._name()} are NaN or infinite; look upstream of it"
            )
        return (x.to(self.W_enc.dtype) - self.activation_mean) * self.activation_scale

    def decode(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """The reconstruction from a code, or from any prefix of it."""
        if code.d_sae != self.config.d_sae:
            raise ShapeMismatch(
                f"the code is over {code.d_sae} features, this SAE has {self.config.d_sae}; was it made by another SAE?"
            )
        recons = sparse_decode(code.values, code.indices, self.W_dec, self.b_dec)
        return recons / self.activation_scale + self.activation_mean

    def contribution(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """What the features of a code add to a reconstruction: ``decode`` without its constants, so linear in the values."""
        recons = sparse_decode(
            code.values, code.indices, self.W_dec, torch.zeros_like(self.b_dec)
        )
        return recons / self.activation_scale

    def contribution_of(
        self, acts: Float[Tensor, "*batch features"], features: Sequence[int]
    ) -> Float[Tensor, "*batch d_model"]:
        """The same for activations of a few features, side by side."""
        return (
            acts
            @ self.W_dec[torch.as_tensor(features, device=self.W_dec.device)]
            / self.activation_scale
        )

    def prefix_errors(
        self, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Float[Tensor, "*batch levels"]:
        """Squared errors of every prefix of a code, from the empty one to all of it, in normalised units; ``levels`` is k + 1."""
        residual = self.normalized(x) - self.b_dec
        errors = [residual.square().sum(-1)]
        for rank in range(code.k):
            residual = (
                residual
                - code.values[..., rank : rank + 1]
                * self.W_dec[code.indices[..., rank]]
            )
            errors.append(residual.square().sum(-1))
        return torch.stack(errors, dim=-1)

    def forward(
        self,
        x: Float[Tensor, "*batch d_model"],
        k: int | None = None,
        *,
        extrapolate: bool = False,
    ) -> Float[Tensor, "*batch d_model"]:
        """Reconstruct x from its k strongest features; arguments and errors as in ``encode``."""
        return self.decode(self.encode(x, k, extrapolate=extrapolate))

    def nested(
        self,
        x: Float[Tensor, "*batch d_model"],
        ks: Sequence[int],
        *,
        extrapolate: bool = False,
    ) -> dict[int, Float[Tensor, "*batch d_model"]]:
        """Reconstructions at several k from one encode: ``nested(x, ks)[k]`` equals ``self(x, k)``.

        Raises:
            InvalidK: no k, or one this SAE cannot serve.
        """
        if not isinstance(ks, Iterable) or isinstance(ks, str):
            raise InvalidK(f"nested takes a list of values of k; got {ks!r}")
        ks = list(ks)
        if not ks:
            raise InvalidK("nested needs at least one k; got none")
        checked = [self.config.checked_k(k, extrapolate=extrapolate) for k in ks]
        code = self.encode(x, max(checked), extrapolate=extrapolate)
        return {k: self.decode(code.prefix(k)) for k in checked}

    def folded(self) -> "SAE":
        """The same function with the activation's mean and scale moved into the weights, and features in units of the activations.

        ReLU and the choice of the k largest do not change when every pre-activation is divided by the scale, so only the
        biases move: the decoder rows keep their norm.
        """
        b_enc = self.b_enc / self.activation_scale
        if not self.config.apply_b_dec_to_input:
            b_enc = b_enc - self.activation_mean @ self.W_enc
        b_dec = self.b_dec / self.activation_scale + self.activation_mean
        return self.from_tensors(self.config, self.W_enc, b_enc, self.W_dec, b_dec)

    def unfolded(
        self,
        activation_mean: Float[Tensor, " d_model"],
        activation_scale: Float[Tensor, ""],
    ) -> "SAE":
        """The inverse of ``folded``: take these constants out of the weights of an SAE whose own are 0 and 1.

        Raises:
            InvalidArgument: its own are others.
        """
        if self._is_normalized():
            raise InvalidArgument(
                "this SAE has an activation_mean or activation_scale of its own; call folded() first"
            )
        b_enc = (
            self.b_enc
            if self.config.apply_b_dec_to_input
            else self.b_enc + activation_mean @ self.W_enc
        )
        b_dec = (self.b_dec - activation_mean) * activation_scale
        return self.from_tensors(
            self.config,
            self.W_enc,
            b_enc * activation_scale,
            self.W_dec,
            b_dec,
            activation_mean,
            activation_scale,
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that this package and SAELens 6 (``SAE.load_from_disk``) can read; returns it.

        The weights are stored folded, which is what SAELens understands; the constants go into a file of their own. Files are
        replaced one by one, each in one step.

        Raises:
            NonFinite: the weights hold NaN or infinity; nothing is written.
        """
        sae = self.folded() if self._is_normalized() else self
        tensors = {
            "W_enc": sae.W_enc,
            "b_enc": sae.b_enc,
            "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
        }
        constants = {
            "activation_mean": self.activation_mean,
            "activation_scale": self.activation_scale,
        }
        config = self.config
        metadata = {
            **config.metadata,
            **{name: getattr(config, name) for name in _FIELDS_IN_METADATA},
        }
        checkpoint = SAECheckpoint(
            d_model=config.d_model,
            d_sae=config.d_sae,
            k=config.k,
            levels=config.levels,
            apply_b_dec_to_input=config.apply_b_dec_to_input,
            tensors=tensors,
            normalization=constants if self._is_normalized() else {},
            metadata=metadata,
        )
        return write_saelens(folder, checkpoint)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        folded: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> "SAE":
        """Load an SAE from a folder, or from a Hugging Face repository ``owner/name``.

        Args:
            folder_or_repo: a folder that this package, SAELens 6 (architecture topk) or sparsify wrote, or a repository with one.
            subfolder: where in it the SAE is, when not at the top.
            revision: branch, tag or commit of the repository.
            folded: whether the activation's mean and scale stay inside the weights (fastest, features in units of the
                activations) or are taken out again, as in training.
            device: where to put the weights.
            dtype: what to cast them to, as a torch dtype or its name; None keeps the file's.

        Raises:
            FormatError: not an SAE folder, or a damaged one.
            NonFinite: the weights hold NaN or infinity.
        """
        floating = None if dtype is None else arguments.dtype(dtype)
        checkpoint = read_sae(
            locate(folder_or_repo, subfolder=subfolder, revision=revision)
        )
        metadata = dict(checkpoint.metadata)
        known = {name: metadata.pop(name, None) for name in _FIELDS_IN_METADATA}
        try:
            config = SAEConfig(
                d_model=checkpoint.d_model,
                d_sae=checkpoint.d_sae,
                k=checkpoint.k,
                levels=checkpoint.levels,
                apply_b_dec_to_input=checkpoint.apply_b_dec_to_input,
                metadata=metadata,
                **{name: value for name, value in known.items() if value is not None},
            )
        except (InvalidArgument, InvalidK) as error:
            raise FormatError(
                f"the cfg.json of {folder_or_repo} does not describe an SAE: {error}"
            ) from error
        sae = cls.from_tensors(config, **checkpoint.tensors)
        if checkpoint.normalization and not folded:
            sae = sae.unfolded(**checkpoint.normalization)
        return sae.to(device=device, dtype=floating).eval()

    def with_config(self, **changes: object) -> "SAE":
        """The same weights (shared, not copied) with some fields of the config replaced, such as ``hook_name``."""
        unchangeable = {"d_model", "d_sae", "apply_b_dec_to_input"} & changes.keys()
        if unchangeable:
            raise InvalidArgument(
                f"{', '.join(sorted(unchangeable))} belong to the weights and cannot be replaced"
            )
        names = [field.name for field in fields(self.config)]
        unknown = [name for name in changes if name not in names]
        if unknown:
            raise InvalidArgument(
                f"an SAE's config has no {unknown[0]!r}; the closest: {closest(unknown[0], names)}"
            )
        sae = copy.copy(self)
        # The memory is shared; the parameters that point to it are not, so that moving or casting the copy leaves this one as it is.
        sae._parameters = {
            name: nn.Parameter(tensor.detach(), tensor.requires_grad)
            for name, tensor in self.named_parameters()
        }
        sae._buffers = dict(self._buffers)
        sae.config = replace(self.config, **changes)
        return sae

    def extra_repr(self) -> str:
        """One line for notebooks."""
        config = self.config
        return f"d_model={config.d_model}, d_sae={config.d_sae}, k={config.k}, hook_name={config.hook_name!r}"

    def _is_normalized(self) -> bool:
        return bool(self.activation_scale != 1) or bool(self.activation_mean.any())

    def _name(self) -> str:
        return (
            f"the SAE of {self.config.hook_name}"
            if self.config.hook_name
            else "this SAE"
        )
