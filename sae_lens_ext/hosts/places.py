"""From the name of a site to a module of a torch model, and one side of it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from sae_lens_ext.errors import UnknownSite, closest
from sae_lens_ext.hosts.modules import find_blocks
from sae_lens_ext.hosts.names import RESIDUAL_POINTS, Point, block_and_point

_ATTENTION = ("self_attn", "attn", "attention", "mixer")
_MLP = ("mlp",)
_HEADS_MIXED_BY = ("o_proj", "c_proj", "dense")
# Where attention and MLP add to the residual stream differs between families: a norm
# may follow them, or the residual be added inside them. For these it was checked that
# before + attention + MLP == after.
_CHECKED_FAMILIES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "qwen2",
    "qwen3",
    "sae_lens_ext_based",
)


class Place(NamedTuple):
    """One side of a module.

    Attributes:
        path: the module's path in the model, as in ``named_modules``.
        side: whether what goes into the module is meant, or what comes out of it.
    """

    path: str
    side: Literal["input", "output"]


class ModulePlaces:
    """The places of a torch model, by TransformerLens names and by paths of modules.

    Attributes:
        blocks_path: path of the list of transformer blocks; empty if there is none.
        blocks: its transformer blocks, in order.
        modules: every module by its path.
    """

    def __init__(self, module: nn.Module) -> None:
        """Look up the modules of ``module`` once."""
        self.blocks_path, self.blocks = find_blocks(module)
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        config = getattr(module, "config", None)
        self._family: str | None = getattr(config, "model_type", None)
        self._class_name = type(module).__name__

    def find(self, name: str) -> tuple[Place, int | None, Point | None]:
        """The place that a name means, and its block and point.

        The latter are None where it is not one that every block has.

        Raises:
            UnknownSite: see ``Host.site``.
        """
        known = block_and_point(name)
        if known is not None:
            block, point = known
            return self._of_point(name, block, point), block, point

        place = self._of_path(name)
        # A whole block by its path is the residual stream before or after it.
        parent, _, index = place.path.rpartition(".")
        if self.blocks and parent == self.blocks_path:
            point = "resid_pre" if place.side == "input" else "resid_post"
            return place, int(index), point
        return place, None, None

    def _of_path(self, name: str) -> Place:
        """The place that the path of a module means, or the end of only one path."""
        path, _, end = name.rpartition(".")
        if end not in ("input", "output"):
            path = name
        side = "input" if end == "input" else "output"

        if path in self.modules:
            matches = [path]
        else:
            matches = [full for full in self.modules if full.endswith(f".{path}")]

        # The empty path is that of the model itself, which is not a site.
        if len(matches) != 1 or not matches[0]:
            ambiguity = ""
            if len(matches) > 1:
                ambiguity = f"; it ends {len(matches)} paths, so write one of them out"
            raise UnknownSite(
                f"no site {name!r} in this model{ambiguity}; the closest: "
                f"{closest(name, [*self._residual_names(), *self.modules])}"
            )
        return Place(matches[0], side)

    def _residual_names(self) -> list[str]:
        return [
            f"blocks.{index}.hook_{point}"
            for index in range(len(self.blocks))
            for point in RESIDUAL_POINTS
        ]

    def _of_point(self, name: str, index: int, point: Point) -> Place:
        """The place of a point that every block has."""
        if index >= len(self.blocks):
            raise UnknownSite(
                f"no site {name!r} in this model, which has {len(self.blocks)} blocks"
            )
        path = f"{self.blocks_path}.{index}"
        block = self.blocks[index]

        if point == "resid_pre":
            return Place(path, "input")
        if point == "resid_post":
            return Place(path, "output")
        if point == "resid_mid":
            if not hasattr(block, "hook_resid_mid"):
                raise UnknownSite(
                    f"{name} cannot be edited here: between attention and MLP the "
                    "stream is kept inside the block's own forward, and what a hook "
                    "reaches is only the MLP's copy of it; use hook_attn_out or "
                    "hook_resid_post of the same block"
                )
            return Place(f"{path}.hook_resid_mid", "output")
        return self._in_branch(name, index, point)

    def _in_branch(self, name: str, index: int, point: Point) -> Place:
        """What attention or MLP adds to the stream, or the heads of attention."""
        path = f"{self.blocks_path}.{index}"
        block = self.blocks[index]
        # Found by the names that families give to their submodules.
        attention = _first_of(block, _ATTENTION)
        mlp = _first_of(block, _MLP)
        if self._family not in _CHECKED_FAMILIES or attention is None or mlp is None:
            family = self._family or self._class_name
            raise UnknownSite(
                f"{name}: what attention and MLP add to the residual stream of a "
                f"{family} was not checked; give the path of a module instead, such as "
                f"{closest(f'{path}.{point}', self.modules, n=3)}"
            )

        if point == "z":
            part = getattr(block, attention)
            mixing = _first_of(part, _HEADS_MIXED_BY)
            if mixing is None:
                raise UnknownSite(
                    f"{name}: the {type(part).__name__} of block {index} has no heads"
                )
            return Place(f"{path}.{attention}.{mixing}", "input")

        # Where norms follow attention and MLP, the outputs of the norms are added.
        has_norms_behind = hasattr(block, "post_feedforward_layernorm")
        if point == "attn_out":
            module = "post_attention_layernorm" if has_norms_behind else attention
        else:
            module = "post_feedforward_layernorm" if has_norms_behind else mlp
        return Place(f"{path}.{module}", "output")


def _first_of(module: nn.Module, names: Sequence[str]) -> str | None:
    """The first of several attribute names that a module has."""
    return next((name for name in names if hasattr(module, name)), None)
