"""Shapes and contents that kernels are tested on; awkward on purpose."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Sizes of a code over a dictionary, and its peculiarity."""

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
        values = torch.rand(self.n, self.k, generator=g, dtype=torch.float64)
        values = values.sort(dim=1, descending=True).values
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
        b_dec = torch.randn(self.d_model, generator=g, dtype=torch.float64)
        target = torch.randn(self.n, self.d_model, generator=g, dtype=torch.float64)
        return {
            "values": values,
            "indices": indices,
            "W_dec": W_dec,
            "b_dec": b_dec,
            "target": target,
        }

    def encoder(self) -> dict[str, Tensor]:
        """x, W_enc, b_enc and centre, in float64.

        No rounding to float32 can reorder the pre-activations.
        """
        g = torch.Generator().manual_seed(self.n * 1013 + self.d_model)
        x = torch.randn(self.n, self.d_model, generator=g, dtype=torch.float64)
        W_enc = torch.randn(self.d_model, self.d_sae, generator=g, dtype=torch.float64)
        b_enc = torch.randn(self.d_sae, generator=g, dtype=torch.float64)
        if self.kind == "zeros":
            # Every pre-activation is below 0.
            b_enc -= 100.0
        centre = torch.randn(self.d_model, generator=g, dtype=torch.float64) / 2
        return {"x": x, "W_enc": W_enc, "b_enc": b_enc, "centre": centre}

    def exact_encoder(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """x, W_enc, b_enc and centre of small integers, exact in every product.

        Whatever the order in which a library sums, pre-activations have the same bits.
        """
        g = torch.Generator().manual_seed(self.n * 1019 + self.d_model)
        # Half precision holds few integers.
        reach = 64 if dtype == torch.float32 else 1

        def integers(*shape: int) -> Tensor:
            numbers = torch.randint(-reach, reach + 1, shape, generator=g)
            return numbers.to(dtype)

        tensors = {
            "x": integers(self.n, self.d_model),
            "W_enc": integers(self.d_model, self.d_sae),
            "b_enc": integers(self.d_sae),
            "centre": integers(self.d_model),
        }
        if self.kind == "zeros":
            tensors["b_enc"] -= 100 * reach
        largest = exact_pre_activations(**tensors).abs().max().item()
        assert largest <= 2 / torch.finfo(dtype).eps, "an integer would be rounded"
        return tensors


def exact_pre_activations(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor
) -> Tensor:
    """Pre-activations in float64."""
    return (x.double() - centre.double()) @ W_enc.double() + b_enc.double()


CASES = [
    Case(1, 1, 1, 1),
    Case(3, 5, 7, 7),
    Case(17, 13, 29, 6),
    Case(130, 70, 257, 33),
    Case(9, 130, 64, 8, "zeros"),
    Case(9, 130, 64, 8, "duplicates"),
    Case(200, 64, 32, 3),
]


def cast(
    inputs: dict[str, Tensor], dtype: torch.dtype, *, requires_grad: bool = False
) -> dict[str, Tensor]:
    """Copies of ``inputs``, with floating-point tensors in ``dtype``."""
    return {
        name: tensor.detach().to(dtype, copy=True).requires_grad_(requires_grad)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in inputs.items()
    }
