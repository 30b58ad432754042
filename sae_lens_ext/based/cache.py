"""The cache of a model, whose size does not grow with the text.

Layers of full attention are the exception: they store the keys and values of all
tokens.
"""

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument

LayerCache = dict[str, Tensor]
"""The tensors that one layer stores about earlier tokens, each [batch, ...]."""


class BasedCache:
    """One mapping of tensors per layer; each kind of layer decides what it stores.

    ``transformers`` calls ``get_seq_length`` and, in beam search, ``reorder_cache``.
    """

    is_compileable = False

    def __init__(self, n_layers: int) -> None:
        """An empty cache."""
        self.layers: list[LayerCache] = [{} for _ in range(n_layers)]
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens that the model has seen."""
        return self.seen

    def n_elements(self) -> int:
        """The number of stored numbers, over all layers and the whole batch."""
        return sum(tensor.numel() for layer in self.layers for tensor in layer.values())

    def n_texts(self) -> int | None:
        """The number of rows of the batch; None while the cache is empty."""
        # Without next(), whose default value torch.compile of torch 2.8 cannot trace.
        rows = [len(tensor) for layer in self.layers for tensor in layer.values()]
        return rows[0] if rows else None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows of the batch, in the order of ``beam_idx``."""
        with torch.no_grad():
            self.layers = [_select_rows(layer, beam_idx) for layer in self.layers]

    def reset(self) -> None:
        """Empty the cache."""
        self.layers = [{} for _ in self.layers]
        self.seen = 0


def check_layer_cache(
    layer_cache: LayerCache,
    like: Tensor,
    expected_shapes: dict[str, tuple[int, ...]],
    sums: tuple[str, ...] = (),
) -> None:
    """Check that a layer's cache was made by a layer of the same kind and shape.

    Args:
        layer_cache: the cache of the layer.
        like: the activation whose dtype the tensors must have; they may be narrower if
            they come out of autocast.
        expected_shapes: name -> shape, without the batch.
        sums: names of the tensors that are in float32 or wider.

    Raises:
        InvalidArgument: other names, shapes or dtypes.
    """
    names_match = list(layer_cache) == list(expected_shapes)
    shapes_match = names_match and all(
        tuple(tensor.shape[1:]) == expected_shapes[name]
        for name, tensor in layer_cache.items()
    )
    dtypes_match = shapes_match and all(
        _dtype_fits(tensor, like.dtype, is_sum=name in sums)
        for name, tensor in layer_cache.items()
    )
    if dtypes_match:
        return

    expected = ", ".join(
        f"{name} {list(shape)}" for name, shape in expected_shapes.items()
    )
    stored = ", ".join(
        f"{name} {list(tensor.shape[1:])} {tensor.dtype}"
        for name, tensor in layer_cache.items()
    )
    raise InvalidArgument(
        "past_key_values must be the BasedCache that this model returned; a layer that "
        f"stores {expected} per text ({like.dtype}) got {stored}"
    )


def _dtype_fits(tensor: Tensor, dtype: torch.dtype, *, is_sum: bool) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = torch.promote_types(torch.float32, dtype)
    if is_sum:
        return tensor.dtype == wide
    # Autocast leaves tensors that are narrower than the float32 of a later call.
    is_narrower = tensor.dtype.itemsize < dtype.itemsize and wide == torch.float32
    return tensor.dtype == dtype or is_narrower


def _select_rows(layer_cache: LayerCache, rows: Tensor) -> LayerCache:
    return {
        name: tensor.index_select(0, rows.to(tensor.device))
        for name, tensor in layer_cache.items()
    }
