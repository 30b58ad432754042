"""Features of tokens that lie along the last axis, and their derivative.

The features are those of ``features.feature_map``. With tokens along the last axis, the
products that features consist of run over long rows, as do those of the derivative.
"""

import math

import torch
from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap


class FeatureRows:
    """The feature map of vectors of width ``d``: rows are features, columns tokens.

    Attributes:
        n: the number of features.
    """

    def __init__(self, d: int, feature_map: FeatureMap) -> None:
        """Find which rows belong to which degree."""
        self.n = n_features(d, feature_map.c)
        c0, c1, c2 = feature_map.c
        self._c = feature_map.c
        self._first_linear = 1 if c0 else 0
        self._first_pair = self._first_linear + (d if c1 else 0)
        self._linear_factor = math.sqrt(c1 * feature_map.scale)
        # Of a coordinate, such that the product of two is a feature.
        self._pair_factor = math.sqrt(math.sqrt(2 * c2) * feature_map.scale)

    def of(self, x: Tensor) -> Tensor:
        """Compute the features, [n, d, tokens] -> [n, features, tokens]."""
        n, d, tokens = x.shape
        c0, c1, c2 = self._c
        linear = slice(self._first_linear, self._first_pair)
        # If d is even, half of the last distance repeats pairs, and is cut off below.
        n_products = (d // 2 + 1) * d if c2 else 0
        phi = x.new_empty(n, self._first_pair + n_products, tokens)

        if c0:
            phi[:, 0] = math.sqrt(c0)
        if c1:
            torch.mul(x, self._linear_factor, out=phi[:, linear])
        if c2:
            u, shifted = self._scaled(x)
            products = phi[:, self._first_pair :].view(n, -1, d * tokens)
            torch.mul(u.view(n, 1, d * tokens), shifted, out=products)
            phi[:, self._first_pair : self._first_pair + d] *= math.sqrt(0.5)
        return phi[:, : self.n]

    def gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """Compute the gradient of ``x`` from that of its features.

        Args:
            x: [n, d, tokens].
            grad: [n, features, tokens].

        Returns:
            [n, d, tokens].
        """
        n, d, tokens = x.shape
        _, c1, c2 = self._c
        if c1:
            linear = slice(self._first_linear, self._first_pair)
            grad_x = grad[:, linear] * self._linear_factor
        else:
            grad_x = torch.zeros_like(x)
        if not c2:
            return grad_x

        u, shifted = self._scaled(x)
        grad_pairs = x.new_zeros(n, (d // 2 + 1) * d, tokens)
        grad_pairs[:, : self.n - self._first_pair] = grad[:, self._first_pair :]
        grad_pairs[:, :d] *= math.sqrt(0.5)
        grad_pairs = grad_pairs.view(n, d // 2 + 1, d * tokens)

        # Of the first coordinate of every pair.
        grad_u = (grad_pairs * shifted).sum(1).view_as(x)

        # Of the second, which is the first moved by the distance of the pair, modulo d.
        grad_shifted = x.new_zeros(n, 2 * d, tokens)
        for distance, grad_products in enumerate(grad_pairs.unbind(1)):
            seconds = grad_shifted[:, distance : distance + d]
            seconds.addcmul_(grad_products.view_as(x), u)
        grad_u += grad_shifted[:, :d] + grad_shifted[:, d:]

        return grad_x.add_(grad_u, alpha=self._pair_factor)

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` times the factor of pairs, and that rotated by every distance.

        Returns:
            u: [n, d, tokens]; the product of two different coordinates is a feature.
            shifted: [n, distance, d * tokens], a view.
        """
        n, d, tokens = x.shape
        u = x * self._pair_factor
        twice = torch.cat([u, u], dim=1)
        shape = (n, d // 2 + 1, d * tokens)
        return u, twice.as_strided(shape, (2 * d * tokens, tokens, 1))
