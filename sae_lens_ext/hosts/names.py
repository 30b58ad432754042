"""Names of the points that every block of a language model has, in the spellings of TransformerLens."""

import re
from typing import Literal

Point = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"]
"""The residual stream before, inside and after a block; what attention and MLP add to it; attention's heads before they are mixed."""

POINTS_IN_ORDER: tuple[Point, ...] = (
    "resid_pre",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
)
"""As a block computes them."""

RESIDUAL_POINTS = ("resid_pre", "resid_post")
"""Points that hold all that later blocks see of earlier ones."""

# Both spellings: HookedTransformer's, and the canonical one of a TransformerBridge where it means the same in every model.
_POINTS: dict[str, Point] = {
    "hook_resid_pre": "resid_pre",
    "hook_in": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "ln2.hook_in": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "z",
    "attn.o.hook_in": "z",
}
_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
# A whole block by its path in a Hugging Face model, with or without the name of the side; sparsify leaves out what comes before.
_PATH = re.compile(r"(?:[\w.]+\.)?(?:layers|h|blocks)\.(\d+)(?:\.(input|output))?")


def block_and_point(name: str) -> tuple[int, Point] | None:
    """The block and the point that a TransformerLens name means, or None for any other name.

    >>> block_and_point("blocks.12.hook_resid_post"), block_and_point("blocks.12.hook_out"), block_and_point("embed.hook_out")
    ((12, 'resid_post'), (12, 'resid_post'), None)
    """
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _POINTS:
        return None
    return int(match[1]), _POINTS[match[2]]


def spellings(name: str) -> list[str]:
    """Every TransformerLens name for the point that ``name`` means; the name alone where it is no point of a block.

    >>> spellings("blocks.3.hook_out"), spellings("hook_embed")
    (['blocks.3.hook_resid_post', 'blocks.3.hook_out'], ['hook_embed'])
    """
    known = block_and_point(name)
    return (
        [name]
        if known is None
        else [
            f"blocks.{known[0]}.{end}"
            for end, point in _POINTS.items()
            if point == known[1]
        ]
    )


def name_of_path(path: str) -> str | None:
    """The TransformerLens name for a whole block given by its path in a Hugging Face model, or None for any other path.

    >>> name_of_path("model.layers.3"), name_of_path("transformer.h.3.input"), name_of_path("model.layers.3.mlp")
    ('blocks.3.hook_resid_post', 'blocks.3.hook_resid_pre', None)
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    return f"blocks.{match[1]}.hook_resid_{'pre' if match[2] == 'input' else 'post'}"
