"""What an SAE is, apart from its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae_lens_ext._arguments import check_k, whole_number, whole_numbers
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
        for name in ("d_model", "d_sae"):
            size = whole_number(getattr(self, name))
            if size is None or size < 1:
                raise InvalidArgument(f"{name} must be a whole number of at least 1; got {getattr(self, name)!r}")
            object.__setattr__(self, name, size)
        if not isinstance(self.metadata, Mapping):
            raise InvalidArgument(f"metadata must be a mapping of JSON values; got {self.metadata!r}")
        for name in ("hook_name", "model_name"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidArgument(f"{name} must be a string or None; got {getattr(self, name)!r}")
        if not isinstance(self.apply_b_dec_to_input, bool):
            raise InvalidArgument(f"apply_b_dec_to_input must be True or False; got {self.apply_b_dec_to_input!r}")
        object.__setattr__(self, "exclude_special_tokens", _true_false_or_ids(self.exclude_special_tokens))
        object.__setattr__(self, "k", check_k(self.k, self.d_sae))
        levels = whole_numbers(self.levels)
        if levels is None:
            raise InvalidArgument(f"levels must be whole numbers; got {self.levels!r}")
        object.__setattr__(self, "levels", levels or (self.k,))
        if list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 1 or self.levels[-1] != self.k:
            raise InvalidArgument(f"levels must rise from at least 1 to k={self.k} without repeats; got {self.levels}")

    def checked_k(self, k: object, *, extrapolate: bool = False) -> int:
        """The k to use: ``k`` itself, or the default when it is None.

        Raises:
            InvalidK: not a whole number, outside of 1..d_sae, or above the trained maximum without ``extrapolate=True``.
        """
        if k is None:
            return self.k
        k = check_k(k, self.d_sae)
        if k > self.k and not extrapolate:
            raise InvalidK(
                f"k={k} is above k={self.k}, the largest this SAE was trained at; choose up to {self.k}, or pass extrapolate=True to go on"
            )
        return k


def _true_false_or_ids(choice: object) -> bool | tuple[int, ...]:
    if isinstance(choice, bool):
        return choice
    ids = tuple(map(whole_number, choice)) if isinstance(choice, list | tuple) else (None,)
    if None in ids:
        raise InvalidArgument(f"exclude_special_tokens must be True, False, or a list of token ids; got {choice!r}")
    return tuple(i for i in ids if i is not None)
