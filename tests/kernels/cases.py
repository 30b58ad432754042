"""Shapes and contents that kernels are tested on; awkward on purpose."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Sizes of a code over a dictionary, and what is odd about it."""

    n: int
    d_model: int
    d_sae: int
    k: int
    kind: str = "plain"

    def __str__(self) -> str:
        return f"N{self.n}-D{self.d_model}-F{self.d_sae}-K{self.k}-{self.kind}"

    def code(self) -> dict[str, Tensor]:
        """values, indices, W_dec, b_dec and target, in float64."""
        g = torch.Generator().manual_seed(self.n * 1009 + self.d_model * 31 + self.k)
        values = (
            torch.rand(self.n, self.k, generator=g, dtype=torch.float64)
            .sort(dim=1, descending=True)
            .values
        )
        indices = torch.stack(
            [torch.randperm(self.d_sae, generator=g)[: self.k] for _ in range(self.n)]
        )
        if self.kind == "zeros":
            values[:, self.k // 2 :] = 0
            values[0] = 0
        if self.kind == "duplicates":
            indices[:] = indices[:, :1]
        W_dec = torch.randn(self.d_sae, self.d_model, generator=g, dtype=torch.float64)
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        return {
            "values": values,
            "indices": indices,
            "W_dec": W_dec,
            "b_dec": torch.randn(self.d_model, generator=g, dtype=torch.float64),
            "target": torch.randn(
                self.n, self.d_model, generator=g, dtype=torch.float64
            ),
        }

    def encoder(self) -> dict[str, Tensor]:
        """x, W_enc, b_enc and centre, in float64, with pre-activations that no rounding to float32 can reorder."""
        g = torch.Generator().manual_seed(self.n * 1013 + self.d_model)
        x = torch.randn(self.n, self.d_model, generator=g, dtype=torch.float64)
        W_enc = torch.randn(self.d_model, self.d_sae, generator=g, dtype=torch.float64)
        b_enc = torch.randn(self.d_sae, generator=g, dtype=torch.float64)
        if self.kind == "zeros":
            b_enc -= 100.0  # every pre-activation is below 0
        centre = torch.randn(self.d_model, generator=g, dtype=torch.float64) / 2
        return {"x": x, "W_enc": W_enc, "b_enc": b_enc, "centre": centre}


CASES = [
    Case(1, 1, 1, 1),
    Case(3, 5, 7, 7),
    Case(17, 13, 29, 6),
    Case(130, 70, 257, 33),
    Case(9, 130, 64, 8, "zeros"),
    Case(9, 130, 64, 8, "duplicates"),
    Case(200, 64, 32, 3),
]
