"""Shapes and contents that ``quadratic_attention`` is tested on; awkward on purpose."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import AttentionState, quadratic_attention_with_state
from sae_lens_ext.kernels.quadratic_attention import Coefficients, n_features

FEATURE_MAPS: dict[str, Coefficients] = {
    "based": (1.0, 1.0, 0.5),
    "rebased": (0.0, 0.0, 1.0),
    "shifted parabola": (0.5, 1.0, 0.5),
    "linear": (1.0, 1.0, 0.0),
    "without a middle": (1.0, 0.0, 2.0),
}
BASED = FEATURE_MAPS["based"]
REBASED = FEATURE_MAPS["rebased"]

IMPLEMENTATIONS = [
    ("dense", None),
    ("chunked", "reference"),
    ("chunked", "cpu"),
    ("auto", None),
    ("recurrent", None),
]
"""Every form and backend that runs without a GPU; the first one is the definition."""


@dataclass(frozen=True)
class Case:
    """Sizes, and whether the first head's keys are at right angles to its queries."""

    batch: int
    heads: int
    pos: int
    d: int
    d_v: int
    blind: bool = False

    def __str__(self) -> str:
        name = f"B{self.batch}-H{self.heads}-T{self.pos}-d{self.d}-v{self.d_v}"
        return f"{name}-blind" if self.blind else name

    def inputs(self, c: Coefficients, with_state: bool = False) -> dict[str, Tensor]:
        """q, k and v in float64; on request the parts of a state of many tokens too."""
        g = torch.Generator().manual_seed(self.pos * 31 + self.d)
        shape = (self.batch, self.heads, self.pos)
        q, k, v = (
            torch.randn(*shape, width, generator=g, dtype=torch.float64)
            for width in (self.d, self.d, self.d_v)
        )
        # Every query likes its own key, as if all scores had one sign. So the divisor
        # is not near 0, where no dtype is exact.
        k = k + 2 * q
        if self.blind:
            q[:, 0, :, 0] = 0
            k[:, 0, :, 1:] = 0

        inputs = {"q": q, "k": k, "v": v}
        if with_state:
            inputs |= self._state(c, g)
        return inputs

    def _state(self, c: Coefficients, g: torch.Generator) -> dict[str, Tensor]:
        shape = (self.batch, self.heads, n_features(self.d, c))
        kv = torch.randn(*shape, self.d_v, generator=g, dtype=torch.float64)
        k = torch.zeros(shape, dtype=torch.float64)
        if c[2]:
            # The squares are the first features of degree 2.
            first_square = shape[-1] - self.d * (self.d + 1) // 2
            k[..., first_square : first_square + self.d] = 5.0
        if c[0]:
            k[..., 0] = 5.0
        return {"state_kv": kv, "state_k": k}


CASES = [
    Case(1, 1, 2, 2, 1),
    Case(1, 2, 5, 3, 2),
    Case(2, 3, 11, 4, 3),
    Case(1, 2, 9, 16, 5),
    Case(1, 2, 6, 2, 2, blind=True),
]


@dataclass(frozen=True)
class Attention:
    """``quadratic_attention`` in one way, with all of its results in one tensor."""

    c: Coefficients
    form: Any
    backend: Any

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state_kv: Tensor | None = None,
        state_k: Tensor | None = None,
    ) -> Tensor:
        """The output and the parts of the final state, flattened and concatenated."""
        state = None
        if state_kv is not None:
            wide = torch.promote_types(torch.float32, q.dtype)
            state = AttentionState(state_kv.to(wide), state_k.to(wide))
        out, final_state = quadratic_attention_with_state(
            q, k, v, self.c, form=self.form, backend=self.backend, state=state
        )
        return torch.cat(
            [tensor.reshape(-1).to(q.dtype) for tensor in (out, *final_state)]
        )
