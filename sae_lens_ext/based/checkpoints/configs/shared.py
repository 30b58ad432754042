"""What the readers of all publications do alike."""

from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import Layout, Shapes


def vocab_size(fields: Fields, layout: Layout, shapes: Shapes) -> int:
    """Rows of the embedding, those that only pad the vocabulary included.

    The weights decide, if they have at least as many rows as the vocabulary.
    """
    size = fields.integer("vocab_size")
    multiple = fields.integer("pad_vocab_size_multiple", 1)
    rows = shapes.get(f"{layout.embeddings}.weight", [0])[0]
    if rows >= size:
        return rows
    return -(-size // multiple) * multiple


def conv_kernel_size(shapes: Shapes) -> int:
    """Number of tokens that a convolution sees: the last axis of its weights.

    Configs have it under two names, one of which has no effect.
    """
    for name, shape in shapes.items():
        if name.endswith(".conv.weight") and len(shape) == 3:
            return shape[-1]
    return 3


def check_heads(attention: Fields, n_heads: int) -> None:
    """Report attention with its own number of heads; a model here has one for all."""
    n_here = attention.integer("num_heads")
    if "num_heads" in attention and n_here != n_heads:
        value = attention.value("num_heads", None)
        attention.report(
            f"{attention.prefix}num_heads is {value!r} in a model with {n_heads} "
            "heads, and must be the same"
        )
