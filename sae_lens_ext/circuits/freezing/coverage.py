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
        self._n_norms_running = 0
        self._problems: list[str] = []
        self._undo = ExitStack()

        # Compiled code would show none of the functions that it was compiled from.
        self._undo.enter_context(eager())
        module = getattr(host.model, "_orig_mod", host.model)
        if "attention" in kinds:
            self._hold_linear_attention(module)
        for index, block in enumerate(host.blocks):
            for kind in kinds:
                self._watch(block, kind, f"block {index}", _has_part(block, kind))
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

    def close(self) -> None:
        """Take the hooks out again."""
        self._undo.close()

    def _watch(
        self, module: nn.Module, kind: str, name: str, is_expected: bool
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
        self._watch(norm, "norms", name, getattr(norm, "normalizes", True))

        def begin(*_: Any) -> None:
            self._n_norms_running += 1

        def end(*_: Any) -> None:
            self._n_norms_running -= 1

        self._around(norm, begin, end)

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
