"""What every host offers. Names of sites are those of TransformerLens, on every host."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

SiteFunction = Callable[[Tensor], Tensor | None]
"""Takes the activation at a site; returns what to put in its place, or None to leave it."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# Points that hold the whole residual stream before or after a block, by either of their TransformerLens spellings.
_BEFORE_BLOCK = ("hook_resid_pre", "hook_in")
_AFTER_BLOCK = ("hook_resid_post", "hook_out")


@dataclass(frozen=True)
class Site:
    """A named place in a model.

    Attributes:
        name: as the user wrote it.
        key: the same string for two names of one place.
    """

    name: str
    key: str

    @property
    def blocks_before(self) -> int:
        """How many blocks have run, wholly, when the activation at this site is known; 0 for a site outside of the blocks."""
        match = _BLOCK.fullmatch(self.key)
        if match is None:
            return 0
        return int(match[1]) + (match[2] in _AFTER_BLOCK)

    @property
    def is_residual(self) -> bool:
        """Whether the activation here is the residual stream between two blocks, all that the later ones see of the earlier."""
        match = _BLOCK.fullmatch(self.key)
        return match is not None and match[2] in (*_BEFORE_BLOCK, *_AFTER_BLOCK)


@runtime_checkable
class Host(Protocol):
    """A language model whose sites can be read and replaced.

    Attributes:
        model: the object the user has.
        blocks: its transformer blocks, in order.
        embed: the module that is called with the token ids.
        unembed: the module that turns the last residual stream into logits.
    """

    model: Any
    blocks: Sequence[nn.Module]
    embed: nn.Module
    unembed: nn.Module

    def site(self, name: str) -> Site:
        """The site of that name, in any spelling the host knows.

        Raises:
            UnknownSite: there is none; the message lists the closest.
        """
        ...

    def width(self, site: Site) -> int | None:
        """The size of the last axis there, where the host can tell without running."""
        ...

    def attach(self, site: Site, function: SiteFunction) -> Callable[[], None]:
        """Call ``function`` on the activation at ``site`` in every run from now on; returns what undoes exactly this."""
        ...

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch unembedded d_vocab"]:
        """Run the model; one row of logits for every position that reaches the unembedding, which is all unless a hook says else."""
        ...

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """Tokenise as the host would, special tokens included."""
        ...

    def special_token_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS, padding and the like; empty where the host does not know."""
        ...
