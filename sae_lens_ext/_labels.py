"""What features stand for, as users pass it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument

FeatureLabels = Mapping[int, str | None]
"""Texts by feature, as ``sle.labels`` returns them; None where there is none."""

Labels = (
    FeatureLabels | Mapping[str, FeatureLabels] | Mapping[tuple[str, int], str | None]
)
"""Labels by feature; or, for several sites, by site first, or by site and feature."""


def feature_labels(labels: Any) -> dict[int, str]:
    """Labels as text by feature number; features whose label is None are left out.

    >>> feature_labels({981: "Paris", 4: None}), feature_labels(None)
    ({981: 'Paris'}, {})

    Raises:
        InvalidArgument: not a mapping from feature numbers to text.
    """
    if labels is None:
        return {}
    is_mapping = isinstance(labels, Mapping)
    pairs = list(labels.items()) if is_mapping else []
    numbers = [arguments.as_integer(feature) for feature, _ in pairs]
    are_features = all(number is not None and number >= 0 for number in numbers)
    is_text = all(isinstance(label, str | None) for _, label in pairs)
    if not is_mapping or not are_features or not is_text:
        raise InvalidArgument(
            "labels must be texts by feature number, such as {981: 'Paris'}; "
            f"got {described(labels)}; sle.labels reads those of a file"
        )
    return {int(feature): label for feature, label in pairs if label is not None}


def labels_by_site(
    labels: Any,
    sites: Sequence[str],
) -> dict[str, dict[int, str]]:
    """Labels as text by site and feature number.

    >>> labels_by_site({981: "Paris"}, ["a"])
    {'a': {981: 'Paris'}}
    >>> labels_by_site({"a": {981: "Paris"}, "c": {4: "verbs"}}, ["a", "b"])
    {'a': {981: 'Paris'}}

    Args:
        labels: in one of the forms of ``Labels``; None for none. Those of other sites
            are left out.
        sites: names of the sites. Labels by feature alone are of the only one.

    Raises:
        InvalidArgument: in none of these forms, by feature alone where there are
            several sites, or of none of the sites.
    """
    if labels is None or labels == {}:
        return {}
    if not isinstance(labels, Mapping):
        raise InvalidArgument(
            f"labels must be {_forms(sites)}; got {described(labels)}"
        )

    by_site: dict[Any, Any] = dict(labels)
    if all(isinstance(key, tuple) and len(key) == 2 for key in labels):
        by_site = {}
        for (site, feature), text in labels.items():
            by_site.setdefault(site, {})[feature] = text
    elif not all(isinstance(key, str) for key in labels):
        if len(sites) != 1:
            raise InvalidArgument(
                f"with several sites, labels must say where: {_forms(sites)}"
            )
        by_site = {sites[0]: labels}

    checked = {site: feature_labels(of_site) for site, of_site in by_site.items()}
    known = {site: checked[site] for site in sites if site in checked}
    if not known:
        raise InvalidArgument(
            f"labels are of {', '.join(map(str, by_site))}, and there are features at: "
            f"{', '.join(sites)}"
        )
    return known


def _forms(sites: Sequence[str]) -> str:
    site = sites[0] if sites else "blocks.12.hook_resid_post"
    return (
        "texts by feature number, {981: 'Paris'}, or by site, "
        f"{{{site!r}: {{981: 'Paris'}}}}"
    )
