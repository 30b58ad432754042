"""Short texts that say what features are about: from Neuronpedia, or from a file."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import feature_labels
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.features.neuronpedia import fetched_labels
from sae_lens_ext.formats.paths import checked_path
from sae_lens_ext.formats.reading import read_object
from sae_lens_ext.sae import SAE
from sae_lens_ext.text.decoding import without_surrogates

Labels = Mapping[int, str | None] | str | Path | None
"""Labels by feature, or a file of them."""


def labels(
    sae: SAE,
    features: Any,
    *,
    file: str | Path | None = None,
    source: str | None = None,
) -> dict[int, str | None]:
    """Labels of some features of an SAE; None where there is none.

    ::

        sle.labels(sae, [981, 4])  # {981: "cities in France", 4: None}
        sle.labels(sae, [981, 4], file="my_labels.csv")

    Without a file they are asked for at Neuronpedia, one by one, by its client, which
    needs the environment variable ``NEURONPEDIA_API_KEY``; those that were found are
    kept in the user's cache folder. Without a network, or a key, the rest is None, with
    one warning.

    Args:
        sae: the SAE. Its config's ``metadata["neuronpedia_id"]`` says where it is at
            Neuronpedia, such as ``"gemma-2-2b/12-gemmascope-res-16k"``.
        features: a feature or several.
        file: a CSV file with the columns ``feature`` and ``label``, or a JSON file with
            one object, ``{"981": "cities in France"}``.
        source: the place at Neuronpedia of an SAE whose config does not say it.

    Raises:
        InvalidArgument: a feature that the SAE does not have, or an invalid source.
        FormatError: the file does not hold labels.
        MissingDependency: the extra ``labels`` is not installed, and labels are not in
            the cache.
    """
    if not isinstance(sae, SAE):
        raise InvalidArgument(
            f"sae must be an SAE; got an object of type {type(sae).__name__}"
        )
    numbers = arguments.features(features)
    d_sae = sae.config.d_sae
    if max(numbers) >= d_sae:
        raise InvalidArgument(
            f"features must be from 0 to {d_sae - 1} for this SAE; got {max(numbers)}"
        )
    if file is not None:
        known = labels_in(file)
        return {number: known.get(number) for number in numbers}

    if source is None:
        source = sae.config.metadata.get("neuronpedia_id")
    return fetched_labels(source, numbers)


def labels_of(labels: Labels) -> dict[int, str]:
    """Labels by feature, from the forms in which users pass them; None for none.

    Raises:
        InvalidArgument: neither labels by feature nor a file.
        FormatError: a file that does not hold labels.
    """
    if isinstance(labels, str | Path):
        return labels_in(labels)
    return feature_labels(labels)


def labels_in(file: str | Path) -> dict[int, str]:
    """The labels in a CSV or JSON file; see ``labels``.

    Raises:
        FormatError: it does not hold labels by feature.
    """
    path = checked_path(file, "file")
    if path.suffix.lower() == ".json":
        content = read_object(path, "there are no labels", unique_keys=True)
        # None is no label, as in what ``labels`` returns.
        given = ((key, text) for key, text in content.items() if text is not None)
        return _labels(path, given)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = reader.fieldnames or []
            rows = [_whole(path, row, reader.line_num) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    if not {"feature", "label"} <= set(columns):
        raise FormatError(
            f"{path} must have the columns feature and label; its first line has "
            f"{', '.join(columns) or 'none'}"
        )
    return _labels(path, ((row["feature"], row["label"]) for row in rows))


def _whole(path: Path, row: dict[Any, Any], line: int) -> dict[Any, Any]:
    """A row with no more values than the first line has columns."""
    if None in row:
        raise FormatError(
            f"{path}, line {line}: more values than the first line has columns; put a "
            "label with a comma between double quotes"
        )
    return row


def _labels(path: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Labels by feature; of a feature that comes twice there must be one label."""
    labels: dict[int, str] = {}
    for key, text in pairs:
        number, label = _label(path, key, text)
        if labels.setdefault(number, label) != label:
            raise FormatError(
                f"{path} has two labels of feature {number}, {labels[number]!r} and "
                f"{label!r}; keep one"
            )
    return labels


def _label(path: Path, key: Any, text: Any) -> tuple[int, str]:
    is_number = isinstance(key, str) and key.isascii() and key.isdigit()
    if not is_number or not isinstance(text, str):
        raise FormatError(
            f"{path} must have a text for the number of each feature; got {text!r} for "
            f"{key!r}"
        )
    # Half of a character, which JSON can name, cannot be written or shown.
    return int(key), without_surrogates(text)
