"""Small runs of a torch model, to see what its modules compute.

Every block reads a random stream in place of the one that comes to it. In the run that
counts it is as large as what the block was seen to add, so that neither hides the other
in half precision.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts.hooks import undisturbed
from sae_lens_ext.hosts.modules import replaced_input, replaced_output
from sae_lens_ext.hosts.skipping import forward_replaced

_N_POSITIONS = 6


@dataclass
class Call:
    """The call of a module in a block.

    Attributes:
        path: of the module, in the block.
        module: the module.
        order: how many modules of the block had returned before.
        before: the hidden states that it was called with.
        after: the hidden states that it returned.
    """

    path: str
    module: nn.Module
    order: int
    before: Tensor | None
    after: Tensor


@dataclass
class BlockRun:
    """What was seen of one block: its stream, and the modules that ran once in it.

    Attributes:
        scale: the size of the stream that it reads; once it ran, of what it added.
        n_runs: how often the block ran.
        before: the stream that it read.
        after: the stream that it returned.
        calls: by path in the block, in the order in which they returned.
    """

    scale: float = 1.0
    n_runs: int = 0
    before: Float[Tensor, "batch pos d_model"] | None = None
    after: Float[Tensor, "batch pos d_model"] | None = None
    calls: dict[str, Call] = field(default_factory=dict)


@contextmanager
def probed(
    module: nn.Module, blocks: Sequence[nn.Module], run: Callable[[], object]
) -> Iterator[list[BlockRun]]:
    """Call ``run``, which runs ``module``, twice, and show what its blocks did.

    The model is in evaluation mode, without gradients and without the hooks of users,
    until the context is left, and then as it was; random numbers, too.
    """
    with ExitStack() as stack:
        stack.enter_context(undisturbed(module))
        block_runs = [BlockRun() for _ in blocks]
        for _ in range(2):
            probe = _Probe(blocks, [block_run.scale for block_run in block_runs])
            with probe.watching():
                run()
            block_runs = probe.block_runs
        yield block_runs


def harmless_ids(d_vocab: int, config: Any) -> Int[Tensor, "one pos"]:
    """Token ids that mean nothing but text: not, for instance, a place for an image."""
    numbers: set[int] = set()
    for part in (config, getattr(config, "text_config", None)):
        values: dict[str, Any] = getattr(part, "__dict__", {})
        numbers |= {
            value
            for name, value in values.items()
            if name.endswith(("_id", "_index")) and isinstance(value, int)
        }
    ids = [token_id for token_id in range(min(d_vocab, 512)) if token_id not in numbers]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(max(1, len(ids)), (1, _N_POSITIONS), generator=generator)
    return torch.tensor(ids or [0])[chosen]


class _Probe:
    """Records the calls of the modules in blocks.

    By wrapping their ``forward``, because some models compute in another way where
    their modules have hooks.
    """

    def __init__(self, blocks: Sequence[nn.Module], scales: Sequence[float]) -> None:
        self.block_runs = [BlockRun(scale=scale) for scale in scales]
        self._blocks = blocks
        self._current: BlockRun | None = None
        self._n_calls: dict[int, int] = {}
        self._generator = torch.Generator().manual_seed(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While active, calls are recorded."""
        with ExitStack() as stack:
            for block, block_run in zip(self._blocks, self.block_runs, strict=True):
                parts = dict(block.named_modules())
                parts.pop("")
                for path, part in parts.items():
                    forward = self._around_part(path, part, block_run)
                    stack.enter_context(forward_replaced(part, forward))
                forward = self._around_block(block.forward, block_run)
                stack.enter_context(forward_replaced(block, forward))
            yield

        for block_run in self.block_runs:
            # A module that runs several times, or in several blocks, is not one place.
            block_run.calls = {
                path: call
                for path, call in block_run.calls.items()
                if self._n_calls[id(call.module)] == 1
            }

    def _around_block(
        self, forward: Callable[..., Any], block_run: BlockRun
    ) -> Callable[..., Any]:
        """The ``forward`` of a block, which reads a random stream."""

        def random_stream(hidden: Tensor) -> Tensor:
            noise = torch.randn(hidden.shape, generator=self._generator)
            block_run.before = (block_run.scale * noise).to(hidden)
            return block_run.before.clone()

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            block_run.n_runs += 1
            arguments, keywords = replaced_input(arguments, keywords, random_stream)
            self._current = block_run
            output = forward(*arguments, **keywords)
            self._current = None

            after = _hidden_of(output)
            before = block_run.before
            if after is not None and before is not None:
                block_run.after = after.clone()
                if after.shape == before.shape:
                    gain = after.double() - before.double()
                    block_run.scale = gain.square().mean().sqrt().item()
            return output

        return recorded

    def _around_part(
        self, path: str, part: nn.Module, block_run: BlockRun
    ) -> Callable[..., Any]:
        """The ``forward`` of a module in a block."""
        forward = part.forward

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            if self._current is not block_run:
                return forward(*arguments, **keywords)
            self._n_calls[id(part)] = self._n_calls.get(id(part), 0) + 1
            before = _input_of(arguments, keywords)
            # The module may write into it.
            before = None if before is None else before.clone()
            output = forward(*arguments, **keywords)

            after = _hidden_of(output)
            if after is not None and path not in block_run.calls:
                order = len(block_run.calls)
                block_run.calls[path] = Call(path, part, order, before, after.clone())
            return output

        return recorded


def _input_of(arguments: Any, keywords: Any) -> Tensor | None:
    """The hidden states among a module's arguments, or None."""
    hidden: list[Tensor] = []
    try:
        replaced_input(arguments, keywords, hidden.append)
    except UnknownSite:
        return None
    return hidden[0]


def _hidden_of(output: Any) -> Tensor | None:
    """The hidden states in a module's output, or None."""
    hidden: list[Tensor] = []
    try:
        replaced_output(output, hidden.append)
    except UnknownSite:
        return None
    return hidden[0]
