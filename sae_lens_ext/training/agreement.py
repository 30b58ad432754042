"""Whether the features of two SAEs are the same, feature number by feature number."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.stream import ActivationStream

_TOKENS_AT_ONCE = 1024


class FeatureAgreement(NamedTuple):
    """How alike the activations of every feature are in two SAEs."""

    correlation: Float[Tensor, " d_sae"]
    """Pearson's correlation over all tokens, zeros of inactive features included; NaN
    where a feature was never active in one of the two, or always equally."""
    active_tokens: Int[Tensor, "2 d_sae"]
    """On how many tokens each feature was active, in the first SAE and the second."""
    n_tokens: int
    """Tokens that were looked at."""

    @property
    def live(self) -> Bool[Tensor, " d_sae"]:
        """Which features were active in the first SAE."""
        return self.active_tokens[0] > 0

    def share_above(self, bound: float = 0.95) -> float:
        """Share of the live features whose correlation exceeds a bound.

        A feature that the second SAE never used does not count as above it. NaN if no
        feature was live.
        """
        return (self.correlation[self.live] > bound).double().mean().item()


def feature_agreement(
    first: SAE,
    second: SAE,
    activations: Float[Tensor, "token d_model"] | Activations | ActivationStream,
    *,
    k: int | None = None,
    n_tokens: int | None = None,
) -> FeatureAgreement:
    """Correlate the activations of each feature in two SAEs with equal numbers.

    ::

        agreement = sle.feature_agreement(published, retrofitted, held_out)
        agreement.share_above(0.95), agreement.correlation[981]

    A correlation does not depend on the units of the activations, so SAEs may differ in
    kind, in the norms of their decoders, and in what they are folded into. Memory grows
    with d_sae and with the active features of 1,024 tokens, not with their product.

    Args:
        first: the SAE whose features are known; says which of them are live.
        second: another one with as many features.
        activations: tokens that neither was trained on; of a stream with several sites,
            those at the first SAE's ``hook_name``.
        k: the k of both codes; None uses each SAE as it is by default.
        n_tokens: the largest number of tokens to look at; None for all.

    Raises:
        InvalidArgument: not two SAEs of one width and number of features; no tokens; or
            a stream without the site.
        InvalidK: k is above what one of the SAEs was trained at, or out of range.
    """
    _check_pair(first, second)
    if n_tokens is not None:
        n_tokens = arguments.positive_int(n_tokens, "n_tokens")

    sums = _Sums(first.config.d_sae)
    for x in _parts(activations, first.config.hook_name, n_tokens):
        with torch.no_grad():
            sums.add(_code(first, x, k), _code(second, x, k))
    if not sums.n_tokens:
        raise InvalidArgument("there are no activations to compare features on")
    return FeatureAgreement(sums.correlation(), sums.active_tokens, sums.n_tokens)


class _Sums:
    """Sums over tokens that correlations follow from, in float64, on the CPU."""

    def __init__(self, d_sae: int) -> None:
        self.n_tokens = 0
        self.active_tokens = torch.zeros(2, d_sae, dtype=torch.int64)
        self._values = torch.zeros(2, d_sae, dtype=torch.float64)
        self._squares = torch.zeros(2, d_sae, dtype=torch.float64)
        self._products = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, first: SparseCode, second: SparseCode) -> None:
        """Add the codes of the same tokens."""
        self.n_tokens += len(first.values)
        for number, code in enumerate((first, second)):
            features = code.indices.flatten()
            values = code.values.flatten().double()
            self.active_tokens[number].index_add_(0, features, (values > 0).long())
            self._values[number].index_add_(0, features, values)
            self._squares[number].index_add_(0, features, values.square())

        places, order = _places(second).sort()
        if not len(places):
            return
        wanted = _places(first)
        nearest = torch.searchsorted(places, wanted).clamp_max(len(places) - 1)
        is_shared = places[nearest] == wanted
        factors = _active_values(second)[order][nearest]
        products = torch.where(is_shared, _active_values(first) * factors, 0)
        self._products.index_add_(0, wanted % first.d_sae, products)

    def correlation(self) -> Float[Tensor, " d_sae"]:
        """Pearson's correlation of every feature."""
        means = self._values / self.n_tokens
        variances = self._squares / self.n_tokens - means.square()
        covariance = self._products / self.n_tokens - means[0] * means[1]
        # Differences of equal numbers, where a feature never changes.
        is_constant = variances <= 1e-12 * self._squares / self.n_tokens
        variances = variances.masked_fill(is_constant, torch.nan)
        return covariance / (variances[0] * variances[1]).sqrt()


def _places(code: SparseCode) -> Int[Tensor, " active"]:
    """A number for each token and active feature: token * d_sae + feature."""
    tokens = torch.arange(len(code.indices)).unsqueeze(1)
    return (tokens * code.d_sae + code.indices)[code.values > 0]


def _active_values(code: SparseCode) -> Float[Tensor, " active"]:
    return code.values[code.values > 0].double()


def _code(sae: SAE, x: Tensor, k: int | None) -> SparseCode:
    return sae.encode(x.to(sae.b_dec.device), k).to("cpu")


def _parts(
    activations: Any, hook_name: str | None, n_tokens: int | None
) -> Iterator[Float[Tensor, "token d_model"]]:
    """The activations, or the first of them, a few at once."""
    if isinstance(activations, ActivationStream):
        yield from _parts_of_stream(activations, hook_name, n_tokens)
        return
    if isinstance(activations, Activations):
        activations = activations.values
    if not isinstance(activations, Tensor) or activations.ndim != 2:
        raise InvalidArgument(
            "feature_agreement needs activations [token, d_model], Activations, or a "
            "stream of them"
        )
    yield from activations[:n_tokens].split(_TOKENS_AT_ONCE)


def _parts_of_stream(
    stream: ActivationStream, hook_name: str | None, n_tokens: int | None
) -> Iterator[Float[Tensor, "token d_model"]]:
    site = stream.sites[0] if len(stream.sites) == 1 else hook_name
    if site is None or site not in stream.sites:
        raise InvalidArgument(
            f"the stream has no activations of hook_name={hook_name!r} of the first "
            f"SAE; it has those of {', '.join(stream.sites)}"
        )
    n_seen = 0
    while n_tokens is None or n_seen < n_tokens:
        n_next = _TOKENS_AT_ONCE
        if n_tokens is not None:
            n_next = min(n_next, n_tokens - n_seen)
        x = stream.next_batch(n_next)[site]
        if not len(x):
            return
        n_seen += len(x)
        yield x


def _check_pair(first: Any, second: Any) -> None:
    for sae in (first, second):
        if not isinstance(sae, SAE):
            raise InvalidArgument(
                "feature_agreement compares two SAEs; got an object of type "
                f"{type(sae).__name__}"
            )
    for name in ("d_model", "d_sae"):
        sizes = (getattr(first.config, name), getattr(second.config, name))
        if sizes[0] != sizes[1]:
            raise InvalidArgument(
                f"features are compared number by number, so both SAEs must have the "
                f"same {name}; got {sizes[0]} and {sizes[1]}"
            )
