"""The results of an evaluation as files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.viz import plot_frontier


class Results(NamedTuple):
    """Where the results of an evaluation are."""

    table: Path
    """The rows of ``sweep_k`` as CSV."""
    picture: Path
    """The frontier, as PNG."""


def save_results(
    folder: str | Path, sweep: Any, *, title: str | None = None
) -> Results:
    """Write a table of ``sweep_k`` and its picture into a folder.

    Args:
        folder: gets ``sweep.csv`` and ``frontier.png``; made if it is not there.
        sweep: a table of ``sweep_k``, or several by name, whose rows are then written
            below each other with the name as first column.
        title: of the picture; by default it names the sites.

    Raises:
        InvalidArgument: ``sweep`` is not a table of ``sweep_k``.
        MissingDependency: matplotlib is not installed.
        OSError: the files cannot be written.
    """
    # Before the first file is written, because it checks the tables.
    figure = plot_frontier(sweep, title=title)
    paths = Results(Path(folder, "sweep.csv"), Path(folder, "frontier.png"))
    with replacing(paths.table) as temporary:
        _one_table(sweep).to_csv(temporary, index=False)

    with replacing(paths.picture) as temporary:
        # The temporary file has no suffix that tells the format.
        figure.savefig(temporary, dpi=150, format="png")
    return paths


def _one_table(sweep: Any) -> Any:
    if not isinstance(sweep, Mapping):
        return sweep
    # Whoever has a table has pandas; importing it here keeps it out of everything else.
    import pandas as pd

    named = [
        table.assign(sae=str(name))[["sae", *table.columns]]
        for name, table in sweep.items()
    ]
    return pd.concat(named, ignore_index=True)
