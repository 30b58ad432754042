"""Whether a run goes on with, or is the result of, the activations that it is given."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.text.sketch import is_same, sketch
from sae_lens_ext.training.stream import (
    ActivationStream,
    CacheStream,
    ModelStream,
    SiteStatistics,
    StreamState,
)
from sae_lens_ext.training.stream.checks import checked_statistics
from sae_lens_ext.training.stream.states import differences


def restore_stream(
    stream: ActivationStream,
    state: StreamState,
    statistics: Mapping[str, SiteStatistics],
    folder: Path,
) -> None:
    """Bring a stream to where a checkpoint of the run left it.

    Args:
        stream: the activations.
        state: of the stream, in the checkpoint.
        statistics: the constants of the run's sites as the stream had them.
        folder: of the run, for messages.

    Raises:
        FormatError: it is another stream, or the checkpoint is damaged.
    """
    with _of_run(folder):
        stream.restore(state)
        # A stream of somebody else's may compare nothing.
        _check_constants(stream, described_constants(statistics))


def described_stream(
    stream: ActivationStream, statistics: Mapping[str, SiteStatistics]
) -> dict[str, Any]:
    """What a finished run keeps of its stream, as JSON values.

    Args:
        stream: the activations, at their end.
        statistics: the constants of the run's sites as the stream had them.
    """
    return {
        "identity": _identity(stream),
        "constants": described_constants(statistics),
    }


def check_stream(
    stream: ActivationStream, described: Mapping[str, Any], folder: Path
) -> None:
    """Check that a finished run, which has no checkpoints, is that of a stream.

    Args:
        stream: the activations.
        described: what the run keeps of its own; empty for a run that kept nothing.
        folder: of the run, for messages.

    Raises:
        FormatError: it is another stream.
    """
    with _of_run(folder):
        before = described.get("identity")
        changes = [] if before is None else differences(before, _identity(stream))
        if changes:
            raise FormatError(f"{'; '.join(changes)}")
        # A model would have to run for its constants, and what it reads has an
        # identity, as has a cache.
        if not isinstance(stream, ModelStream | CacheStream):
            _check_constants(stream, described.get("constants", {}))


def described_constants(statistics: Mapping[str, SiteStatistics]) -> dict[str, Any]:
    """Constants of sites, as JSON values."""
    return {
        site: {"mean": sketch(constants.mean), "scale": [float(constants.scale)]}
        for site, constants in statistics.items()
    }


def _check_constants(stream: ActivationStream, before: Mapping[str, Any]) -> None:
    widths = {site: stream.width(site) for site in before}
    now = described_constants(checked_statistics(stream.statistics(), widths))
    for site, constants in before.items():
        if not is_same(constants, now[site]):
            raise FormatError(f"activations at {site} had another mean or scale")


def _identity(stream: ActivationStream) -> Any:
    """How a stream was made, as far as it says so; as it comes back from a file."""
    identity = stream.state().facts.get("identity", {})
    return json.loads(json.dumps(identity))


@contextlib.contextmanager
def _of_run(folder: Path) -> Iterator[None]:
    try:
        yield
    except FormatError as error:
        raise FormatError(
            f"the run in {folder} is of other activations, or its files are damaged: "
            f"{error}. To train on these, give another folder"
        ) from error
