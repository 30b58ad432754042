"""A sparse autoencoder that takes k as an argument."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.kernels import sparse_decode, topk_encode
from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.normalization import TokenStatistics, normalize_tokens
from sae_lens_ext.sae.prefixes import squared_errors
from sae_lens_ext.sae.saved import SavedSAE
from sae_lens_ext.sae.tensors import (
    check_activations,
    check_code,
    check_normalized,
    exceeds_float16,
    in_dtype,
)


class SAE(SavedSAE):
    """A sparse autoencoder, or transcoder, whose k is chosen with every call.

    >>> import sae_lens_ext as sle
    >>> config = sle.SAEConfig(d_model=8, d_sae=32, k=4)
    >>> sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    >>> sae(x, k=2).shape, sae.encode(x)
    (torch.Size([2, 5, 8]), SparseCode(batch=[2, 5], k=4, d_sae=32))

    With u = (x - activation_mean) * activation_scale, the pre-activations of an
    activation x are (u - b_dec) @ W_enc + b_enc. A gate, by ``config.kind``, says which
    of the positive ones are active; the k largest of those are the code, and the
    reconstruction is (values @ W_dec[features] + b_dec) / activation_scale +
    activation_mean. So every kind of SAE can be cut at any k, and a smaller k is a
    prefix of a larger one. The two constants are 0 and 1 unless training set them;
    ``folded`` moves them into the weights. ``config.token_norm`` normalises every x
    before all that, and ``config.skip_connection`` adds x @ W_skip at the end.

    Attributes:
        config: the choices behind it.
        W_enc: encoder, ``[d_model, d_sae]``; stored feature by feature, so ``W_enc.T``
            is contiguous.
        b_enc: encoder bias, ``[d_sae]``.
        W_dec: decoder rows, ``[d_sae, d_out]``; training keeps them at unit norm.
        b_dec: decoder bias, ``[d_out]``.
        threshold: what a pre-activation must exceed, ``[d_sae]``; None for the kinds
            topk and relu.
        W_skip: the skip connection of a transcoder, ``[d_model, d_out]``, or None.
        activation_mean: centre of the activations, ``[d_model]``.
        activation_scale: factor that brings them to a common size, a scalar.

    Source: Gao et al. 2024 (TopK SAE); Balagansky, Aksenov et al. 2025 (one SAE at
    every k); Rajamanoharan et al. 2024 (JumpReLU); Bussmann et al. 2024 (BatchTopK);
    Dunefsky et al. 2024 (transcoders).
    """

    def encode(
        self,
        x: Float[Tensor, "*batch d_model"],
        k: int | None = None,
        *,
        extrapolate: bool = False,
    ) -> SparseCode:
        """The active features of every activation, strongest first.

        Args:
            x: activations, of any dtype; computed in the SAE's own, except that a
                float16 SAE computes in float32 what float16 cannot hold.
            k: how many features to keep; None means the trained maximum, or, for an SAE
                that was not trained at a k, every active feature. The code is then as
                wide as the token with most of them.
            extrapolate: allow a k above the trained maximum.

        Raises:
            InvalidK: k is not an integer from 1 to d_sae, or above the trained maximum.
            ShapeMismatch: the last axis of x is not d_model.
            NonFinite: x holds NaN or infinity.
        """
        checked_k = self.config.checked_k(k, extrapolate=extrapolate)
        u, statistics = self._normalized(x)
        code = self.encode_normalized(u, checked_k)
        return code if statistics is None else replace(code, statistics=statistics)

    def encode_normalized(
        self, u: Float[Tensor, "*batch d_model"], k: int | None
    ) -> SparseCode:
        """The code of ``normalized`` activations, at any k up to d_sae.

        None stands for every active feature.
        """
        weights = [self.W_enc, self.b_enc, self.b_dec, self.threshold]
        W_enc, b_enc, b_dec, threshold = in_dtype(u.dtype, weights)
        centre = b_dec if self.config.apply_b_dec_to_input else None
        values, indices = topk_encode(
            u,
            W_enc,
            b_enc,
            k,
            centre=centre,
            threshold=threshold,
        )
        if exceeds_float16(values):
            return self.encode_normalized(u.float(), k)
        return SparseCode(values, indices, self.config.d_sae)

    def normalized(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Activations in the SAE's dtype, centred and scaled; see ``encode``."""
        u, _ = self._normalized(x)
        return u

    def _normalized(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_model"], TokenStatistics | None]:
        check_activations(x, self.config)
        cast = x.to(self.W_enc.dtype)
        if exceeds_float16(cast):
            cast = x.float()
        cast, statistics = normalize_tokens(cast, self.config.token_norm)
        u = (cast - self.activation_mean) * self.activation_scale
        # What is used, because a cast and a scale can exceed a dtype.
        check_normalized(u, x, self.config)
        return u, statistics

    def decode(self, code: SparseCode) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction from a code, or from any prefix of it.

        A skip connection, which needs the activation itself, is not part of it.

        Raises:
            ShapeMismatch: the code is over another number of features.
            InvalidArgument: not a code; or a code without the statistics of its tokens,
                for an SAE that normalises tokens.
        """
        check_code(code, self.config)
        weights = [self.W_dec, self.b_dec]
        W_dec, b_dec = in_dtype(code.values.dtype, weights)
        recons = sparse_decode(code.values, code.indices, W_dec, b_dec)
        recons = recons / self.activation_scale
        if not self.config.is_transcoder:
            recons = recons + self.activation_mean
        if code.statistics is not None:
            recons = code.statistics.restore(recons)
        return self.decode(code.float()) if exceeds_float16(recons) else recons

    def contribution(self, code: SparseCode) -> Float[Tensor, "*batch d_out"]:
        """What the features of a code add to a reconstruction.

        This is ``decode`` without its constants, so it is linear in the values.
        """
        weights = [self.W_dec, torch.zeros_like(self.b_dec)]
        W_dec, without_bias = in_dtype(code.values.dtype, weights)
        recons = sparse_decode(code.values, code.indices, W_dec, without_bias)
        part = self._in_units_of_x(recons, code)
        return self.contribution(code.float()) if exceeds_float16(part) else part

    def contribution_of(
        self,
        acts: Float[Tensor, "*batch features"],
        features: Sequence[int] | slice,
        code: SparseCode | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """What a few features, or a slice of them, add to a reconstruction.

        Args:
            acts: the activations of those features.
            features: the features.
            code: the code of the same tokens; needed for their statistics where the SAE
                normalises tokens.
        """
        if isinstance(features, slice):
            rows = self.W_dec[features]
        else:
            numbers = torch.as_tensor(features, device=self.W_dec.device)
            rows = self.W_dec[numbers]
        (rows,) = in_dtype(acts.dtype, [rows])
        part = self._in_units_of_x(acts @ rows, code)
        if exceeds_float16(part):
            return self.contribution_of(acts.float(), features, code)
        return part

    def _in_units_of_x(
        self, part: Float[Tensor, "*batch d_out"], code: SparseCode | None
    ) -> Float[Tensor, "*batch d_out"]:
        part = part / self.activation_scale
        if code is not None and code.statistics is not None:
            part = code.statistics.rescale(part)
        return part

    def skip(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_out"] | None:
        """What the skip connection adds to the output; None without one."""
        if self.W_skip is None:
            return None
        added = x.to(self.W_skip.dtype) @ self.W_skip
        return x.float() @ self.W_skip.float() if exceeds_float16(added) else added

    def prefix_errors(
        self, x: Float[Tensor, "*batch d_out"], code: SparseCode
    ) -> Float[Tensor, "*batch levels"]:
        """Squared errors of every prefix of a code, in normalised units.

        There are k + 1 ``levels``, from the empty prefix to the whole code.

        Args:
            x: the activations that the code reconstructs: those that were encoded; for
                a transcoder, those at its output, without what ``skip`` adds.
            code: the code.
        """
        u = x.to(self.b_dec.dtype)
        if not self.config.is_transcoder:
            u = self.normalized(x)
        # In float32, because float16 cannot hold squares of large numbers.
        W_dec = self.W_dec.float() if self.W_dec.dtype == torch.float16 else self.W_dec
        return squared_errors((u - self.b_dec).to(W_dec.dtype), code, W_dec)

    def forward(
        self,
        x: Float[Tensor, "*batch d_model"],
        k: int | None = None,
        *,
        extrapolate: bool = False,
    ) -> Float[Tensor, "*batch d_out"]:
        """Reconstruct x from its k strongest features; see ``encode``.

        A transcoder gives what belongs at its output for x at its input.
        """
        code = self.encode(x, k, extrapolate=extrapolate)
        return self._with_skip(self.decode(code), x)

    def _with_skip(
        self, recons: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_out"]:
        added = self.skip(x)
        return recons if added is None else recons + added

    def nested(
        self,
        x: Float[Tensor, "*batch d_model"],
        ks: Sequence[int | None],
        *,
        extrapolate: bool = False,
    ) -> dict[int | None, Float[Tensor, "*batch d_out"]]:
        """Reconstructions at several k from one encode.

        ``nested(x, ks)[k]`` equals ``self(x, k)``.

        Raises:
            InvalidK: ``ks`` is empty or not a list, or holds an invalid k.
        """
        asked = list(ks) if isinstance(ks, Iterable) and not isinstance(ks, str) else ks
        checked_ks = self.config.checked_ks(asked, extrapolate=extrapolate)
        numbers = [k for k in checked_ks if k is not None]
        largest = max(numbers) if len(numbers) == len(checked_ks) else None
        code = self.encode(x, largest, extrapolate=extrapolate)

        reconstructions = {}
        for name, k in zip(asked, checked_ks, strict=True):
            recons = self._with_skip(self.decode(code.at_most(k)), x)
            reconstructions[None if name is None else k] = recons
        return reconstructions
