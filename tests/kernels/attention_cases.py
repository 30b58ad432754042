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


@dataclass(frozen=True)
class Case:
    """Sizes, and whether all keys of the first head are at right angles to its queries."""

    batch: int
    heads: int
    pos: int
    d: int
    d_v: int
    blind: bool = False

    def __str__(self) -> str:
        return f"B{self.batch}-H{self.heads}-T{self.pos}-d{self.d}-v{self.d_v}" + (
            "-blind" if self.blind else ""
        )

    def inputs(self, c: Coefficients, with_state: bool = False) -> dict[str, Tensor]:
        """q, k and v, in float64, and the parts of a state that many tokens have left."""
        g = torch.Generator().manual_seed(self.pos * 31 + self.d)
        q, k, v = (
            torch.randn(
                self.batch,
                self.heads,
                self.pos,
                width,
                generator=g,
                dtype=torch.float64,
            )
            for width in (self.d, self.d, self.d_v)
        )
        # Every query likes its own key, as with all of one sign: what divides is not near 0, where no dtype is exact.
        k = k + 2 * q
        if self.blind:
            q[:, 0, :, 0], k[:, 0, :, 1:] = 0, 0
        found = {"q": q, "k": k, "v": v}
        if with_state:
            shape = self.batch, self.heads, n_features(self.d, c)
            found["state_kv"] = torch.randn(
                *shape, self.d_v, generator=g, dtype=torch.float64
            )
            found["state_k"] = torch.zeros(shape, dtype=torch.float64)
            squares = self.d if c[2] else 0
            first = shape[-1] - self.d * (self.d + 1) // 2 if c[2] else 0
            found["state_k"][..., first : first + squares] = 5.0
            if c[0]:
                found["state_k"][..., 0] = 5.0
        return found


CASES = [
    Case(1, 1, 2, 2, 1),
    Case(1, 2, 5, 3, 2),
    Case(2, 3, 11, 4, 3),
    Case(1, 2, 9, 16, 5),
    Case(1, 2, 6, 2, 2, blind=True),
]


@dataclass(frozen=True)
class Attention:
    """A way to attend, whose result holds everything that can come out."""

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
        """Out and the state after it, in one row."""
        wide = torch.promote_types(torch.float32, q.dtype)
        state = (
            None
            if state_kv is None
            else AttentionState(state_kv.to(wide), state_k.to(wide))
        )
        found = quadratic_attention_with_state(
            q, k, v, self.c, form=self.form, backend=self.backend, state=state
        )
        return torch.cat(
            [one.reshape(-1).to(q.dtype) for one in (found.out, *found.state)]
        )
