"""A TopK sparse autoencoder that takes k as an argument."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import sparse_decode, topk_encode
from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.config import SAEConfig
from sae_lens_ext.sae.folding import fold, unfold
from sae_lens_ext.sae.prefixes import squared_errors
from sae_lens_ext.sae.pretrained import read_pretrained, write_pretrained
from sae_lens_ext.sae.tensors import (
    CONSTANTS,
    WEIGHTS,
    check_activations,
    check_weights,
    checked_constants,
    contiguous_copy,
    random_unit_rows,
    with_shared_tensors,
)


class SAE(nn.Module):
    """A sparse autoencoder whose k is chosen with every call.

    >>> config = SAEConfig(d_model=8, d_sae=32, k=4)
    >>> sae = SAE(config, generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    >>> sae(x, k=2).shape, sae.encode(x)
    (torch.Size([2, 5, 8]), SparseCode(batch=[2, 5], k=4, d_sae=32))

    With u = (x - activation_mean) * activation_scale, the k features of an activation x
    are those with the largest (u - b_dec) @ W_enc + b_enc, after ReLU, and its
    reconstruction is (values @ W_dec[features] + b_dec) / activation_scale +
    activation_mean. The two constants are 0 and 1 unless training set them; ``folded``
    moves them into the weights.

    Attributes:
        config: the choices behind it.
        W_enc: encoder, ``[d_model, d_sae]``; stored feature by feature, so ``W_enc.T``
            is contiguous.
        b_enc: encoder bias, ``[d_sae]``.
        W_dec: decoder rows, ``[d_sae, d_model]``; training keeps them at unit norm.
        b_dec: decoder bias, ``[d_model]``.
        activation_mean: centre of the activations, ``[d_model]``.
        activation_scale: factor that brings them to a common size, a scalar.

    Source: Gao et al. 2024 (TopK SAE); Balagansky, Aksenov et al. 2025 (one SAE at
    every k).
    """

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

        Decoder rows are random with unit norm, the encoder starts equal to them (and is
        not tied afterwards), and biases are zero.
        """
        super().__init__()
        self.config = config
        rows = random_unit_rows(config, generator, dtype)
        # A view of a contiguous [d_sae, d_model]: sparse gradients write its rows.
        self.W_enc = nn.Parameter(rows.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_model, dtype=dtype))

        mean = torch.zeros(config.d_model, dtype=dtype)
        scale = torch.ones((), dtype=dtype)
        self.register_buffer("activation_mean", mean)
        self.register_buffer("activation_scale", scale)

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
            InvalidArgument: the weights have different dtypes.
        """
        check_weights(config, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec)
        mean, scale = checked_constants(b_dec, activation_mean, activation_scale)

        # On meta, because every tensor is replaced at once.
        with torch.device("meta"):
            sae = cls(config)
        sae.W_enc = nn.Parameter(contiguous_copy(W_enc.T).T)
        sae.b_enc = nn.Parameter(contiguous_copy(b_enc))
        sae.W_dec = nn.Parameter(contiguous_copy(W_dec))
        sae.b_dec = nn.Parameter(contiguous_copy(b_dec))
        sae.activation_mean = mean.detach().clone()
        sae.activation_scale = scale.detach().clone()
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
            InvalidK: k is not an integer from 1 to d_sae, or above the trained maximum.
            ShapeMismatch: the last axis of x is not d_model.
            NonFinite: x holds NaN or infinity.
        """
        k = self.config.checked_k(k, extrapolate=extrapolate)
        u = self.normalized(x)
        return self.encode_normalized(u, k)

    def encode_normalized(
        self, u: Float[Tensor, "*batch d_model"], k: int
    ) -> SparseCode:
        """The code of ``normalized`` activations, at any k up to d_sae."""
        centre = None
        if self.config.apply_b_dec_to_input:
            centre = self.b_dec
        values, indices = topk_encode(u, self.W_enc, self.b_enc, k, centre=centre)
        return SparseCode(values, indices, self.config.d_sae)

    def normalized(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Activations in the SAE's dtype, centred and scaled; see ``encode``."""
        check_activations(x, self.config)
        x = x.to(self.W_enc.dtype)
        x = x - self.activation_mean
        return x * self.activation_scale

    def decode(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """The reconstruction from a code, or from any prefix of it.

        Raises:
            ShapeMismatch: the code is over another number of features.
        """
        if code.d_sae != self.config.d_sae:
            raise ShapeMismatch(
                f"the code is over {code.d_sae} features, this SAE has "
                f"{self.config.d_sae}; was it made by another SAE?"
            )
        recons = sparse_decode(code.values, code.indices, self.W_dec, self.b_dec)
        recons = recons / self.activation_scale
        return recons + self.activation_mean

    def contribution(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """What the features of a code add to a reconstruction.

        This is ``decode`` without its constants, so it is linear in the values.
        """
        without_bias = torch.zeros_like(self.b_dec)
        recons = sparse_decode(code.values, code.indices, self.W_dec, without_bias)
        return recons / self.activation_scale

    def contribution_of(
        self, acts: Float[Tensor, "*batch features"], features: Sequence[int]
    ) -> Float[Tensor, "*batch d_model"]:
        """What a few features add to a reconstruction, from their activations."""
        numbers = torch.as_tensor(features, device=self.W_dec.device)
        rows = self.W_dec[numbers]
        recons = acts @ rows
        return recons / self.activation_scale

    def prefix_errors(
        self, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Float[Tensor, "*batch levels"]:
        """Squared errors of every prefix of a code, in normalised units.

        There are k + 1 ``levels``, from the empty prefix to the whole code.
        """
        residual = self.normalized(x) - self.b_dec
        return squared_errors(residual, code, self.W_dec)

    def forward(
        self,
        x: Float[Tensor, "*batch d_model"],
        k: int | None = None,
        *,
        extrapolate: bool = False,
    ) -> Float[Tensor, "*batch d_model"]:
        """Reconstruct x from its k strongest features; see ``encode``."""
        code = self.encode(x, k, extrapolate=extrapolate)
        return self.decode(code)

    def nested(
        self,
        x: Float[Tensor, "*batch d_model"],
        ks: Sequence[int],
        *,
        extrapolate: bool = False,
    ) -> dict[int, Float[Tensor, "*batch d_model"]]:
        """Reconstructions at several k from one encode.

        ``nested(x, ks)[k]`` equals ``self(x, k)``.

        Raises:
            InvalidK: ``ks`` is empty or not a list, or holds an invalid k.
        """
        ks = self.config.checked_ks(ks, extrapolate=extrapolate)
        code = self.encode(x, max(ks), extrapolate=extrapolate)

        return {k: self.decode(code.prefix(k)) for k in ks}

    def folded(self) -> "SAE":
        """The same function with activation_mean and activation_scale in the weights.

        Its features are in units of the activations; the decoder rows keep their norm.
        """
        weights = fold(
            self._weights(),
            self.activation_mean,
            self.activation_scale,
            has_pre_bias=self.config.apply_b_dec_to_input,
        )
        # Without constants, which are then 0 and 1.
        return self.from_tensors(self.config, **weights)

    def unfolded(
        self,
        activation_mean: Float[Tensor, " d_model"],
        activation_scale: Float[Tensor, ""],
    ) -> "SAE":
        """The inverse of ``folded``: the same function with these constants of its own.

        Raises:
            InvalidArgument: this SAE already has constants other than 0 and 1.
        """
        if self._is_normalized():
            raise InvalidArgument(
                "this SAE has an activation_mean or activation_scale of its own; call "
                "folded() first"
            )
        tensors = unfold(
            self._weights(),
            activation_mean,
            activation_scale,
            has_pre_bias=self.config.apply_b_dec_to_input,
        )
        return self.from_tensors(self.config, **tensors)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that this package and SAELens 6 can read; returns it.

        The weights are stored folded, as ``SAE.load_from_disk`` of SAELens expects; the
        constants go into a file of their own. Each file is replaced in one step.

        Raises:
            NonFinite: the weights hold NaN or infinity. Nothing is written.
        """
        if not self._is_normalized():
            return write_pretrained(folder, self.config, self._weights(), {})
        constants = {name: getattr(self, name) for name in CONSTANTS}
        weights = self.folded()._weights()
        return write_pretrained(folder, self.config, weights, constants)

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
            folder_or_repo: a folder that this package, SAELens 6 (architecture topk) or
                sparsify wrote, or a repository with one.
            subfolder: where in it the SAE is, if not at the top.
            revision: branch, tag or commit of the repository.
            folded: whether the mean and scale of the activations stay inside the
                weights (fastest, features in units of the activations) or are taken out
                again, as in training.
            device: where to put the weights.
            dtype: what to cast them to, as a torch dtype or its name; None keeps the
                file's.

        Raises:
            FormatError: not an SAE folder, or a damaged one.
            NonFinite: the weights hold NaN or infinity.
        """
        # Checked first, because a download may take long.
        if dtype is not None:
            dtype = arguments.dtype(dtype)

        config, checkpoint = read_pretrained(folder_or_repo, subfolder, revision)
        sae = cls.from_tensors(config, **checkpoint.tensors)
        if checkpoint.normalization and not folded:
            sae = sae.unfolded(**checkpoint.normalization)
        return sae.to(device=device, dtype=dtype).eval()

    def with_config(self, **changes: object) -> "SAE":
        """The same weights with some fields of the config replaced.

        For instance ``hook_name``. The weights are shared, not copied.

        Raises:
            InvalidArgument: no such field, or one that belongs to the weights.
        """
        config = self.config.with_changes(**changes)
        sae = with_shared_tensors(self)
        sae.config = config
        return sae

    def extra_repr(self) -> str:
        """One line for notebooks."""
        names = ("d_model", "d_sae", "k", "hook_name")
        return ", ".join(f"{name}={getattr(self.config, name)!r}" for name in names)

    def _weights(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in WEIGHTS}

    def _is_normalized(self) -> bool:
        is_scaled = bool(self.activation_scale != 1)
        return is_scaled or bool(self.activation_mean.any())
