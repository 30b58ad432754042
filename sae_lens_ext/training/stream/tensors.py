"""Activations that are in memory."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.cleaning import (
    check_finite,
    largest_norm,
    mean_and_scale,
    shrink_outliers,
)
from sae_lens_ext.training.stream.base import SiteStatistics, StreamState
from sae_lens_ext.training.stream.chunks import checked_activations
from sae_lens_ext.training.stream.lazy import LazyBatch, Piece
from sae_lens_ext.training.stream.length import Length
from sae_lens_ext.training.stream.states import check_identity

# Tokens that tell activations from others.
_SAMPLES = 256


class TensorStream:
    """Activations in memory, in another order in every pass.

    ::

        stream = TensorStream({"blocks.5.hook_resid_post": values}, epochs=3)
        stream = TensorStream(collect_activations(model, rows, site), epochs=3)

    Batches have the dtype of the tensors, and are on their device. Constants are those
    of all tokens.

    Attributes:
        sites: see ``ActivationStream``.
        model_name: see ``ActivationStream``.
        excludes_special_tokens: see ``ActivationStream``.
    """

    def __init__(
        self,
        activations: Activations | Mapping[str, Tensor],
        *,
        seed: int = 0,
        epochs: int | None = None,
        n_tokens: int | None = None,
        model_name: str | None = None,
        excludes_special_tokens: bool = False,
        shrink: bool = True,
    ) -> None:
        """Check the tensors, and shrink their outliers.

        Args:
            activations: ``Activations``, or a mapping from the names of sites to
                tensors ``[token, d]`` of the same tokens.
            seed: the seed of the order.
            epochs: passes over the tokens. By default one; or, where ``n_tokens`` is
                given, as many as that takes.
            n_tokens: tokens after which the stream ends.
            model_name: name of the model they come from.
            excludes_special_tokens: whether special tokens were left out of tensors;
                ``Activations`` say it themselves.
            shrink: whether outliers are shrunk, in a copy; see
                ``Activations.outliers_clipped``.

        Raises:
            InvalidArgument: an invalid option, or tensors of another kind.
            ShapeMismatch: tensors that are not ``[token, d]``, or of different lengths.
            NonFinite: NaN or infinity.
        """
        self.model_name = model_name
        self.excludes_special_tokens = excludes_special_tokens
        self._n_special = 0
        self._n_outliers = 0
        tensors: Any = activations
        if isinstance(activations, Activations):
            tensors = {activations.hook_name: activations.values}
            self.excludes_special_tokens = activations.n_special > 0
            self._n_special = activations.n_special
            self._n_outliers = activations.n_outliers
        if not isinstance(tensors, Mapping):
            raise InvalidArgument(
                "a TensorStream takes Activations, or a mapping from the names of "
                f"sites to tensors [token, d]; got a {type(tensors).__name__}"
            )

        self.sites = tuple(tensors)
        self._values = checked_activations(tensors, self.sites)
        if not self.sites or not len(self._values[self.sites[0]]):
            raise InvalidArgument("no activations to train on")
        self._length = Length.checked(epochs, n_tokens)
        self._seed = arguments.integer(seed, "seed", at_least=0)
        self._statistics = {
            site: self._cleaned(site, arguments.flag(shrink, "shrink"))
            for site in self.sites
        }
        self._start(0)
        self._n_given = 0

    def _cleaned(self, site: str, shrink: bool) -> SiteStatistics:
        """Shrink the outliers of a site; its constants."""
        values = self._values[site]
        check_finite(site, values)
        limit = torch.tensor(torch.inf)
        if shrink:
            limit = largest_norm(values)
            self._values[site], n_outliers = shrink_outliers(values, limit)
            self._n_outliers += int(n_outliers)
        mean, scale = mean_and_scale(self._values[site])
        return SiteStatistics(mean.cpu(), scale.cpu(), limit.cpu())

    @property
    def n_tokens(self) -> int | None:
        """See ``ActivationStream.n_tokens``."""
        return self._length.total(self._per_epoch)

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``ActivationStream.counts``."""
        return {
            "given": self._n_given,
            "special": self._n_special,
            "outliers": self._n_outliers,
        }

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``."""
        if site not in self.sites:
            raise InvalidArgument(
                f"this stream has the sites {', '.join(self.sites)}; got {site!r}"
            )
        return self._values[site].shape[1]

    def statistics(self) -> Mapping[str, SiteStatistics]:
        """See ``ActivationStream.statistics``."""
        return dict(self._statistics)

    def first_tokens(self, site: str) -> Float[Tensor, "token d"]:
        """See ``RemembersFirst.first_tokens``: all of them."""
        self.width(site)
        return self._values[site]

    def next_batch(self, n_tokens: int) -> LazyBatch:
        """See ``ActivationStream.next_batch``."""
        missing = arguments.positive_int(n_tokens, "n_tokens")
        left = self._length.left(self._n_given)
        if left is not None:
            missing = min(missing, left)

        parts = [self._order[:0]]
        while missing:
            if self._position == self._per_epoch:
                if not self._length.has_epoch(self._epoch + 1):
                    break
                self._start(self._epoch + 1)
            rows = self._order[self._position : self._position + missing]
            self._position += len(rows)
            self._n_given += len(rows)
            missing -= len(rows)
            parts.append(rows)

        return LazyBatch(self.sites, [Piece(torch.cat(parts), self._tokens)])

    def _tokens(self, rows: Int[Tensor, " token"]) -> dict[str, Tensor]:
        """Tokens by their numbers."""
        return {
            site: values[rows.to(values.device)]
            for site, values in self._values.items()
        }

    def state(self) -> StreamState:
        """See ``ActivationStream.state``; a few numbers."""
        facts = {
            "kind": type(self).__name__,
            "identity": self._identity(),
            "epoch": self._epoch,
            "position": self._position,
            "given": self._n_given,
        }
        return StreamState(facts, {})

    def restore(self, state: StreamState) -> None:
        """See ``ActivationStream.restore``."""
        check_identity(state.facts, type(self).__name__, self._identity())
        try:
            self._start(state.facts["epoch"])
            self._position = state.facts["position"]
            self._n_given = state.facts["given"]
        except KeyError as error:
            raise FormatError(
                f"the state of the stream has no {error.args[0]!r}; begin anew"
            ) from error

    @property
    def _per_epoch(self) -> int:
        return len(self._values[self.sites[0]])

    def _start(self, epoch: int) -> None:
        rng = np.random.default_rng([self._seed, epoch])
        self._order = torch.from_numpy(rng.permutation(self._per_epoch))
        self._epoch = epoch
        self._position = 0

    def _digest(self) -> str:
        """What tells these activations from others: some tokens of every site."""
        digest = hashlib.sha256()
        places = torch.linspace(0, self._per_epoch - 1, _SAMPLES, dtype=torch.float64)
        for rows in self._tokens(places.long()).values():
            digest.update(rows.cpu().double().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        return {
            "sites": list(self.sites),
            "seed": self._seed,
            "tokens": self._per_epoch,
            "widths": [self.width(site) for site in self.sites],
            "values": self._digest(),
        }
