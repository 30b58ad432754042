"""How long rows of tokens may be, in models that look positions up in a table."""

from typing import Any

from torch import nn

# Names of such tables: of GPT-2, OPT, BERT, and a TransformerBridge, which wraps them.
_NAMES = {"wpe", "embed_positions", "position_embeddings", "pos_embed"}


def position_limit(model: Any) -> int | None:
    """The number of positions in a model's table; None where it has none.

    Models with rotary positions, and those of ALiBi, take rows of any length.

    Args:
        model: a torch module, or an nnsight model, which wraps one.
    """
    module = model if isinstance(model, nn.Module) else model._module
    sizes = [
        # OPT leaves the first rows of its table unused.
        part.num_embeddings - getattr(part, "offset", 0)
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) and _NAMES & set(name.split("."))
    ]
    return min(sizes, default=None)
