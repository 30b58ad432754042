"""What a pretraining run is made of. The fields are also the options of ``python -m sae_lens_ext.based.pretrain``."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from sae_lens_ext._arguments import as_integer, as_python, as_real
from sae_lens_ext.errors import InvalidArgument

BYTES = "bytes"
"""In place of a tokenizer's name: one token per byte of UTF-8."""


def _option(default: Any, explained: str, kind: type | None = None) -> Any:
    """A field that the command line shows as an option."""
    return field(
        default=default, metadata={"help": explained, "type": kind or type(default)}
    )


def _whole(value: object) -> int:
    """-1, which no field takes, for what is no whole number."""
    number = as_integer(value)
    return -1 if number is None else number


def _as_python(config: Any) -> None:
    """numpy's numbers are taken too; the settings of a run are written as JSON, which knows none of them."""
    for option in fields(config):
        object.__setattr__(config, option.name, as_python(getattr(config, option.name)))


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The shape of the models and how they are trained; the defaults suit a laptop. Each field's ``metadata["help"]`` says what it is.

    AdamW with betas 0.9 and 0.95 and weight decay on everything; the learning rate rises linearly, then falls to 0 along half a cosine;
    the norm of the gradient is clipped. The published runs: ``hidden_size=768, layers=18, heads=12, seq_len=4096, steps=20_000,
    warmup=200``.

    Raises:
        InvalidArgument: values that make no run; all of them are named.

    Source: Aksenov et al. 2024 (arXiv 2402.10644), Section 5.
    """

    hidden_size: int = _option(128, "Width of the residual stream.")
    layers: int = _option(
        4,
        "Of the linear kernels, convolution and attention in turns; softmax attention has two thirds as many.",
    )
    heads: int = _option(4, "Of attention.")
    feature_dim: int = _option(16, "Of a head's queries and keys in linear attention.")
    seq_len: int = _option(256, "Tokens of a sequence.")
    batch_size: int = _option(16, "Sequences in a step.")
    steps: int = _option(1000, "Of the optimizer.")
    lr: float = _option(1e-3, "Highest learning rate.")
    warmup: int | None = _option(
        None,
        "Steps over which it rises. Default: 200, or a tenth of the steps if that is less.",
        int,
    )
    weight_decay: float = _option(0.1, "Of AdamW, on every weight.")
    clip: float = _option(1.0, "Longest gradient; 0 for any.")
    seed: int = _option(0, "Of the weights and of the order of the text.")
    dtype: str = _option(
        "float32",
        "float32, or bfloat16 for the matrix products (weights stay float32).",
    )

    def __post_init__(self) -> None:
        """Report everything that is wrong at once."""
        wrong = [
            f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}"
            for name in (
                "hidden_size",
                "layers",
                "heads",
                "feature_dim",
                "seq_len",
                "batch_size",
                "steps",
            )
            if _whole(getattr(self, name)) < 1
        ]
        # What torch takes for a seed.
        if not 0 <= _whole(self.seed) < 1 << 63:
            wrong.append(
                f"seed must be a whole number from 0 to below 2**63, got {self.seed!r}"
            )
        if not 0 < as_real(self.lr) < math.inf:
            wrong.append(f"lr must be a number above 0, got {self.lr!r}")
        wrong += [
            f"{name} must be a number of at least 0, got {getattr(self, name)!r}"
            for name in ("weight_decay", "clip")
            if not 0 <= as_real(getattr(self, name)) < math.inf
        ]
        if self.warmup is not None and not 0 <= _whole(self.warmup) < max(
            1, _whole(self.steps)
        ):
            wrong.append(
                f"warmup must be a whole number from 0 to below steps={self.steps}, got {self.warmup!r}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            wrong.append(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if wrong:
            raise InvalidArgument("; ".join(wrong))
        _as_python(self)

    @property
    def tokens(self) -> int:
        """That are trained on, repeats counted."""
        return self.steps * self.batch_size * self.seq_len

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = min(200, self.steps // 10) if self.warmup is None else self.warmup
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return (
            self.lr
            * (1 + math.cos(math.pi * (step - warmup) / (self.steps - warmup)))
            / 2
        )


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What the models are trained on and tested on; see ``PretrainConfig`` for where its fields are explained.

    Raises:
        InvalidArgument: no tokens to test on, or names that are no strings.
    """

    text: str | None = _option(
        None,
        "File or folder of .txt, .md, .jsonl or .parquet, or name of a dataset on the hub. Default: prose that comes with Python.",
        str,
    )
    column: str = _option("text", "Where JSONL, Parquet and datasets keep the text.")
    eval_text: str | None = _option(
        None,
        "Text to test on, as --text. Default: one in ten documents of --text, by a hash of each.",
        str,
    )
    eval_tokens: int = _option(200_000, "Tokens to test on, at most.")
    tokenizer: str = _option(
        BYTES, f"{BYTES!r}, or the name or folder of a Hugging Face tokenizer."
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be tested on."""
        if _whole(self.eval_tokens) < 1:
            raise InvalidArgument(
                f"eval_tokens must be a whole number of at least 1; got {self.eval_tokens!r}"
            )
        for name, kinds in (
            ("text", str | None),
            ("column", str),
            ("eval_text", str | None),
            ("tokenizer", str),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise InvalidArgument(
                    f"{name} must be a string; got {getattr(self, name)!r}"
                )
        _as_python(self)
