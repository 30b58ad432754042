"""What every host offers.

Sites have the names of TransformerLens on every host; the host's own paths are accepted
too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.names import POINTS_IN_ORDER, RESIDUAL_POINTS, Point

SiteFunction = Callable[[Tensor], Tensor | None]
"""Takes the activation at a site; returns its replacement, or None to leave it."""

Undo = Callable[[], None]
"""Reverts exactly the call that returned it, and nothing else."""

Arguments = Callable[[], Mapping[str, Any]]
"""Gives the arguments of a run by name, with token ids as ``input_ids``."""

BeforeRun = Callable[["Host", Arguments], None]
"""Is called before a run begins, with the host on which the model can be run meanwhile
and the arguments of the run.
"""


class Points:
    """Hook points inside a splice; this base class is for hosts that have none."""

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Pass a value through the hooks at a point.

        Returns the value before and after the hooks. Returns None, without computing
        the value, where no hook is attached.
        """
        return None


@dataclass(frozen=True)
class Site:
    """A named place in a model.

    Attributes:
        name: as the user wrote it.
        key: the same string for any two names of the same place.
        block: the index of the block it belongs to, or None.
        point: which of the points that every block has, or None for any other place.
    """

    name: str
    key: str
    block: int | None = None
    point: Point | None = None

    @property
    def blocks_before(self) -> int:
        """How many whole blocks have run when the activation at this site is known.

        0 for a site outside the blocks.
        """
        if self.block is None:
            return 0
        return self.block + (self.point == "resid_post")

    @property
    def when(self) -> tuple[int, int] | None:
        """A key that sorts sites into the order in which a run reaches them.

        None where that order is not known.
        """
        if self.block is None or self.point is None:
            return None
        return self.block, POINTS_IN_ORDER.index(self.point)

    @property
    def is_residual(self) -> bool:
        """Whether the activation here is the residual stream between two blocks.

        That is all that later blocks see of the earlier ones.
        """
        return self.point in RESIDUAL_POINTS


@runtime_checkable
class RunListener(Protocol):
    """Gets reports on the runs of a model; see ``Host.watch``."""

    def begin(self, tensors: Sequence[Tensor] = ()) -> None:
        """A run begins: the model is called with these tensors among its arguments."""
        ...

    def read(self, arguments: Mapping[str, Any]) -> None:
        """The run calls the model, or a model inside it, with these arguments.

        From the outermost to the one that holds the blocks.
        """
        ...

    def keep(self, tokens: Tensor) -> None:
        """The run reads these token ids."""
        ...

    def enter(self, module: object, tensor: Tensor, *, is_running: bool) -> None:
        """A block, or a module in one, reads an activation.

        Args:
            module: the module.
            tensor: the activation.
            is_running: whether a call of the whole model is in progress.
        """
        ...

    def made(self, output: Any) -> None:
        """A model inside the one that runs returned this, which may hold a cache."""
        ...

    def end(self, whole: bool, output: Any = None) -> None:
        """The run is over.

        Args:
            whole: False for a run that was told to stop early, or that raised, whose
                end may not be reported at all.
            output: what the model returned.
        """
        ...


@runtime_checkable
class Host(Protocol):
    """A language model whose sites can be read and replaced.

    Attributes:
        model: the object that the user has.
        blocks: its transformer blocks, in order; empty where the host cannot tell.
        embed: the module that is called with the token ids, if it is known.
        unembed: the module that turns the last residual stream into logits, if it is
            known.
        d_vocab: the number of logits per position, if it is known.
        tokenizer: the model's tokenizer, or None.
    """

    model: Any
    blocks: Sequence[nn.Module]
    embed: nn.Module | None
    unembed: nn.Module | None
    d_vocab: int | None
    tokenizer: Any

    def site(self, name: str) -> Site:
        """The site with this name, in any spelling that the host knows.

        Raises:
            UnknownSite: the model has no such site (the message lists the closest), or
                an edit there would not do what the name says.
        """
        ...

    def width(self, site: Site) -> int | None:
        """Size of the activation's last axis; None where only a run would tell."""
        ...

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """Call ``function`` on the activation at ``site`` in every run from now on.

        The activation is ``[batch, pos, d]``.
        """
        ...

    def points(self, site: Site, names: Sequence[str]) -> tuple["Points", Undo]:
        """Open hook points called ``{site}.{name}``.

        There the host's own mechanism can read and replace values inside a splice.
        """
        ...

    def watch(self, listener: RunListener) -> Undo:
        """Report on every run from now on."""
        ...

    def before_runs(self, function: BeforeRun) -> Undo:
        """Call ``function`` before every run of the whole model, from now on.

        It comes before everything else that the run does, so runs that it makes are
        over when this one begins. ``function`` is called for those, too.
        """
        ...

    def step(
        self, ids: Int[Tensor, "batch pos"], cache: Any, **options: Tensor
    ) -> tuple[Float[Tensor, "rows d_vocab"], Any]:
        """Run the model on some columns of a text, after those that a cache holds.

        Args:
            ids: the token ids of the columns.
            cache: what the step before returned; None for the first.
            **options: ``attention_mask`` over all columns so far, ``position_ids`` of
                these.

        Returns:
            The logits at the last column, of as many rows as reach the unembedding, and
            the cache to go on with, which has ``reorder_cache``; None where this model
            has no such cache.
        """
        ...

    def logits(
        self, tokens: TokenBatch | Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """Run the model.

        A padded batch is run with its padding on the right, where a causal model does
        not see it, and with the mask, where the model takes one. There is a row of
        logits for every position that reaches the unembedding: all of them, in the
        columns of the batch, unless a hook selects fewer.

        Raises:
            UnsupportedHost: a run of this model needs more than tokens.
        """
        ...

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """Tokenise as the host would, special tokens included."""
        ...

    def special_token_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS and padding, by the rule of ``special``; may be empty."""
        ...

    def padding_id(self) -> int:
        """An id that may stand at padding."""
        ...

    def plain(self) -> "Host":
        """The host on which parts of the model can be run.

        This is the host itself, or that of the module which its model wraps.

        Raises:
            UnsupportedHost: a run of that module would not be a run of this model.
        """
        ...


@runtime_checkable
class TracingHost(Host, Protocol):
    """A host whose runs are traces, inside which a splice can be opened too."""

    def attach_now(self, site: Site, function: SiteFunction) -> None:
        """Same as ``attach``, for the running trace only.

        Takes effect the next time the model reaches the site.

        Raises:
            InvalidArgument: no trace is running.
        """
        ...

    def watch_now(self, listener: RunListener) -> None:
        """Same as ``watch``, for the running trace only.

        To be called before any other value of the trace is requested.

        Raises:
            InvalidArgument: no trace is running.
        """
        ...
