"""Whether everything that was to be held in a run was there to be held."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sae_lens_ext.circuits.freezing.tape import Tape
from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts import Host, eager

# Of blocks of Based that have no attention: their mixers are gated convolutions.
_CONVOLUTION = "ShortConvolution"
_LINEAR_ATTENTION = "sae_lens_ext.based.mixers.linear_attention"


class Coverage:
    """Hooks that see where a run is, and count what is held there.

    Attributes:
        is_in_norm: whether a norm's ``forward`` is running.
    """

    def __init__(self, host: Host, kinds: Sequence[str], tape: Tape) -> None:
        """Attach to the blocks, norms and taps of a model.

        Raises:
            UnsupportedHost: it is not known which modules are the model's blocks.
        """
        if not host.blocks:
            raise UnsupportedHost(
                f"cannot tell which modules of a {type(host.model).__name__} are its "
                "blocks, so not whether each attention and norm in it is held; pass "
                "freeze=()"
            )
        self._kinds = kinds
        self._tape = tape
        self._blocks = host.blocks
        self._n_norms_running = 0
        self._problems: list[str] = []
        self._norms: dict[str, nn.Module] = {}
        self._attention: dict[str, nn.Module] = {}
        self._n_found = 0
        self._undo = ExitStack()

        # Compiled code would show none of the functions that it was compiled from.
        self._undo.enter_context(eager())
        module = getattr(host.model, "_orig_mod", host.model)
        if "attention" in kinds:
            self._hold_linear_attention(module)
        for index, block in enumerate(host.blocks):
            for kind in kinds:
                self._watch(block, kind, f"block {index}", _has_part(block, kind))
            if "attention" in kinds:
                for path, part in block.named_modules(prefix=f"block {index}"):
                    self._watch_for_attention(part, path)
        if "norms" in kinds:
            for path, part in module.named_modules():
                if _is_norm(part):
                    self._watch_norm(part, path)

    @property
    def is_in_norm(self) -> bool:
        """Whether a norm's ``forward`` is running."""
        return self._n_norms_running > 0

    def check(self) -> None:
        """Check that everything was held, after a run.

        Raises:
            UnsupportedHost: something was not.
        """
        if self._problems:
            raise UnsupportedHost(
                f"freeze cannot hold everything in this model: {self._problems[0]}. It "
                "holds attention that is written with softmax or "
                "scaled_dot_product_attention, and norms that are written with "
                "operations of torch; load the model with attn_implementation='eager' "
                "and without fused kernels, or pass freeze=()"
            )

    def linear_modules(self) -> dict[str, nn.Module]:
        """Modules that are linear with what was held in a run, by names for messages.

        Those are the norms, and the innermost modules with weights in which attention
        was held; but for blocks, which have MLPs.
        """
        attention = {
            path: module
            for path, module in self._attention.items()
            if not any(module is block for block in self._blocks)
        }
        if "norms" not in self._kinds:
            # Norms of queries and keys only make the pattern; others are not held.
            attention = {
                path: module
                for path, module in attention.items()
                if not any(_is_norm(part) for part in module.modules())
            }
        return {**attention, **self._norms}

    def close(self) -> None:
        """Take the hooks out again."""
        self._undo.close()

    def _watch(
        self,
        module: nn.Module,
        kind: str,
        name: str,
        is_expected: bool,
    ) -> None:
        """Note where a call of a module holds nothing of a kind."""
        counts: list[int] = []

        def begin(*_: Any) -> None:
            counts.append(self._tape.n_held(kind))

        def end(*_: Any) -> None:
            before = counts.pop()
            if is_expected and self._tape.n_held(kind) == before:
                self._problems.append(f"in {name} there is nothing to hold of {kind}")

        self._around(module, begin, end)

    def _watch_norm(self, norm: nn.Module, path: str) -> None:
        name = f"{path}, a {type(norm).__name__},"
        normalizes = getattr(norm, "normalizes", True)
        self._watch(norm, "norms", name, normalizes)
        if normalizes:
            self._norms[path] = norm

        def begin(*_: Any) -> None:
            self._n_norms_running += 1

        def end(*_: Any) -> None:
            self._n_norms_running -= 1

        self._around(norm, begin, end)

    def _watch_for_attention(self, module: nn.Module, path: str) -> None:
        """Note whether a module is the innermost one that holds what it calls."""
        # A tap or a softmax as a module is a part of the attention around it.
        if next(module.parameters(), None) is None:
            return
        counts: list[int] = []

        def begin(*_: Any) -> None:
            counts.append(self._tape.n_held("attention"))

        def end(*_: Any) -> None:
            before = counts.pop()
            n_held = self._tape.n_held("attention")
            # A module inside this one has returned already.
            if n_held > before >= self._n_found:
                self._attention[path] = module
                self._n_found = n_held

        self._around(module, begin, end)

    def _around(
        self,
        module: nn.Module,
        begin: Callable[..., None],
        end: Callable[..., None],
    ) -> None:
        before = module.register_forward_pre_hook(begin)
        self._undo.callback(before.remove)
        after = module.register_forward_hook(end)
        self._undo.callback(after.remove)

    def _hold_linear_attention(self, module: nn.Module) -> None:
        """Hold the queries and keys of linear attention, where there is any."""
        # Without this module, no model has any.
        loaded = sys.modules.get(_LINEAR_ATTENTION)
        if loaded is None:
            return

        def hold(_: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            (tensor,) = self._tape.held("a tap", "attention", lambda: (output,))
            return tensor

        for mixer in module.modules():
            if isinstance(mixer, loaded.LinearAttention):
                taps: list[Any] = [mixer.hook_q, mixer.hook_k]
                for tap in taps:
                    handle = tap.register_forward_hook(hold)
                    self._undo.callback(handle.remove)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _has_part(block: nn.Module, kind: str) -> bool:
    """Whether a block has something of a kind to hold."""
    if kind != "attention":
        return True
    mixers = (type(part).__name__ for part in block.modules())
    return _CONVOLUTION not in mixers
