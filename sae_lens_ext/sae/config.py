"""What defines an SAE, apart from its weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument, InvalidK, closest

# Changing these would need other weights.
_FIELDS_OF_WEIGHTS = {"d_model", "d_sae", "apply_b_dec_to_input"}


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """The choices behind an SAE.

    Nothing in it changes at inference; in particular not k, which is an argument there.

    Attributes:
        d_model: width of the activations that it reads and writes.
        d_sae: number of features.
        k: the largest k that it was trained at, and the default.
        levels: the values of k that its training looked at, rising; ``(k,)`` for a
            plain TopK SAE.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding (a
            "pre-bias").
        hook_name: where its activations come from, in TransformerLens names, such as
            ``blocks.12.hook_resid_post``.
        model_name: the model it was trained on.
        exclude_special_tokens: whether special tokens (BOS and the like) were left out
            of its training, so that a splice should leave them alone; or the ids of
            those tokens.
        metadata: any other facts to keep with it; JSON values.
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
        """Check every field, then the relations between k, levels and d_sae.

        Raises:
            InvalidK: k is not an integer from 1 to d_sae.
            InvalidArgument: any other field is invalid, or the levels do not rise to k.
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

        # Only now, because their bounds are other fields.
        object.__setattr__(self, "k", arguments.k(self.k, self.d_sae))
        levels = tuple(self.levels) or (self.k,)
        is_rising = list(levels) == sorted(set(levels))
        if not is_rising or levels[0] < 1 or levels[-1] != self.k:
            raise InvalidArgument(
                f"levels must rise from at least 1 to k={self.k} without repeats; got "
                f"{levels}"
            )
        object.__setattr__(self, "levels", levels)

    def checked_k(self, k: object, *, extrapolate: bool = False) -> int:
        """The k to use: ``k`` itself, or the default if it is None.

        Raises:
            InvalidK: k is not an integer from 1 to d_sae, or it is above the trained
                maximum without ``extrapolate=True``.
        """
        if k is None:
            return self.k
        k = arguments.k(k, self.d_sae)
        if k > self.k and not extrapolate:
            raise InvalidK(
                f"k={k} is above k={self.k}, the largest this SAE was trained at; "
                f"choose up to {self.k}, or pass extrapolate=True to go on"
            )
        return k

    def checked_ks(self, ks: object, *, extrapolate: bool = False) -> list[int]:
        """Several values of k, in the order in which they come; see ``checked_k``.

        Raises:
            InvalidK: ``ks`` is empty or not a list, or holds an invalid k.
        """
        if not isinstance(ks, Iterable) or isinstance(ks, str):
            raise InvalidK(f"ks must be a list of values of k; got {ks!r}")
        checked = [self.checked_k(k, extrapolate=extrapolate) for k in ks]
        if not checked:
            raise InvalidK("ks must hold at least one k; got none")
        return checked

    def with_changes(self, **changes: Any) -> "SAEConfig":
        """The same config with some fields replaced, for an SAE with the same weights.

        Raises:
            InvalidArgument: no such field, or one that belongs to the weights.
        """
        of_weights = _FIELDS_OF_WEIGHTS & changes.keys()
        if of_weights:
            raise InvalidArgument(
                f"{', '.join(sorted(of_weights))} belong to the weights and cannot be "
                "replaced"
            )
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise InvalidArgument(
                    f"an SAE's config has no {name!r}; the closest: "
                    f"{closest(name, names)}"
                )
        return replace(self, **changes)


def _flag_or_token_ids(value: object, name: str) -> bool | tuple[int, ...]:
    if isinstance(value, bool):
        return value
    ids = arguments.as_integers(value)
    if ids is None:
        raise InvalidArgument(
            f"{name} must be True, False, or a list of token ids; got {value!r}"
        )
    return ids
