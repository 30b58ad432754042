"""What the readers of all publications do alike."""

from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import Layout, Shapes
from sae_lens_ext.based.config import FEATURE_MAPS

# Spellings of feature maps, without dots, underscores and capitals. Publications of
# ReBased name Taylor's too, which its code does not read.
_TAYLOR_NAMES = ("taylorexp", "taylor", "taylorfeaturemap")
_SQUARE_NAMES = ("squared", "square", "rebased", "rebasedfeaturemap")


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


def check_feature_map(attention: Fields, key: str, kernel: str) -> None:
    """Report the name of a feature map, or of its class, that is not of the kernel.

    A field that is missing stands for the map that the weights or the caller name.
    """
    attention.read.add(key)
    if key not in attention.values:
        return
    value = attention.values[key]
    name = str(value).rpartition(".")[2].replace("_", "").lower()
    is_square = FEATURE_MAPS[kernel].coefficients[:2] == (0.0, 0.0)
    names = (*_TAYLOR_NAMES, *_SQUARE_NAMES) if is_square else _TAYLOR_NAMES
    if name not in names:
        attention.report(
            f"{attention.prefix}{key} is {value!r}, and the weights would be loaded "
            f"with the feature map of kernel={kernel!r}; name another with kernel= if "
            "it is one of this package"
        )


def check_attention_options(attention: Fields, kernel: str) -> None:
    """Report options of linear attention that its kernel here does not have."""
    attention.expect(
        "causal", True, True, effect="otherwise tokens attend to later ones"
    )
    attention.expect(
        "qk_norm",
        False,
        False,
        effect="otherwise queries and keys are normalised before the Taylor kernel",
    )

    feature_map = FEATURE_MAPS[kernel]
    flags = {
        "use_gamma": feature_map.has_gamma,
        "use_beta": feature_map.has_beta,
        "normalize": feature_map.normalizes,
    }
    stated = {key: attention.value(key, True) for key in flags if key in attention}
    # Weights without such norms are taken for "based" if the caller names no kernel.
    if kernel == "based" and stated:
        attention.report(
            f"{attention.prefix}{next(iter(stated))} is an option of ReBased, and the "
            "weights have no norm of queries and keys: name with kernel= which of its "
            "ablations it is"
        )
        return
    for key, value in stated.items():
        if value != flags[key]:
            attention.report(
                f"{attention.prefix}{key} is {value!r}, and it is {flags[key]} for "
                f"kernel={kernel!r}; name with kernel= which ablation it is"
            )
