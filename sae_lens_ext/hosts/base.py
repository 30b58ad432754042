"""What every host offers. Names of sites are those of TransformerLens, on every host; the host's own paths are accepted too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.hosts.names import POINTS_IN_ORDER, RESIDUAL_POINTS, Point

SiteFunction = Callable[[Tensor], Tensor | None]
"""Takes the activation at a site; returns what to put in its place, or None to leave it."""

Undo = Callable[[], None]
"""Takes back exactly what returned it."""


class Points:
    """Points that nobody can listen at: for hosts that have no named hook points."""

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """The value as it was and as the listeners at this point leave it; None, and nothing computed, where nobody listens."""
        return None


@dataclass(frozen=True)
class Site:
    """A named place in a model.

    Attributes:
        name: as the user wrote it.
        key: the same string for two names of one place.
        block: the block it belongs to, or None.
        point: which of the points that every block has it is, or None for any other place.
    """

    name: str
    key: str
    block: int | None = None
    point: Point | None = None

    @property
    def blocks_before(self) -> int:
        """How many blocks have run, wholly, when the activation at this site is known; 0 for a site outside of the blocks."""
        return 0 if self.block is None else self.block + (self.point == "resid_post")

    @property
    def when(self) -> tuple[int, int] | None:
        """What sorts sites into the order in which a run meets them; None where that is not known."""
        return (
            None
            if self.block is None or self.point is None
            else (self.block, POINTS_IN_ORDER.index(self.point))
        )

    @property
    def is_residual(self) -> bool:
        """Whether the activation here is the residual stream between two blocks, all that the later ones see of the earlier."""
        return self.point in RESIDUAL_POINTS


@runtime_checkable
class Host(Protocol):
    """A language model whose sites can be read and replaced.

    Attributes:
        model: the object the user has.
        blocks: its transformer blocks, in order; empty where the host cannot tell.
        embed: the module that is called with the token ids, if it is known.
        unembed: the module that turns the last residual stream into logits, if it is known.
        d_vocab: how many logits there are per position, if it is known.
    """

    model: Any
    blocks: Sequence[nn.Module]
    embed: nn.Module | None
    unembed: nn.Module | None
    d_vocab: int | None

    def site(self, name: str) -> Site:
        """The site of that name, in any spelling the host knows.

        Raises:
            UnknownSite: there is none, with the closest; or there is one where an edit would not do what its name says.
        """
        ...

    def width(self, site: Site) -> int | None:
        """The size of the last axis there, where the host can tell without running."""
        ...

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """Call ``function`` on the activation at ``site``, ``[batch, pos, d]``, in every run from now on."""
        ...

    def points(self, site: Site, names: Sequence[str]) -> tuple["Points", Undo]:
        """Open points called ``{site}.{name}``, at which the host's own mechanism can read and replace what a splice computes."""
        ...

    def watch(
        self,
        at_start: Callable[[int], object],
        at_tokens: Callable[[Tensor], object],
        at_end: Callable[[bool], object],
    ) -> Undo:
        """From now on, call ``at_start`` when a run begins, ``at_tokens`` when its token ids are known, ``at_end`` when it is over.

        ``at_start`` gets the number of positions that a cache already holds; the run's own come after those. ``at_end`` gets whether
        the run is whole: one that was told to stop early, or that raised, is not, and may have no end at all.
        """
        ...

    def logits(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """Run the model; one row of logits for every position that reaches the unembedding, which is all unless a hook says else."""
        ...

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """Tokenise as the host would, special tokens included."""
        ...

    def special_token_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS, padding and the like; empty where the host does not know."""
        ...

    def plain(self) -> "Host":
        """The host on which parts of the model can be run: itself, or that of the module it wraps.

        Raises:
            UnsupportedHost: runs of that module would not be runs of this model.
        """
        ...


@runtime_checkable
class TracingHost(Host, Protocol):
    """A host whose runs are traces, into which a splice can also be written step by step."""

    def attach_now(self, site: Site, function: SiteFunction) -> None:
        """``attach`` for the running trace alone: the next time the model reaches the site.

        Raises:
            InvalidArgument: no trace is running.
        """
        ...

    def watch_now(
        self, at_start: Callable[[int], object], at_tokens: Callable[[Tensor], object]
    ) -> None:
        """``watch`` for the running trace alone, before anything else of it was asked for.

        Raises:
            InvalidArgument: no trace is running.
        """
        ...
