"""Nodes of one site as flat arrays, from which the table at any k is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from sae_lens_ext._optional import require
from sae_lens_ext.circuits.nodes import SiteEffects
from sae_lens_ext.sae import SparseCode

ERROR = -1
"""The number by which tables call the error node, and its rank."""

Array = numpy.ndarray
Columns = dict[str, Array]


@dataclass(frozen=True, eq=False)
class SiteTable:
    """Every feature that is active in any run of a token, and the token's error.

    Rows are by row, position and rank. The rank of a feature is the smallest of those
    that it has in the code of any run, clean, corrupted or between, so a node is there
    at every k above its rank; the error comes first.

    Attributes:
        row: of the batch.
        position: in the text.
        feature: number of the feature.
        rank: see above.
        ranks: the rank in the code of each run, ``[runs, nodes]``; a number above every
            k where the feature is not in that code.
        parts: the part of the effect that each code has, ``[runs, nodes]``.
        errors: effects of error nodes at every k, ``[tokens, k]``.
        token: the row of ``errors`` that is of the same token.
    """

    row: Array
    position: Array
    feature: Array
    rank: Array
    ranks: Array
    parts: Array
    errors: Array
    token: Array

    @classmethod
    def of(cls, effects: SiteEffects) -> "SiteTable":
        """The table of the effects at one site."""
        rows, positions = effects.mask.nonzero(as_tuple=True)
        n_tokens = len(rows)
        errors = effects.errors()[effects.mask]

        # A feature of a token has one number.
        d_sae = effects.code.d_sae
        entries = [
            _entries(code, parts, effects.mask) for code, parts in effects.by_run()
        ]
        n_runs = len(entries)
        numbers, ranks, parts = (torch.cat(part) for part in zip(*entries, strict=True))
        sources = torch.cat(
            [torch.full_like(of_run, run) for run, (of_run, _, _) in enumerate(entries)]
        )
        nodes, node_of = numbers.unique(return_inverse=True)
        never = effects.k
        ranks_of_nodes = ranks.new_full((n_runs, len(nodes)), never)
        ranks_of_nodes[sources, node_of] = ranks
        parts_of_nodes = parts.new_zeros(n_runs, len(nodes))
        parts_of_nodes[sources, node_of] = parts

        # Errors are nodes as well.
        tokens = torch.arange(n_tokens, device=numbers.device)
        token = torch.cat([tokens, nodes // d_sae])
        feature = torch.cat([torch.full_like(tokens, ERROR), nodes % d_sae])
        rank = torch.cat([torch.full_like(tokens, ERROR), ranks_of_nodes.amin(0)])
        none = ranks_of_nodes.new_full((n_runs, n_tokens), never)
        ranks_of_nodes = torch.cat([none, ranks_of_nodes], dim=1)
        zeros = parts_of_nodes.new_zeros(n_runs, n_tokens)
        parts_of_nodes = torch.cat([zeros, parts_of_nodes], dim=1)

        order = (token * (never + 2) + rank).argsort(stable=True)
        token = token[order]
        return cls(
            _array(rows[token]),
            _array(positions[token]),
            _array(feature[order]),
            _array(rank[order]),
            _array(ranks_of_nodes[:, order]),
            _array(parts_of_nodes[:, order]),
            _array(errors),
            _array(token),
        )

    def at(self, k: int) -> Columns:
        """The columns of the table at one k, which may exceed the largest."""
        is_there = self.rank < k
        token = self.token[is_there]
        feature = self.feature[is_there]
        rank = self.rank[is_there]

        parts = self.parts[:, is_there] * (self.ranks[:, is_there] < k)
        effect = parts.sum(0)
        is_error = feature == ERROR
        column = min(k, self.errors.shape[1]) - 1
        effect[is_error] = self.errors[token[is_error], column]
        return {
            "row": self.row[is_there],
            "position": self.position[is_there],
            "feature": feature,
            "rank": rank,
            "effect": effect,
        }


def joined(tables: Mapping[str, SiteTable], ks: Mapping[str, int]) -> Columns:
    """The columns of several sites, each at its k, by row and then by site.

    The column ``site`` has the number of the site.
    """
    names = list(tables)
    parts = [tables[name].at(ks[name]) for name in names]
    columns = {
        name: numpy.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    n_nodes = [len(part["row"]) for part in parts]
    site = numpy.repeat(numpy.arange(len(names)), n_nodes)
    columns = {"row": columns["row"], "site": site, **columns}
    if len(names) == 1:
        return columns
    order = columns["row"].argsort(kind="stable")
    return {name: column[order] for name, column in columns.items()}


def frame(columns: Columns, sites: Iterable[str]) -> Any:
    """The DataFrame of columns; a million names are not compared one by one."""
    pandas = require("pandas", "circuits.effects")
    names = pandas.Series(list(sites)).array
    with_names = {**columns, "site": names.take(columns["site"])}
    # Made for it, so nobody else has them.
    return pandas.DataFrame(with_names, copy=False)


def _entries(
    code: SparseCode, parts: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the active features of tokens, their ranks, and their effects."""
    values = code.values[mask]
    token, rank = (values > 0).nonzero(as_tuple=True)
    feature = code.indices[mask][token, rank]
    number = token * code.d_sae + feature
    return number, rank, parts[mask][token, rank]


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
