"""Attention patterns and norms held at their values in one run.

A model whose attention patterns and norm denominators are constants is linear between
its MLPs. Nothing of a model is replaced for it: while a run is recorded or repeated, a
mode of torch sees every function that the model calls, and holds

- a softmax over the keys of ``[batch, head, query, key]``, or the queries and keys of
  ``scaled_dot_product_attention`` and of attention over long rows, which are all that a
  pattern depends on,
- roots and norms inside modules that are called norms, and the denominators of
  ``layer_norm`` and ``rms_norm``,
- queries and keys of the linear attention of Based, by its taps.

So it works alike for every host and every implementation that is written in these, and
the forward values keep their bits. What is written otherwise (a fused kernel) is found
out, because a block or a norm then shows nothing to hold, and raises an error. So does
a module that is not linear with all that held: ``linearity`` tries each of them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sae_lens_ext.circuits.freezing.coverage import Coverage
from sae_lens_ext.circuits.freezing.functions import HeldFunctions
from sae_lens_ext.circuits.freezing.linearity import N_ROWS, LinearityCheck
from sae_lens_ext.circuits.freezing.tape import Tape
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Host, TokenBatch, long_rows, unembedding_input

Freeze = Literal["attention", "norms"]
FREEZE = ("attention", "norms")

__all__ = ["FREEZE", "Freeze", "Freezing", "checked_freeze"]


def checked_freeze(freeze: Any) -> tuple[Freeze, ...]:
    """What to hold, from one name or several.

    >>> checked_freeze("norms"), checked_freeze(["norms", "attention"])
    (('norms',), ('attention', 'norms'))

    Raises:
        InvalidArgument: anything but these names.
    """
    names = (freeze,) if isinstance(freeze, str) else freeze
    is_list = isinstance(names, list | tuple | set | frozenset)
    if not is_list or any(name not in FREEZE for name in names):
        raise InvalidArgument(
            f"freeze must be some of {', '.join(FREEZE)}; got {freeze!r}"
        )
    kinds: tuple[Freeze, ...] = ("attention", "norms")
    return tuple(kind for kind in kinds if kind in names)


class Freezing:
    """What is held in the runs of a model, at the values of the run that was recorded.

    In both contexts gradients pass as if what is held were constants.
    """

    def __init__(self, host: Host, kinds: tuple[Freeze, ...]) -> None:
        """Hold nothing yet.

        Args:
            host: the model, as ``Host.plain`` gives it.
            kinds: what to hold; empty for nothing, and both contexts do nothing.
        """
        self._host = host
        self._kinds = kinds
        self._tape = Tape()
        self._linear: dict[str, nn.Module] = {}

    @contextmanager
    def recording(self, n_rows: int | None = None) -> Iterator[None]:
        """While active, the model's one run is recorded.

        Args:
            n_rows: how many rows the run has, which a model may put on one axis with
                positions.

        Raises:
            UnsupportedHost: a block, or a norm, computes what cannot be held.
        """
        if not self._kinds:
            yield
            return
        self._tape = Tape(n_rows=n_rows)
        with self._active(self._tape) as coverage:
            yield
        coverage.check()
        self._linear = coverage.linear_modules()

    def check_linear(self, tokens: TokenBatch) -> None:
        """Check that attention and norms are linear, after a run was recorded.

        One more run, of the shortest row four times; see ``linearity``.

        Args:
            tokens: the rows of the recorded run, padded on the right.

        Raises:
            UnsupportedHost: one of them is not.
        """
        if not self._linear:
            return
        row = int(tokens.lengths.argmin())
        rows = torch.full((N_ROWS,), row)
        check = LinearityCheck(self._linear, tokens.shape[1])
        try:
            with torch.no_grad(), self.replaying(rows):
                self._run(tokens[rows.tolist()])
        finally:
            check.close()
        check.raise_problems()

    @contextmanager
    def replaying(self, rows: Int[Tensor, " rows"] | None = None) -> Iterator[None]:
        """While active, the model's one run has what was recorded.

        Args:
            rows: the recorded rows that the run has, in its order; None for all.
        """
        if not self._kinds:
            yield
            return
        tape = self._tape.replayed(rows)
        with self._active(tape):
            yield

    def _run(self, tokens: TokenBatch) -> None:
        """Run the model, as far as its logits where it is known what makes them."""
        with long_rows(self._host, tokens):
            if self._host.unembed is None:
                self._host.logits(tokens)
            else:
                unembedding_input(self._host, tokens)

    @contextmanager
    def _active(self, tape: Tape) -> Iterator[Coverage]:
        with ExitStack() as stack:
            coverage = Coverage(self._host, self._kinds, tape)
            stack.callback(coverage.close)
            functions = HeldFunctions(
                tape, self._kinds, is_in_norm=lambda: coverage.is_in_norm
            )
            stack.enter_context(functions)
            yield coverage
