"""What a model keeps of the tokens it has seen. Its size does not grow with them, but in layers of full attention."""

from typing import Any

import torch
from torch import Tensor


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

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """No end: -1, as in transformers."""
        return -1

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
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """See ``reorder_cache``."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def reset(self) -> None:
        """Forget everything."""
        self.layers, self.seen = [{} for _ in self.layers], 0

    def _change(self, function: Any) -> None:
        with torch.no_grad():
            self.layers = [{name: function(tensor) for name, tensor in layer.items()} for layer in self.layers]
