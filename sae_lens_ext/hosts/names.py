"""Names of the points that every block of a language model has.

They are those of TransformerLens.
"""

import re
from typing import Literal

Point = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out", "z"
]
"""A place that every block has.

``resid_pre``, ``resid_mid`` and ``resid_post`` are the residual stream before, inside
and after the block, ``attn_out`` and ``mlp_out`` what attention and MLP add to it,
``mlp_in`` what the MLP reads, behind its norm, and ``z`` the attention heads before
they are mixed.
"""

POINTS_IN_ORDER: tuple[Point, ...] = (
    "resid_pre",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_out",
    "resid_post",
)
"""Points in the order in which a block computes them."""

RESIDUAL_POINTS = ("resid_pre", "resid_post")
"""Points that hold all that later blocks see of earlier ones."""

# Two spellings: that of HookedTransformer, and the canonical one of a TransformerBridge
# where it means the same in every model.
_POINTS: dict[str, Point] = {
    "hook_resid_pre": "resid_pre",
    "hook_in": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "ln2.hook_in": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_in": "mlp_in",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "z",
    "attn.o.hook_in": "z",
}
_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
# A whole block by its path in a Hugging Face model, with or without the name of the
# side. sparsify leaves out the part before the list of blocks.
_PATH = re.compile(r"(?:[\w.]+\.)?(?:layers|h|blocks)\.(\d+)(?:\.(input|output))?")


def block_and_point(name: str) -> tuple[int, Point] | None:
    """The block and the point of a TransformerLens name; None for any other name.

    >>> block_and_point("blocks.12.hook_resid_post")
    (12, 'resid_post')
    >>> block_and_point("blocks.12.hook_out"), block_and_point("embed.hook_out")
    ((12, 'resid_post'), None)
    """
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _POINTS:
        return None
    return int(match[1]), _POINTS[match[2]]


def spellings(name: str) -> list[str]:
    """Every TransformerLens name for the same point of a block.

    A name that is not one of a block's points is returned alone.

    >>> spellings("blocks.3.hook_out"), spellings("hook_embed")
    (['blocks.3.hook_resid_post', 'blocks.3.hook_out'], ['hook_embed'])
    """
    known = block_and_point(name)
    if known is None:
        return [name]
    block, point = known
    return [f"blocks.{block}.{end}" for end in _POINTS if _POINTS[end] == point]


def name_of_path(path: str) -> str | None:
    """The TransformerLens name for the path of a whole block in a Hugging Face model.

    None for any other path.

    >>> name_of_path("model.layers.3"), name_of_path("transformer.h.3.input")
    ('blocks.3.hook_resid_post', 'blocks.3.hook_resid_pre')
    >>> name_of_path("model.layers.3.mlp") is None
    True
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    point = "resid_pre" if match[2] == "input" else "resid_post"
    return f"blocks.{match[1]}.hook_{point}"
