"""From the name of a site to a module of a torch model, and one side of it."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import nn

from sae_lens_ext.errors import UnknownSite, closest
from sae_lens_ext.hosts.checks import BranchChecks
from sae_lens_ext.hosts.modules import find_blocks
from sae_lens_ext.hosts.names import RESIDUAL_POINTS, Point, block_and_point

# What TransformerLens has hook points for inside of a norm.
_INSIDE_NORM = re.compile(r"(blocks\.\d+\.)?ln\w*\.hook_(normalized|scale)")


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
        self._checks = BranchChecks(module, self.blocks)

    def run_only_if(self, obstacle: Callable[[], str | None]) -> None:
        """Ask ``obstacle`` before the module is run: it says why that cannot be done.

        It returns None where nothing is in the way.
        """
        self._checks.obstacle = obstacle

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
            if _INSIDE_NORM.fullmatch(name):
                raise UnknownSite(
                    f"{name} is a local variable of the norm's forward on this model, "
                    "which no hook reaches; on a TransformerLens model it is a hook "
                    "point, and what the MLP reads is hook_mlp_in on every model"
                )
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
        n_uses = sum(other is block for other in self.blocks)
        if n_uses > 1:
            raise UnknownSite(
                f"{name} cannot be told apart: block {index} of this model is one of "
                f"{n_uses} blocks that are the same module, at all of which a hook on "
                "it acts"
            )

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
        """What attention or MLP reads or adds to the stream, or attention's heads."""
        path = f"{self.blocks_path}.{index}"
        branches = self._checks.of_block(index)
        inner_path = branches.paths.get(point)
        if inner_path is None:
            reason = branches.reasons[point].replace("the block", f"block {index}")
            raise UnknownSite(
                f"{name}: {reason}; give the path of a module instead, such as "
                f"{closest(f'{path}.{point}', self.modules, n=3)}"
            )
        side = "input" if point in ("z", "mlp_in") else "output"
        return Place(f"{path}.{inner_path}", side)
