"""Points inside a splice that show every token, also those that are left alone."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_lens_ext.hosts import Points


class PointsOfAllTokens(Points):
    """Points that show what the SAE makes of tokens which the splice leaves alone.

    The splice itself computes with zeros in their place, so what it would show there is
    of no token. What is shown instead is computed only where a hook is attached. Hooks
    may change it, to no effect: those tokens keep their activation.
    """

    def __init__(
        self,
        points: Points,
        mask: Bool[Tensor, "batch pos"],
        can_be_shown: Bool[Tensor, "batch pos"],
        show_all: Callable[[Points], object],
    ) -> None:
        """Show tokens outside of ``mask`` as they are.

        Args:
            points: the points.
            mask: the tokens that the splice acts on.
            can_be_shown: the tokens that an SAE can read; others are shown as zeros.
            show_all: fires points with what the SAE makes of every token.
        """
        self._points = points
        self._mask = mask
        self._can_be_shown = can_be_shown
        self._show_all = show_all
        self._of_all_tokens: _Recorder | None = None

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """See ``Points.passed``."""

        def of_each_token() -> Tensor:
            if self._of_all_tokens is None:
                recorder = _Recorder()
                self._show_all(recorder)
                self._of_all_tokens = recorder

            shown = value()
            mask = self._mask.to(shown.device).unsqueeze(-1)
            can_be_shown = self._can_be_shown.to(shown.device).unsqueeze(-1)
            own = self._of_all_tokens.values[name]().where(can_be_shown, 0)
            return torch.where(mask, shown, own)

        return self._points.passed(name, of_each_token)


class _Recorder(Points):
    """Keeps how to compute the value at every point."""

    def __init__(self) -> None:
        self.values: dict[str, Callable[[], Tensor]] = {}

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        self.values[name] = value
        return None
