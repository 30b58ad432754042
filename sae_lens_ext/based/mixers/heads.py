"""What linear and softmax attention have in common: the projections into heads and out of them."""

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.based.taps import Tap, is_watched
from sae_lens_ext.based.writer import Writer


class Heads(nn.Module):
    """Projections of the stream into queries, keys and values of every head, and of what the heads found back into the stream.

    None has a bias. The weights are shown as TransformerLens lays them out.
    """

    def __init__(self, d_model: int, heads: int, d_query: int, d_head: int) -> None:
        """Random weights; a query and a key are ``d_query`` wide, a value ``d_head``."""
        super().__init__()
        self.heads, self.d_head = heads, d_head
        self.q_proj = nn.Linear(d_model, heads * d_query, bias=False)
        self.k_proj = nn.Linear(d_model, heads * d_query, bias=False)
        self.v_proj = nn.Linear(d_model, heads * d_head, bias=False)
        self.o_proj = Writer(heads * d_head, d_model, bias=False)
        self.hook_z = Tap()  # [batch, pos, head, d_head], what each head found
        self.hook_result = Tap()  # [batch, pos, head, d_model], what each head adds; computed where somebody watches

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_query"]:
        """What makes queries; those of linear attention then pass its norm and affine map."""
        return self._into_heads(self.q_proj)

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_query"]:
        """What makes keys, likewise."""
        return self._into_heads(self.k_proj)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """What makes values."""
        return self._into_heads(self.v_proj)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """What each head writes with."""
        return rearrange(self.o_proj.weight, "d (h v) -> h v d", h=self.heads)

    def mix(
        self, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads add to the stream together, head by head where somebody watches what each adds."""
        z = self.hook_z(z)
        if not is_watched(self.hook_result):
            return self.o_proj(z.flatten(-2))
        return self.hook_result(einsum(z, self.W_O, "b t h v, h v d -> b t h d")).sum(2)

    def _into_heads(self, projection: nn.Linear) -> Tensor:
        return rearrange(projection.weight, "(h w) d -> h d w", h=self.heads)
