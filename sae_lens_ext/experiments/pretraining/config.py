"""Settings of a pretraining run.

The command line is made from these two classes: each field is an option, and the
sentence under it is the option's help.
"""

import math
from dataclasses import dataclass

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks

BYTES = "bytes"
"""Stands for a tokenizer with one token per byte of UTF-8."""

_LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The shape of the models and their training; the defaults suit a laptop.

    Models are trained with AdamW (betas 0.9 and 0.95, weight decay on every weight).
    The learning rate rises linearly, then falls to 0 along half a cosine. The norm of
    the gradient is clipped. The published runs: ``hidden_size=768, layers=18,
    heads=12, seq_len=4096, steps=20_000, warmup=200``.

    Raises:
        InvalidArgument: a field is out of range; the message names every such field.

    Source: Aksenov et al. 2024 (arXiv 2402.10644), Section 5.
    """

    hidden_size: int = 128
    """Width of the residual stream."""

    layers: int = 4
    """Layers of a linear-attention model, convolution and attention in turns;
    the softmax-attention model has two thirds as many."""

    heads: int = 4
    """Attention heads of a layer."""

    feature_dim: int = 16
    """Width of a head's queries and keys in linear attention."""

    seq_len: int = 256
    """Tokens of a sequence."""

    batch_size: int = 16
    """Sequences of a step."""

    steps: int = 1000
    """Steps of the optimizer."""

    lr: float = 1e-3
    """Highest learning rate."""

    warmup: int | None = None
    """Steps over which the learning rate rises; by default 200, or a tenth of the
    steps if that is less."""

    weight_decay: float = 0.1
    """Weight decay of AdamW, on every weight."""

    clip: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""

    seed: int = 0
    """Seed of the first weights and of the order of the text."""

    dtype: str = "float32"
    """float32, or bfloat16 for the matrix products (weights stay float32)."""

    def __post_init__(self) -> None:
        """Check every field."""
        with FieldChecks(self) as check:
            check(
                arguments.positive_int,
                "hidden_size",
                "layers",
                "heads",
                "feature_dim",
                "seq_len",
                "batch_size",
                "steps",
            )
            check(arguments.finite, "lr", above=0.0)
            check(arguments.integer, "warmup", at_least=0, optional=True)
            check(arguments.finite, "weight_decay", "clip", at_least=0.0)
            # The range that torch accepts for a seed.
            check(arguments.integer, "seed", at_least=0, at_most=_LARGEST_SEED)
            check(arguments.choice, "dtype", choices=("float32", "bfloat16"))

            # Compared only where both are integers; the checks above report the rest.
            steps = arguments.as_integer(self.steps)
            warmup = arguments.as_integer(self.warmup)
            check.that(
                steps is None or warmup is None or warmup < steps,
                f"warmup must be less than steps={steps}; got {warmup}",
            )

    @property
    def tokens(self) -> int:
        """Number of tokens that a model is trained on, repetitions included."""
        return self.steps * self.batch_size * self.seq_len

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0.

        >>> config = PretrainConfig(steps=100, warmup=10, lr=0.5)
        >>> config.lr_at(0), config.lr_at(10), round(config.lr_at(55), 3)
        (0.05, 0.5, 0.25)
        """
        warmup = self.warmup
        if warmup is None:
            warmup = min(200, self.steps // 10)

        if step < warmup:
            return self.lr * (step + 1) / warmup

        angle = math.pi * (step - warmup) / (self.steps - warmup)
        return self.lr * (1 + math.cos(angle)) / 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text that models are trained on, and the text that they are tested on.

    Raises:
        InvalidArgument: a field has the wrong type; the message names every such field.
    """

    text: str | None = None
    """File or folder of .txt, .md, .jsonl or .parquet, or name of a dataset on the hub;
    by default prose that comes with Python."""

    column: str = "text"
    """Column or key in which JSONL, Parquet and datasets hold the text."""

    eval_text: str | None = None
    """Text to test on, in the same forms as --text; by default one in ten documents of
    --text, by a hash of each."""

    eval_tokens: int = 200_000
    """Largest number of tokens to test on."""

    tokenizer: str = BYTES
    """'bytes', or the name or folder of a Hugging Face tokenizer."""

    def __post_init__(self) -> None:
        """Check every field."""
        with FieldChecks(self) as check:
            check(arguments.string, "text", "eval_text", optional=True)
            check(arguments.string, "column", "tokenizer")
            check(arguments.positive_int, "eval_tokens")
