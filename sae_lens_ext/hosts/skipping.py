"""Runs that skip the first blocks, because what those blocks hand on is known.

1. ``recorded`` watches a whole run: what the first block to run again received, what
   the blocks before it returned, and what the unembedding read.
2. ``skip_blocks`` and ``resume`` make later runs begin there.

A block is skipped by replacing its ``forward`` and leaving out its hooks, so that
nothing acts twice: whatever hooks and splices did below is in what was recorded. Every
host runs torch modules, so this is written once for all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.hosts.base import Host
from sae_lens_ext.hosts.eager import eager
from sae_lens_ext.hosts.hooks import hooks_left_out
from sae_lens_ext.hosts.modules import (
    parts_of,
    replaced_input,
    replaced_output,
    with_part,
)

# The threads in which blocks are skipped. (A context variable would say the same, and
# could not be sent to an nnsight server with a splice.)
_SKIPPING: list[int] = []


def is_partial_run() -> bool:
    """Whether the run in progress skips blocks, so that sites there stay silent."""
    return get_ident() in _SKIPPING


@dataclass
class RunRecord:
    """What a whole run shows, for runs that skip its first blocks.

    Attributes:
        residual: the hidden states that the first block after them received in its own
            ``forward``, behind all hooks; None where no block comes after.
        outputs: what each skipped block returned, with zeros in place of its tensors.
        unembedded: what the unembedding received, at every position; None if it was
            not called once.
        can_skip: whether each of these blocks was called once, in order, and handed on
            nothing but its hidden states.
    """

    residual: Float[Tensor, "batch pos d_model"] | None = None
    outputs: list[Any] = field(default_factory=list)
    unembedded: Float[Tensor, "batch pos d_model"] | None = None
    can_skip: bool = True


class _Recorder:
    """Fills a ``RunRecord`` while a model runs."""

    def __init__(self, n_blocks: int) -> None:
        self.record = RunRecord()
        self._n_blocks = n_blocks
        self._calls: list[int] = []
        self._n_unembedded = 0
        # By-products of the last block, such as attention weights.
        self._by_products: list[Tensor] = []

    def around(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The ``forward`` of a block, recorded."""

        def recorded_forward(*arguments: Any, **keywords: Any) -> Any:
            self._receive(index, arguments, keywords)
            output = forward(*arguments, **keywords)
            if index < self._n_blocks:
                self._return(output)
            return output

        return recorded_forward

    def at_unembedding(self, hidden: Tensor) -> None:
        """The unembedding is called."""
        self._n_unembedded += 1
        self.record.unembedded = hidden if self._n_unembedded == 1 else None

    def finish(self) -> None:
        """The run is over."""
        in_order = list(range(self._n_blocks + 1))
        self.record.can_skip &= self._calls in (in_order, in_order[:-1])
        self._by_products = []

    def _receive(
        self, index: int, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self._calls.append(index)
        tensors = _tensors([*arguments, *keywords.values()])
        # Then later blocks depend on more than the stream.
        if any(part is tensor for part in self._by_products for tensor in tensors):
            self.record.can_skip = False

        if index == self._n_blocks:
            replaced_input(arguments, keywords, self._keep_residual)

    def _keep_residual(self, residual: Tensor) -> None:
        # A later module may write into the tensor.
        self.record.residual = residual.clone()

    def _return(self, output: Any) -> None:
        hidden: list[Tensor] = []
        replaced_output(output, hidden.append)
        self._by_products = [
            tensor for tensor in _tensors([output]) if tensor is not hidden[0]
        ]
        self.record.outputs.append(_without_values(output))


@contextmanager
def recorded(host: Host, n_blocks: int) -> Iterator[RunRecord]:
    """Record the run inside of this block, for runs that skip ``n_blocks`` blocks.

    The record is complete when the block is left.
    """
    recorder = _Recorder(n_blocks)
    with ExitStack() as stack:
        stack.enter_context(eager())
        for index, block in enumerate(host.blocks[: n_blocks + 1]):
            forward = recorder.around(index, block.forward)
            stack.enter_context(forward_replaced(block, forward))

        if host.unembed is not None:
            handle = host.unembed.register_forward_pre_hook(
                lambda _, arguments, keywords: reading(
                    arguments, keywords, recorder.at_unembedding
                ),
                with_kwargs=True,
            )
            stack.callback(handle.remove)
        yield recorder.record
    recorder.finish()


@contextmanager
def skip_blocks(
    host: Host,
    n_blocks: int,
    residual: Float[Tensor, "batch pos d_model"],
    outputs: Sequence[Any] = (),
) -> Iterator[None]:
    """While active, the first ``n_blocks`` blocks and their hooks are skipped.

    Run the model with tokens of the same shape, which still choose positions and masks.

    Args:
        host: the model.
        n_blocks: how many blocks to skip.
        residual: what the last of them returns. Hooks between it and the next block act
            on it.
        outputs: what the blocks returned in a whole run, as in ``RunRecord``; without
            them they return nothing but hidden states.
    """
    with ExitStack() as stack:
        stack.enter_context(eager())
        thread = get_ident()
        _SKIPPING.append(thread)
        stack.callback(_SKIPPING.remove, thread)

        for index, block in enumerate(host.blocks[:n_blocks]):
            is_last = index == n_blocks - 1
            hidden = residual if is_last else None
            output = outputs[index] if outputs else None
            stack.enter_context(hooks_left_out(block))
            stack.enter_context(forward_replaced(block, _returning(hidden, output)))
        yield


@contextmanager
def resume(
    host: Host,
    n_blocks: int,
    residual: Float[Tensor, "batch pos d_model"],
    outputs: Sequence[Any] = (),
) -> Iterator[None]:
    """While active, runs begin inside of the block after the first ``n_blocks``.

    ``residual`` is what that block's own ``forward`` receives: hooks before it are left
    out, because a residual stream that was recorded there has them in it. See
    ``skip_blocks`` for the arguments.
    """
    with ExitStack() as stack:
        stack.enter_context(skip_blocks(host, n_blocks, residual, outputs))
        for block in host.blocks[n_blocks : n_blocks + 1]:
            forward = _receiving(block.forward, residual)
            stack.enter_context(forward_replaced(block, forward))
        yield


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While active, ``module`` runs another ``forward``."""
    # Through __dict__, because a bridge's blocks pass attributes that are set on them
    # to the module they wrap.
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def reading(
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    function: Callable[[Tensor], object],
) -> None:
    """Show a module's hidden states to ``function`` before the module is called."""

    def read(hidden: Tensor) -> None:
        function(hidden)

    replaced_input(arguments, keywords, read)


def _returning(residual: Tensor | None, output: Any) -> Callable[..., Any]:
    """A ``forward`` that returns ``residual``, or its input without one.

    It does so in the way in which the block returned ``output``.
    """

    def forward(*arguments: Any, **keywords: Any) -> Any:
        hidden: list[Tensor] = []
        reading(arguments, keywords, hidden.append)
        new = hidden[0] if residual is None else residual
        if output is None:
            return new
        return replaced_output(output, lambda _: new)

    return forward


def _receiving(forward: Callable[..., Any], residual: Tensor) -> Callable[..., Any]:
    """A ``forward`` that is called with ``residual`` in place of its hidden states."""

    def receiving(*arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = replaced_input(arguments, keywords, lambda _: residual)
        return forward(*arguments, **keywords)

    return receiving


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """All tensors in arguments or outputs, however they are nested."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        else:
            tensors += _tensors(parts_of(value).values())
    return tensors


def _without_values(output: Any) -> Any:
    """A module's output with zeros, which take no memory, in place of its tensors."""
    if isinstance(output, Tensor):
        return output.new_zeros(()).expand(output.shape)
    for key, part in parts_of(output).items():
        output = with_part(output, key, _without_values(part))
    return output
