"""What linear and softmax attention share: projections into heads and out of them."""

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.based.initialization import ResidualLinear
from sae_lens_ext.based.taps import Tap, is_hooked


class Heads(nn.Module):
    """Projections into queries, keys and values of heads, and back into the stream.

    They have no biases. ``W_Q``, ``W_K``, ``W_V`` and ``W_O`` show their weights in the
    layout of TransformerLens.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_query: int,
        d_head: int,
    ) -> None:
        """Random weights; ``d_query`` is the width of queries and keys."""
        super().__init__()
        self.heads = heads
        self.d_head = d_head

        # Heads side by side, as checkpoints of transformers store them.
        query_width = heads * d_query
        value_width = heads * d_head
        self.q_proj = nn.Linear(d_model, query_width, bias=False)
        self.k_proj = nn.Linear(d_model, query_width, bias=False)
        self.v_proj = nn.Linear(d_model, value_width, bias=False)
        self.o_proj = ResidualLinear(value_width, d_model, bias=False)

        # [batch, pos, head, d_head], the weighted values of each head
        self.hook_z = Tap()
        # [batch, pos, head, d_model], what each head adds; computed only if hooked
        self.hook_result = Tap()

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_query"]:
        """Weights of queries, before the norm and affine map of linear attention."""
        return self._by_head(self.q_proj)

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_query"]:
        """Weights of keys, before the norm and affine map of linear attention."""
        return self._by_head(self.k_proj)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """Weights of values."""
        return self._by_head(self.v_proj)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Weights with which each head writes into the stream."""
        weight = self.o_proj.weight
        return rearrange(weight, "d (h v) -> h v d", h=self.heads)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [batch, pos, head, width] each."""
        by_head = (self.heads, -1)
        q = self.q_proj(x)
        k = self.k_proj(x)
        v = self.v_proj(x)
        q = q.unflatten(-1, by_head)
        k = k.unflatten(-1, by_head)
        v = v.unflatten(-1, by_head)
        return q, k, v

    def to_stream(
        self, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What all heads together add to the stream.

        It is computed head by head if ``hook_result`` is hooked.
        """
        z = self.hook_z(z)
        if not is_hooked(self.hook_result):
            side_by_side = z.flatten(-2)
            return self.o_proj(side_by_side)

        # [batch, pos, head, d_model] takes n_heads times the memory of the stream.
        result = einsum(z, self.W_O, "b t h v, h v d -> b t h d")
        result = self.hook_result(result)
        return result.sum(2)

    def _by_head(self, projection: nn.Linear) -> Tensor:
        weight = projection.weight
        return rearrange(weight, "(h w) d -> h d w", h=self.heads)
