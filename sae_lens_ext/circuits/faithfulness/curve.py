"""Circuits of growing size and their complements, of one kind of nodes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.circuits.faithfulness.result import Measured
from sae_lens_ext.circuits.running.keys import EMPTY, KeySpace, NodeSet
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument

CIRCUIT = "circuit"
"""What the nodes of the tested circuit are called, next to those of controls."""


@dataclass(frozen=True, eq=False)
class Draw:
    """Nodes in an order, whose beginnings are circuits of every size.

    Attributes:
        sites: the site of each node.
        keys: its key there.
        rows: the rows to run circuits on.
        draw: which of several orders of one kind it is.
    """

    sites: Sequence[str]
    keys: Sequence[int]
    rows: tuple[int, ...]
    draw: int = 0

    def first(self, n_nodes: int) -> NodeSet:
        """The circuit of the first nodes."""
        by_site: dict[str, list[int]] = {}
        for site, key in zip(self.sites[:n_nodes], self.keys[:n_nodes], strict=True):
            by_site.setdefault(site, []).append(key)
        return NodeSet({site: torch.tensor(keys) for site, keys in by_site.items()})

    def n_errors(self, n_nodes: int, spaces: Mapping[str, KeySpace]) -> int:
        """How many of the first nodes are errors."""
        return sum(
            spaces[site].node(key)[1] == ERROR
            for site, key in zip(self.sites[:n_nodes], self.keys[:n_nodes], strict=True)
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """Measures circuits of some sizes against the same clean run.

    Attributes:
        budgets: the sizes, in ascending order.
        clean_logits: logits of the clean run.
        clean_values: its metric.
        ablation: what nodes outside of a circuit are set to, for messages.
        batch_size: how many rows a run of the model has.
    """

    budgets: tuple[int, ...]
    clean_logits: Float[Tensor, "batch scored d_vocab"]
    clean_values: Float[Tensor, "*rows"]
    ablation: str
    batch_size: int

    def measured(
        self, kind: str, runner: CircuitRunner, draws: Sequence[Draw]
    ) -> Iterator[Measured]:
        """Every circuit of some orders of nodes.

        Raises:
            InvalidArgument: nothing depends on the nodes of the circuit, so that no
                share of it can be given. Of a control it is NaN.
        """
        # Orders that are tested on the same rows share the empty circuit.
        for rows in dict.fromkeys(draw.rows for draw in draws):
            full = self._of_rows(self.clean_values, rows)
            (empty,) = self._values(runner, [EMPTY], rows)
            if kind == CIRCUIT and full.mean() == empty.mean():
                raise InvalidArgument(
                    f"the metric is {full.mean():g} with every node of "
                    f"{', '.join(runner.sites)} as it is and with every node ablated "
                    f"({self.ablation}), so no circuit has a share of it; choose "
                    "another ablation, metric or site"
                )
            for draw in draws:
                if draw.rows != rows:
                    continue
                sets = [draw.first(budget) for budget in self.budgets]
                both = [nodes for kept in sets for nodes in (kept, kept.complement())]
                values = list(self._values(runner, both, rows))
                pairs = zip(values[::2], values[1::2], strict=True)
                for budget, (kept, left) in zip(self.budgets, pairs, strict=True):
                    yield Measured(
                        kind,
                        draw.draw,
                        budget,
                        min(budget, len(draw.keys)),
                        draw.n_errors(budget, runner.spaces),
                        rows,
                        metric_model=full,
                        metric_empty=empty,
                        metric=kept,
                        metric_complement=left,
                    )

    def _values(
        self, runner: CircuitRunner, sets: Sequence[NodeSet], rows: tuple[int, ...]
    ) -> Iterator[numpy.ndarray]:
        values = runner.values(
            sets, rows, self.clean_logits, batch_size=self.batch_size
        )
        for of_batch in values:
            yield self._of_rows(of_batch, rows)

    def _of_rows(self, values: Tensor, rows: tuple[int, ...]) -> numpy.ndarray:
        array = values.double().cpu().numpy()
        return array[list(rows)] if array.ndim else array


def powers_up_to(n_nodes: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the number itself.

    >>> powers_up_to(12)
    (1, 2, 4, 8, 12)
    """
    powers = [2**exponent for exponent in range(n_nodes.bit_length())]
    return (*(power for power in powers if power < n_nodes), n_nodes)


def are_ascending(budgets: Sequence[int]) -> bool:
    """Whether every number is larger than the one before it."""
    return all(first < second for first, second in pairwise(budgets))
