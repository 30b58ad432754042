"""What makes two runs the same run: their settings as JSON values."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.stream import ActivationStream


def run_facts(
    config: TrainConfig,
    stream: ActivationStream,
    sites: tuple[str, ...],
    start: str | None = None,
    metric: ErrorMetric | None = None,
) -> dict[str, Any]:
    """The facts that have to be the same where a run is resumed.

    Args:
        config: the settings.
        stream: the activations.
        sites: those of the stream that are trained on.
        start: what tells the SAE that it starts from from others.
        metric: of the errors.
    """
    described = {
        "config": _described(config),
        "stream": {
            "sites": {site: stream.width(site) for site in sites},
            "model_name": stream.model_name,
            "n_tokens": stream.n_tokens,
            "excludes_special_tokens": stream.excludes_special_tokens,
        },
        "start": {"start": start},
        "metric": {"metric": None if metric is None else _told(metric)},
    }
    # As they come back from a file: tuples are lists, keys are strings.
    return json.loads(json.dumps(described))


def _told(metric: ErrorMetric) -> str:
    """What tells a metric from others, in words."""
    about = f"{metric.about}, " if metric.about else ""
    return f"{about}sha256 {metric.digest[:16]}"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between the facts of two runs, a phrase each.

    >>> differences({"a": {"lr": 1, "k": 2}}, {"a": {"lr": 3, "k": 2}})
    ['lr is 1 there and 3 here']
    """
    before = _leaves(there)
    now = _leaves(here)
    phrases = [
        f"{name.split('.', 1)[-1]} is {before.get(name)!r} there and "
        f"{now.get(name)!r} here"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    # The config and the stream can have the same setting.
    return list(dict.fromkeys(phrases))


def _described(value: Any) -> Any:
    """A setting as JSON values; objectives by their class and their fields."""
    if is_dataclass(value):
        named = {
            field.name: _described(getattr(value, field.name))
            for field in fields(value)
            if field.init
        }
        is_config = isinstance(value, TrainConfig)
        return named if is_config else {"type": type(value).__name__, **named}
    if isinstance(value, tuple | list):
        return [_described(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _leaves(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
