"""``sae-lens-ext dashboard``: pages of features, from an index of them.

    sae-lens-ext dashboard --index my_index --features 981,17

writes a page for each, and one to search and sort them; none needs a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import make_folder, option_names, parse
from sae_lens_ext.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """The options of the command."""

    index: Path
    """Folder that the index command wrote."""
    features: str | None = None
    """Features to show, such as 981,17; by default the strongest."""
    n: int | None = None
    """How many of the strongest, by default 100."""
    labels: Path | None = None
    """CSV file with the columns feature and label, or JSON file."""
    title: str | None = None
    """Heading of the overview; by default it names the site and the model."""
    out: Path = Path("runs/dashboard")
    """Folder for index.html and a page per feature."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = parse(DashboardOptions, arguments, "dashboard")
    return exit_code(lambda: _write(options), options=option_names(DashboardOptions))


def _write(options: DashboardOptions) -> None:
    # Here, so that --help does not wait for torch.
    from sae_lens_ext.features import FeatureIndex

    features = None
    if options.features is not None:
        features = _numbers(options.features)
    index = FeatureIndex.open(options.index, labels=options.labels)
    make_folder(options.out)
    page = index.dashboard(
        options.out,
        features,
        n=options.n,
        title=options.title,
    )
    echo(f"Wrote {page}; open it in a browser.")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidArgument(
            "features must be numbers with commas between, such as 981,17; got "
            f"{text!r}"
        )
    return [int(part) for part in parts]
