"""Tables of nodes and edges, with what their features stand for."""

from typing import Any

from sae_lens_ext._labels import Labels, labels_by_site
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument


def labelled(table: Any, labels: Labels) -> Any:
    """A copy of a table of nodes or edges with labels beside their features.

    ::

        sle.circuits.labelled(effects.at(k=8), sle.labels(sae, [981, 4]))
        sle.circuits.labelled(edges.at(k=8), {"blocks.5.hook_resid_post": {4: "verbs"}})

    Args:
        table: a pandas DataFrame with the columns ``site`` and ``feature``, as of
            ``Effects.at``, ``Circuit.table`` and ``CircuitByK.table``; or with those of
            sources and targets, as of ``Edges.at``.
        labels: texts by feature, where the table has one site; by site and then by
            feature; or by pairs of site and feature.

    Returns:
        The table with the column ``label`` after ``feature`` (``source_label`` and
        ``target_label`` for edges), None where there is none.

    Raises:
        InvalidArgument: no such table; or labels as in ``Graph.labelled``.
    """
    columns = list(getattr(table, "columns", ()))
    prefixes = [
        name.removesuffix("feature")
        for name in map(str, columns)
        if name.endswith("feature") and f"{name.removesuffix('feature')}site" in columns
    ]
    if not prefixes:
        raise InvalidArgument(
            "labels go to a table with the columns site and feature, such as "
            f"effects.at(k=8); got {columns or type(table).__name__}"
        )
    pandas = require("pandas", "circuits.labelled")
    names = [f"{prefix}label" for prefix in prefixes]
    new = table.drop(columns=names, errors="ignore")
    sites = _sites(table, prefixes)
    by_site = labels_by_site(labels, sites) if sites else {}
    for prefix, name in zip(prefixes, names, strict=True):
        nodes = zip(table[f"{prefix}site"], table[f"{prefix}feature"], strict=True)
        texts = [by_site.get(site, {}).get(feature) for site, feature in nodes]
        column = pandas.Series(texts, index=table.index, dtype=object)
        new.insert(new.columns.get_loc(f"{prefix}feature") + 1, name, column)
    return new


def _sites(table: Any, prefixes: list[str]) -> list[str]:
    """The sites of features, in the order of the table; tokens and metrics are none."""
    sites: dict[str, None] = {}
    for prefix in prefixes:
        is_feature = table[f"{prefix}feature"] != ERROR
        sites.update(dict.fromkeys(table[f"{prefix}site"][is_feature]))
    return list(sites)
