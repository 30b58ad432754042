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
        c = feature_map.c
        scale = feature_map.scale
        c0, c1, c2 = c
        self.n = n_features(d, c)
        self._c = c

        n_linear = d if c1 else 0
        self._first_linear = 1 if c0 else 0
        self._first_pair = self._first_linear + n_linear

        self._linear_factor = math.sqrt(c1 * scale)
        # Of a coordinate, such that the product of two is a feature.
        factor_of_product = math.sqrt(2 * c2) * scale
        self._pair_factor = math.sqrt(factor_of_product)

    def of(self, x: Tensor) -> Tensor:
        """Compute the features, [n, d, tokens] -> [n, features, tokens]."""
        n, d, tokens = x.shape
        c0, c1, c2 = self._c
        first_linear = self._first_linear
        first_pair = self._first_pair

        # If d is even, half of the last distance repeats pairs, and is cut off below.
        n_distances = d // 2 + 1
        n_products = n_distances * d if c2 else 0
        phi = x.new_empty(n, first_pair + n_products, tokens)

        # Written where they belong, because joining them would copy all of them.
        if c0:
            phi[:, 0] = math.sqrt(c0)
        if c1:
            linear = phi[:, first_linear:first_pair]
            torch.mul(x, self._linear_factor, out=linear)
        if c2:
            u, shifted = self._scaled(x)
            pairs = phi[:, first_pair:]
            products = pairs.view(n, -1, d * tokens)
            flat_u = u.view(n, 1, d * tokens)
            torch.mul(flat_u, shifted, out=products)

            # A square is there once, and the product of different coordinates stands
            # for two.
            squares = pairs[:, :d]
            squares *= math.sqrt(0.5)
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
        first_linear = self._first_linear
        first_pair = self._first_pair

        if c1:
            grad_linear = grad[:, first_linear:first_pair]
            grad_x = grad_linear * self._linear_factor
        else:
            grad_x = torch.zeros_like(x)
        if not c2:
            return grad_x

        # The pairs that ``of`` cuts off have a gradient of 0.
        n_distances = d // 2 + 1
        n_pairs = self.n - first_pair
        grad_pairs = x.new_zeros(n, n_distances * d, tokens)
        grad_pairs[:, :n_pairs] = grad[:, first_pair:]
        grad_squares = grad_pairs[:, :d]
        grad_squares *= math.sqrt(0.5)
        grad_pairs = grad_pairs.view(n, n_distances, d * tokens)

        # Of the first coordinate of every pair.
        u, shifted = self._scaled(x)
        grad_first = (grad_pairs * shifted).sum(1)
        grad_u = grad_first.view_as(x)

        # Of the second, which is the first moved by the distance of the pair, modulo d.
        # It is written twice as long, so that no step has to go around the end.
        grad_shifted = x.new_zeros(n, 2 * d, tokens)
        for distance, grad_products in enumerate(grad_pairs.unbind(1)):
            seconds = grad_shifted[:, distance : distance + d]
            seconds.addcmul_(grad_products.view_as(x), u)

        grad_second = grad_shifted[:, :d] + grad_shifted[:, d:]
        grad_u += grad_second
        return grad_x.add_(grad_u, alpha=self._pair_factor)

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` times the factor of pairs, and that rotated by every distance.

        Returns:
            u: [n, d, tokens]; the product of two different coordinates is a feature.
            shifted: [n, distance, d * tokens], a view.
        """
        n, d, tokens = x.shape
        n_distances = d // 2 + 1
        u = x * self._pair_factor

        # The next distance begins one coordinate later, in rows that overlap.
        twice = torch.cat([u, u], dim=1)
        shape = (n, n_distances, d * tokens)
        strides = (2 * d * tokens, tokens, 1)
        shifted = twice.as_strided(shape, strides)
        return u, shifted
