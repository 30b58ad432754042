"""The parts of a graph: a node, and an edge."""

from dataclasses import dataclass
from typing import Literal

NodeKind = Literal["token", "feature", "error", "metric"]
KINDS = ("token", "feature", "error", "metric")


@dataclass(frozen=True, kw_only=True)
class GraphNode:
    """A node of a graph.

    Attributes:
        kind: ``"token"``, ``"feature"``, ``"error"`` or ``"metric"``.
        site: name of the site; ``"tokens"`` or ``"metric"`` for those.
        position: in the text of the row.
        token: the text of the token at that position.
        feature: number of the feature; None for any other node.
        activation: of a feature, in the clean run; of the metric, its value; None for
            any other node.
        effect: the effect on the metric over all paths; None for the metric itself.
        label: what the feature stands for, where somebody has said so.
        is_target: whether the edges into the node were computed.
    """

    kind: NodeKind
    site: str
    position: int
    token: str
    feature: int | None = None
    activation: float | None = None
    effect: float | None = None
    label: str | None = None
    is_target: bool = False

    @property
    def name(self) -> str:
        """A name of the node that no other node of its graph has.

        >>> site = "blocks.3.hook_resid_post"
        >>> GraphNode(kind="error", site=site, position=5, token=" in").name
        'blocks.3.hook_resid_post/5/error'
        """
        end = self.kind if self.feature is None else self.feature
        return f"{self.site}/{self.position}/{end}"


@dataclass(frozen=True, kw_only=True)
class GraphEdge:
    """What one node gives directly to another.

    Attributes:
        source: number of the node that the edge comes from, among those of the graph.
        target: number of the node that it leads to; a later one.
        effect: in units of the metric.
        preactivation: what the source gives to the pre-activation of a feature; None
            where the target is not one.
    """

    source: int
    target: int
    effect: float
    preactivation: float | None = None
