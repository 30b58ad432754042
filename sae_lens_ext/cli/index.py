"""``sae-lens-ext index``: what each feature of an SAE is about, on text of your own.

    sae-lens-ext index --sae runs/first/sae --text my_texts --out my_index

reads the text once, and leaves an index of all features in ``--out``, from which
``sae-lens-ext dashboard`` makes pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_ext.cli.inputs import CorpusOptions, ModelOptions, load_sae, placed
from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import default_of, make_folder, option_names, parse
from sae_lens_ext.features import index as index_features
from sae_lens_ext.features.folder import has_progress


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """The options of the command."""

    sae: str
    """Folder of an SAE, or hub repository with the folder inside of it."""
    hook_name: str | None = None
    """Where the SAE belongs, if its files do not say it."""
    k: int | None = None
    """Features per token; by default the k of the SAE, or every active one."""
    extrapolate: bool = False
    """Whether k may exceed what the SAE was trained at."""
    n_tokens: int | None = None
    """Tokens to read, up to the end of a batch; by default all of the text."""
    contexts: int = default_of(index_features, "contexts")
    """Strongest contexts of each feature."""
    sample: int = default_of(index_features, "sample")
    """Activations of each feature in a uniform sample."""
    window: int = default_of(index_features, "window")
    """Tokens on either side of an activation."""
    batch_size: int = default_of(index_features, "batch_size")
    """Rows per forward pass."""
    out: Path = Path("runs/index")
    """Folder for the index; the same command goes on from what it holds."""
    config: Path | None = None
    """YAML file of options; those that are typed count more."""
    progress: bool = True
    """Show progress bars."""
    model: ModelOptions = field(default_factory=ModelOptions)
    text: CorpusOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = parse(IndexOptions, arguments, "index")
    return exit_code(
        lambda: _index(options),
        options=option_names(IndexOptions),
        # Until the first checkpoint, the command starts again.
        goes_on_from=lambda: options.out if has_progress(options.out) else None,
    )


def _index(options: IndexOptions) -> None:
    make_folder(options.out)
    sae = load_sae(options.sae)
    language_model = options.model.load(
        sae.config.model_name, progress=options.progress
    )
    index = index_features(
        language_model.model,
        placed(options.sae, sae.to(language_model.device), options.hook_name),
        options.text.all_rows(language_model.tokenizer),
        options.out,
        k=options.k,
        extrapolate=options.extrapolate,
        n_tokens=options.n_tokens,
        contexts=options.contexts,
        sample=options.sample,
        window=options.window,
        batch_size=options.batch_size,
        tokenizer=language_model.tokenizer,
        model_name=language_model.name,
        progress=options.progress,
    )
    n_dead = int((index.table().density == 0).sum())
    echo(
        f"Wrote {options.out}: {index.d_sae:,} features at {index.site} on "
        f"{index.n_tokens:,} tokens; {n_dead:,} of them were never active."
    )
