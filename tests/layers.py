"""The layers of the package: `python tests/layers.py` writes them to CONTRIBUTING.

A module may import rows below its own. Names in one row do not import each other.
"""

from pathlib import Path

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"
BEGIN = "<!-- layers: written by `python tests/layers.py` -->\n"
END = "<!-- end -->\n"

# From the top down: name -> what it holds. A name is a module, a folder, or a module in
# a folder; the longest name that fits a file decides about it.
LAYERS: list[dict[str, str]] = [
    {
        "__main__": "`python -m sae_lens_ext`",
        "based/pretrain": "another name of `sae-lens-ext pretrain`",
    },
    {"cli": "the command line"},
    {"experiments": "uses of the language model: recall/ (MQAR), pretraining/"},
    {
        "demo": "the bundled model, SAEs for it, the demo",
        "explore": "a text while the model runs: the dial of a notebook",
        "publishing": "an SAE with its results and card, for the Hugging Face hub",
        "saelens": "HierarchicalTopK as a training architecture of SAELens",
    },
    {"viz": "results -> figures and pages; takes data, never a model"},
    {
        "circuits": "effects of features on a prediction, at every k",
        "features": "the index of a site's features: contexts, labels, search",
    },
    {"viz/pages": "the pages of features as HTML; takes data, never a model"},
    {"training": "activations of a model -> the loop; checkpoints/, logging/"},
    {"interventions": "changes of an activation: splice, edits/, positions/, sweep/"},
    {"hosts": "where an activation can be read and replaced: lens, nnsight, torch"},
    {"objectives": "what an SAE minimises: HierarchicalTopK, TopK, JumpReLU, ..."},
    {
        "sae": "SAE, SAEConfig, SparseCode; reading and writing them",
        "based": "the Based / ReBased language model, checkpoints/, the bridge",
    },
    {
        "kernels": "pure functions on tensors, the part that has to be fast",
        "formats": "bytes on disk <-> config and tensors",
        "text": "documents -> a fixed split -> rows of token ids",
    },
    {"_labels": "what features stand for -> texts by site and feature"},
    {
        "_arguments": "what a user passes -> a checked value, or an error",
        "_fields": "the same for all fields of a config at once",
        "_tokenizers": "the same for a tokenizer",
        "_optional": "import a package that may not be installed",
    },
    {
        "errors": "every error that is raised on purpose",
        "_described": "a value -> what a message says of it",
        "_types": "words of shapes",
    },
]


def row_of(path: str) -> tuple[int, str] | None:
    """The row of a module, counted from the bottom, and the name that decides about it.

    Args:
        path: relative to the package, such as ``sae/code.py``.
    """
    module = path.removesuffix(".py")
    fitting = [
        (name, row)
        for row, names in enumerate(reversed(LAYERS))
        for name in names
        if module == name or module.startswith(f"{name}/")
    ]
    if not fitting:
        return None
    name, row = max(fitting, key=lambda pair: len(pair[0]))
    return row, name


def table() -> str:
    """The table in Markdown, from the top row down."""
    width = max(len(name) for names in LAYERS for name in names)
    lines = []
    for names in LAYERS:
        lines += [f"{name:<{width}}  {purpose}" for name, purpose in names.items()]
        lines.append("-" * 24)
    body = "\n".join(lines[:-1])
    return f"{BEGIN}```text\n{body}\n```\n{END}"


def with_table(document: str) -> str:
    """A document with the table in its place."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + table() + after


if __name__ == "__main__":
    CONTRIBUTING.write_text(
        with_table(CONTRIBUTING.read_text("utf-8")), encoding="utf-8"
    )
