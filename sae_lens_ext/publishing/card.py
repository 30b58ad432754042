"""The model card of an SAE: what it is, how to load it, how good it is at every k."""

import html
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.sae import SAE, SAEConfig

# What Hugging Face calls a repository: owner/name.
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

# Column of the sweep -> heading and decimals.
_COLUMNS = {
    "l0": ("active features", 1),
    "fvu": ("FVU", 3),
    "ce": ("cross-entropy", 3),
    "ce_recovered": ("recovered", 3),
    "kl": ("KL", 3),
}
_KINDS = {
    "topk": "the k strongest features of every token",
    "batchtopk": "features above one threshold",
    "jumprelu": "features above a threshold of their own",
    "relu": "features above zero",
}


def model_card(
    sae: SAE,
    *,
    repo_id: str | None = None,
    loading: str | None = None,
    table: Any = None,
    training: Mapping[str, Any] | None = None,
    picture: str | None = None,
    license: str | None = None,
) -> str:
    """The text of a ``README.md`` for the Hugging Face hub.

    Args:
        sae: the SAE or transcoder.
        repo_id: where it will be, ``owner/name``; named in the line that loads it.
        loading: lines of Python that load it as ``sae``, in the place of that line.
            With neither, the SAE is said to be in the folder of the card.
        table: what ``sweep_k`` returned for it.
        training: facts of its training by name, shown as they are.
        picture: a picture's path inside the repository.
        license: the identifier of a license, such as ``apache-2.0``; None leaves it
            open.

    Raises:
        InvalidArgument: ``repo_id`` is not ``owner/name``, ``loading`` is not text, or
            ``table`` is not what ``sweep_k`` returned.
        MissingDependency: huggingface_hub is not installed.
    """
    where = "path/to/this/folder" if repo_id is None else repository_name(repo_id)
    if loading is None:
        loading = f'sae = sle.SAE.from_pretrained("{where}")'
    loading = arguments.string(loading, "loading")
    config = sae.config
    sections = [
        f"# {_title(config)}",
        _description(config),
        _usage(config, loading),
        _table_of_facts("The SAE", _facts(config)),
    ]
    if table is not None:
        sections.append(_results(table, picture))
    if training:
        sections.append(_table_of_facts("Training", training))
    body = "\n\n".join(sections)
    return f"---\n{_metadata(config, license)}\n---\n\n{body}\n"


def repository_name(repo_id: Any, name: str = "repo_id") -> str:
    """The name of a repository of the hub, checked.

    Args:
        repo_id: the name.
        name: what messages call it.

    Raises:
        InvalidArgument: it is not ``owner/name``.
    """
    repo_id = arguments.string(repo_id, name)
    if not _REPOSITORY.fullmatch(repo_id):
        raise InvalidArgument(
            f"{name} must be the name of a repository, owner/name; got {repo_id!r}"
        )
    return repo_id


def _metadata(config: SAEConfig, license_name: str | None) -> str:
    """The block of YAML at the top of a card, by which the hub finds it."""
    hub = require("huggingface_hub", "A model card")
    # Only a repository can be linked to; a local folder would be a broken link.
    base_model = config.model_name
    if base_model is not None and not _REPOSITORY.fullmatch(base_model):
        base_model = None
    data = hub.ModelCardData(
        library_name="sae_lens_ext",
        tags=["sparse-autoencoder", "interpretability", "saelens"],
        base_model=base_model,
        license=license_name,
    )
    return data.to_yaml()


def _is_transcoder(config: SAEConfig) -> bool:
    return config.hook_name_out is not None


def _title(config: SAEConfig) -> str:
    noun = "Transcoder" if _is_transcoder(config) else "Sparse autoencoder"
    model = _model_name(config)
    return noun if model is None else f"{noun} for {_escaped(model)}"


def _model_name(config: SAEConfig) -> str | None:
    """The model's name; of a folder, which is nobody else's, the last part alone."""
    name = config.model_name
    if name is None or _REPOSITORY.fullmatch(name):
        return name
    return PurePath(name).name


def _description(config: SAEConfig) -> str:
    text = f"It keeps {_KINDS[config.kind]}."
    if config.kind == "topk" and config.levels and len(config.levels) > 1:
        text = (
            f"It was trained to be good at every k up to {config.k}, with "
            "HierarchicalTopK (Balagansky, Aksenov et al. 2025): keep as many features "
            "per token as you like, and change that without loading another SAE."
        )
    return text


def _usage(config: SAEConfig, loading: str) -> str:
    k = 8 if config.k is None else min(8, config.k)
    return (
        "```python\n"
        "import sae_lens_ext as sle\n"
        "\n"
        f"{loading}\n"
        f"with sle.splice(model, sae, k={k}) as spliced:\n"
        "    logits = model(tokens)\n"
        "```"
    )


def _facts(config: SAEConfig) -> dict[str, Any]:
    facts = {
        "model": _model_name(config),
        "site": config.hook_name,
        "output site": config.hook_name_out,
        "width of the activations": config.d_model,
        "features": f"{config.d_sae:,}",
        "kind": config.kind,
        "k": config.k,
        "special tokens": "left out" if config.exclude_special_tokens else "included",
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _results(table: Any, picture: str | None) -> str:
    ends = getattr(table, "attrs", {})
    needed = ("ce_bare", "ce_mean", "n_spliced")
    missing = [name for name in needed if name not in ends]
    if missing:
        raise InvalidArgument(
            f"table must be what sweep_k returned, with its attributes; {missing[0]!r} "
            "is not among them (a table read from a CSV file has lost them)"
        )
    lines = ["## How good it is at every k", ""]
    if picture is not None:
        lines += [f"![Reconstruction error and loss at every k]({picture})", ""]

    headings = [heading for heading, _ in _COLUMNS.values()]
    lines += [_row(["k", *headings]), _row(["---:"] * (len(headings) + 1))]
    rows = table.to_dict(orient="records")
    for row, has_no_k in zip(rows, table["k"].isna(), strict=True):
        name = "all active" if has_no_k else str(int(row["k"]))
        numbers = [
            f"{row[column]:.{decimals}f}" for column, (_, decimals) in _COLUMNS.items()
        ]
        lines.append(_row([name, *numbers]))
    lines += [
        "",
        f"On {ends['n_spliced']:,} tokens of text that it was not trained on. The bare "
        f"model's cross-entropy is {ends['ce_bare']:.3f} nats per token, and "
        f"{ends['ce_mean']:.3f} with the site replaced by its mean; recovered is the "
        "share of that difference. FVU is the fraction of variance unexplained at the "
        "site, KL the divergence of the spliced model's predictions from the bare "
        "model's.",
    ]
    return "\n".join(lines)


def _table_of_facts(heading: str, facts: Mapping[str, Any]) -> str:
    rows = [_row([_escaped(str(n)), _escaped(str(f))]) for n, f in facts.items()]
    return "\n".join([f"## {heading}", "", "| | |", "| --- | --- |", *rows])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """A text as Markdown shows it in a cell of a table."""
    one_line = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", one_line)
