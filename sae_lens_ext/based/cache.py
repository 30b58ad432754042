"""What a model keeps of the tokens it has seen. Its size does not grow with them, but in layers of full attention."""

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument

Kept = dict[str, Tensor]
"""What a layer keeps of earlier tokens."""


def refuse_foreign(
    kept: Kept,
    like: Tensor,
    wanted: dict[str, tuple[int, ...]],
    sums: tuple[str, ...] = (),
) -> None:
    """Refuse what another model's layer has kept.

    Args:
        kept: what the cache holds for the layer.
        like: the activation whose dtype it must have, or under autocast a narrower one.
        wanted: name -> shape, without the batch.
        sums: names of those that are in float32 or wider.

    Raises:
        InvalidArgument: other names, shapes or dtypes.
    """
    wide = torch.promote_types(torch.float32, like.dtype)
    names = list(kept) == list(wanted)
    shapes = names and all(
        tuple(kept[name].shape[1:]) == shape for name, shape in wanted.items()
    )
    dtypes = shapes and all(
        kept[name].dtype == wide
        if name in sums
        else kept[name].dtype == like.dtype
        or (kept[name].dtype.itemsize < like.dtype.itemsize and wide == torch.float32)
        for name in wanted
        if kept[name].is_floating_point()
    )
    if not dtypes:
        found = ", ".join(
            f"{name} {list(one.shape[1:])} {one.dtype}" for name, one in kept.items()
        )
        expected = ", ".join(f"{name} {list(shape)}" for name, shape in wanted.items())
        raise InvalidArgument(
            f"past_key_values must be the BasedCache that this model returned; for a layer that keeps {expected} of every text "
            f"({like.dtype}) it holds {found}"
        )


class BasedCache:
    """One mapping of tensors per layer, [batch, ...] each; what is in it is the layer's own business.

    ``transformers`` asks for ``get_seq_length`` and, in beam search, for ``reorder_cache``.
    """

    is_compileable = False

    def __init__(self, n_layers: int) -> None:
        """Nothing seen yet."""
        self.layers: list[dict[str, Tensor]] = [{} for _ in range(n_layers)]
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens have been seen."""
        return self.seen

    def n_elements(self) -> int:
        """Numbers kept, over all layers and the whole batch."""
        return sum(tensor.numel() for layer in self.layers for tensor in layer.values())

    def n_texts(self) -> int | None:
        """Rows of the batch; None while nothing is kept."""
        # Not by next(), whose default torch.compile of torch 2.8 does not know.
        rows = [len(tensor) for layer in self.layers for tensor in layer.values()]
        return rows[0] if rows else None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        with torch.no_grad():
            self.layers = [
                {
                    name: one.index_select(0, beam_idx.to(one.device))
                    for name, one in layer.items()
                }
                for layer in self.layers
            ]

    def reset(self) -> None:
        """Forget everything."""
        self.layers, self.seen = [{} for _ in self.layers], 0
