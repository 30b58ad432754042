"""What an SAE is, apart from its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument, InvalidK


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """The choices behind an SAE. Nothing in it changes at inference; in particular not k, which is an argument.

    Attributes:
        d_model: width of the activations it reads and writes.
        d_sae: number of features.
        k: the largest k it was trained at, and the one used when none is given.
        levels: the values of k that its training looked at, rising; ``(k,)`` for a plain TopK SAE.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding (a "pre-bias").
        hook_name: where its activations come from, in TransformerLens names, such as ``blocks.12.hook_resid_post``.
        model_name: the model it was trained on.
        exclude_special_tokens: whether special tokens (BOS and the like) were left out of its training, and so should be left
            alone by a splice; or the ids of those tokens.
        metadata: anything else worth keeping with it; JSON values.
    """

    d_model: int
    d_sae: int
    k: int
    levels: Sequence[int] = ()
    apply_b_dec_to_input: bool = True
    hook_name: str | None = None
    model_name: str | None = None
    exclude_special_tokens: bool | Sequence[int] = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the choices against each other.

        Raises:
            InvalidK: k or a level outside of 1..d_sae.
            InvalidArgument: a size below 1, or levels that do not rise to k.
        """
        with FieldChecks(self) as check:
            check(arguments.positive_int, "d_model", "d_sae")
            check(arguments.string, "hook_name", "model_name", optional=True)
            check(arguments.flag, "apply_b_dec_to_input")
            check(_flag_or_token_ids, "exclude_special_tokens")
            check(arguments.integers, "levels")
            check.that(
                isinstance(self.metadata, Mapping),
                f"metadata must be a mapping of JSON values; got {self.metadata!r}",
            )
        with FieldChecks(self) as check:
            check(lambda k, _: arguments.k(k, self.d_sae), "k")
        levels = tuple(self.levels) or (self.k,)
        is_rising = list(levels) == sorted(set(levels))
        with FieldChecks(self) as check:
            check.that(
                is_rising and levels[0] >= 1 and levels[-1] == self.k,
                f"levels must rise from at least 1 to k={self.k} without repeats; got {levels}",
            )
        object.__setattr__(self, "levels", levels)

    def checked_k(self, k: object, *, extrapolate: bool = False) -> int:
        """The k to use: ``k`` itself, or the default when it is None.

        Raises:
            InvalidK: not a whole number, outside of 1..d_sae, or above the trained maximum without ``extrapolate=True``.
        """
        if k is None:
            return self.k
        k = arguments.k(k, self.d_sae)
        if k > self.k and not extrapolate:
            raise InvalidK(
                f"k={k} is above k={self.k}, the largest this SAE was trained at; choose up to {self.k}, or pass extrapolate=True to go on"
            )
        return k


def _flag_or_token_ids(value: object, name: str) -> bool | tuple[int, ...]:
    if isinstance(value, bool):
        return value
    ids = arguments.as_integers(value)
    if ids is None:
        raise InvalidArgument(
            f"{name} must be True, False, or a list of token ids; got {value!r}"
        )
    return ids
