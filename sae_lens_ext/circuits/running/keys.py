"""Which nodes of a batch are in a circuit: one number per node, looked up by sorting.

A site has nodes by slot (see ``alignment``) and feature, the error included. Nothing
here is as large as a dictionary: circuits are sorted lists of numbers, and the features
of a code are searched in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.circuits.table import ERROR


@dataclass(frozen=True)
class KeySpace:
    """Numbers of the nodes of one site.

    Attributes:
        n_slots: the number of slots, slot 0 included.
        n_features: the number of features, or coordinates.
    """

    n_slots: int
    n_features: int

    @property
    def size(self) -> int:
        """The number of nodes; keys are below it."""
        return self.n_slots * (self.n_features + 1)

    def keys(self, slots: Int[Tensor, "..."], features: Int[Tensor, "..."]) -> Tensor:
        """The keys of nodes, from numbers that broadcast."""
        return slots * (self.n_features + 1) + (features - ERROR)

    def key(self, slot: int, feature: int) -> int:
        """The key of one node."""
        return slot * (self.n_features + 1) + (feature - ERROR)

    def node(self, key: int) -> tuple[int, int]:
        """The slot and the feature of a key."""
        slot, number = divmod(key, self.n_features + 1)
        return slot, number + ERROR


@dataclass(frozen=True, eq=False)
class NodeSet:
    """Nodes of several sites.

    Attributes:
        keys: the nodes by the name of the site; none at a site that is not named.
        is_inverted: whether it is the set of all other nodes.
    """

    keys: Mapping[str, Int[Tensor, " nodes"]]
    is_inverted: bool = False

    def complement(self) -> "NodeSet":
        """All other nodes."""
        return NodeSet(self.keys, not self.is_inverted)


EMPTY = NodeSet({})


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """How much of each node of one site there is, in several circuits.

    Attributes:
        space: the numbers of nodes.
        keys: in ascending order, ``circuit * space.size + key``.
        values: the weight of each of them; nodes without a key have weight 0.
        is_inverted: by circuit, whether 1 - weight is meant.
    """

    space: KeySpace
    keys: Int[Tensor, " nodes"]
    values: Float[Tensor, " nodes"]
    is_inverted: Bool[Tensor, " circuits"]

    @classmethod
    def of(
        cls,
        sets: Sequence[NodeSet],
        site: str,
        space: KeySpace,
        device: torch.device,
    ) -> "SiteWeights":
        """Weights 1 of the nodes of each set, and 0 of all others."""
        none = torch.zeros(0, dtype=torch.int64)
        parts = [
            circuit * space.size + nodes.keys.get(site, none)
            for circuit, nodes in enumerate(sets)
        ]
        keys = torch.cat(parts).sort().values.to(device)
        is_inverted = torch.tensor([nodes.is_inverted for nodes in sets])
        ones = torch.ones(len(keys), device=device)
        return cls(space, keys, ones, is_inverted.to(device))

    @property
    def n_circuits(self) -> int:
        """The number of circuits."""
        return len(self.is_inverted)

    def at(
        self,
        circuits: Int[Tensor, "*batch"],
        slots: Int[Tensor, "*batch"],
        features: Int[Tensor, "*batch n"],
    ) -> Float[Tensor, "*batch n"]:
        """The weights of features of tokens; a node counts in its slot or everywhere.

        Args:
            circuits: the circuit of each token.
            slots: its slot.
            features: numbers of features; -1 for the error.
        """
        start = circuits * self.space.size
        everywhere = self._found(start, torch.zeros_like(slots), features)
        weights = torch.maximum(everywhere, self._found(start, slots, features))
        is_inverted = self.is_inverted[circuits].unsqueeze(-1)
        return torch.where(is_inverted, 1 - weights, weights)

    def _found(
        self, start: Int[Tensor, "*batch"], slots: Tensor, features: Tensor
    ) -> Tensor:
        if not len(self.keys):
            return torch.zeros(features.shape, device=features.device)
        keys = start.unsqueeze(-1) + self.space.keys(slots.unsqueeze(-1), features)
        # searchsorted copies keys that are not contiguous, and warns of it.
        places = torch.searchsorted(self.keys, keys.contiguous())
        places = places.clamp(max=len(self.keys) - 1)
        is_found = self.keys[places] == keys
        return self.values[places].where(is_found, 0)


@dataclass(frozen=True, eq=False)
class BatchWeights:
    """The weights of the nodes of one site in one batch.

    Attributes:
        of_circuits: the weights of all circuits that the batch has rows of.
        circuits: the circuit of each row of the batch.
        slots: the slots of its tokens.
        rows: the row of the prompts that it is.
    """

    of_circuits: SiteWeights
    circuits: Int[Tensor, " batch"]
    slots: Int[Tensor, "batch pos"]
    rows: Int[Tensor, " batch"]

    def features(
        self, features: Int[Tensor, "batch pos n"]
    ) -> Float[Tensor, "batch pos n"]:
        """The weights of the features of every token."""
        circuits = self.circuits.unsqueeze(1).expand_as(self.slots)
        return self.of_circuits.at(circuits, self.slots, features)

    def errors(self) -> Float[Tensor, "batch pos"]:
        """The weights of the errors of every token."""
        numbers = torch.full_like(self.slots, ERROR).unsqueeze(-1)
        return self.features(numbers).squeeze(-1)

    def by_slot(self, features: Int[Tensor, " n"]) -> Float[Tensor, "circuits slots n"]:
        """The weights of some features in every circuit and slot."""
        weights = self.of_circuits
        device = self.slots.device
        circuits = torch.arange(weights.n_circuits, device=device).unsqueeze(1)
        slots = torch.arange(weights.space.n_slots, device=device)
        circuits, slots = torch.broadcast_tensors(circuits, slots)
        return weights.at(circuits, slots, features.expand(*slots.shape, -1))

    def errors_by_slot(self) -> Float[Tensor, "circuits slots"]:
        """The weights of errors in every circuit and slot."""
        error = torch.tensor([ERROR], device=self.slots.device)
        return self.by_slot(error).squeeze(-1)

    def of_tokens(
        self, by_slot: Float[Tensor, "circuits slots *rest"]
    ) -> Float[Tensor, "batch pos *rest"]:
        """What every token has of a table by circuit and slot."""
        return by_slot[self.circuits.unsqueeze(1), self.slots]
