"""What defines an SAE, apart from its weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind, TokenNorm
from sae_lens_ext.errors import InvalidArgument, InvalidK, closest

# Changing these would need other weights.
_FIELDS_OF_WEIGHTS = {
    "apply_b_dec_to_input",
    "d_model",
    "d_out",
    "d_sae",
    "kind",
    "skip_connection",
    "token_norm",
}
_KINDS = get_args(Kind)
_TOKEN_NORMS = get_args(TokenNorm)
_WITH_THRESHOLD = ("jumprelu", "batchtopk")


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """The choices behind an SAE.

    Nothing in it changes at inference; in particular not k, which is an argument there.

    Attributes:
        d_model: width of the activations that it reads, and writes unless it is a
            transcoder.
        d_sae: number of features.
        kind: how it chooses the active features of a token, among those with positive
            pre-activations: ``"topk"``, the k largest; ``"jumprelu"``, those above a
            threshold per feature; ``"batchtopk"``, those above one threshold, as
            BatchTopK does at inference; ``"relu"``, all of them.
        k: the largest k that it was trained at, and the default. Required for the kind
            topk; None for the others, whose default is every active feature.
        levels: the values of k that its training looked at, rising; ``(k,)`` for a
            plain TopK SAE, empty for a kind without k.
        d_out: width of the activations that a transcoder writes, at another place than
            it reads; None for an autoencoder.
        skip_connection: whether a transcoder adds a linear function of its input,
            ``x @ W_skip``, to its output.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding (a
            "pre-bias"); by default in an autoencoder alone.
        token_norm: how the activation of every token is normalised before it is
            encoded; see ``sae_lens_ext.sae.normalization``. Reconstructions are scaled
            back.
        hook_name: where its activations come from, in TransformerLens names, such as
            ``blocks.12.hook_resid_post``.
        hook_name_out: where the output of a transcoder belongs.
        model_name: the model it was trained on.
        exclude_special_tokens: whether special tokens (BOS and the like) were left out
            of its training, so that a splice should leave them alone; or the ids of
            those tokens.
        metadata: any other facts to keep with it; JSON values.
    """

    d_model: int
    d_sae: int
    kind: Kind = "topk"
    k: int | None = None
    levels: Sequence[int] = ()
    d_out: int | None = None
    skip_connection: bool = False
    apply_b_dec_to_input: bool | None = None
    token_norm: TokenNorm = "none"
    hook_name: str | None = None
    hook_name_out: str | None = None
    model_name: str | None = None
    exclude_special_tokens: bool | Sequence[int] = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, then the relations between them.

        Raises:
            InvalidK: k is not an integer from 1 to d_sae, or is missing for the kind
                topk.
            InvalidArgument: any other field is invalid, or the levels do not rise to k.
        """
        with FieldChecks(self) as check:
            check(arguments.positive_int, "d_model", "d_sae")
            check(arguments.positive_int, "d_out", optional=True)
            check(
                arguments.string,
                "hook_name",
                "hook_name_out",
                "model_name",
                optional=True,
            )
            check(arguments.flag, "apply_b_dec_to_input", optional=True)
            check(arguments.flag, "skip_connection")
            check(arguments.choice, "kind", choices=_KINDS)
            check(arguments.choice, "token_norm", choices=_TOKEN_NORMS)
            check(_flag_or_token_ids, "exclude_special_tokens")
            check(arguments.integers, "levels")
            check.that(
                isinstance(self.metadata, Mapping),
                f"metadata must be a mapping of JSON values; got {self.metadata!r}",
            )

        if self.apply_b_dec_to_input is None:
            object.__setattr__(self, "apply_b_dec_to_input", not self.is_transcoder)

        # Only now, because they relate several fields.
        with FieldChecks(self) as check:
            self._check_transcoder(check)
        self._set_k_and_levels()

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes at another place than it reads."""
        return self.d_out is not None

    @property
    def output_width(self) -> int:
        """Width of the activations that it writes."""
        return self.d_model if self.d_out is None else self.d_out

    @property
    def has_threshold(self) -> bool:
        """Whether a feature has to exceed a threshold to be active."""
        return self.kind in _WITH_THRESHOLD

    @property
    def trained_k(self) -> int:
        """``k``, where a number is needed.

        Raises:
            InvalidK: the SAE was not trained at a k.
        """
        if self.k is None:
            raise InvalidK(
                f"a number of features is needed here, and an SAE of kind {self.kind} "
                f"was not trained at one: pass a k from 1 to d_sae={self.d_sae}"
            )
        return self.k

    def checked_k(self, k: object, *, extrapolate: bool = False) -> int | None:
        """The k to use: ``k`` itself, or the default if it is None.

        The default of an SAE that was not trained at a k is None, which stands for
        every active feature.

        Raises:
            InvalidK: k is not an integer from 1 to d_sae, or it is above the trained
                maximum without ``extrapolate=True``.
        """
        if k is None:
            return self.k
        k = arguments.k(k, self.d_sae)
        if self.k is not None and k > self.k and not extrapolate:
            raise InvalidK(
                f"k={k} is above k={self.k}, the largest this SAE was trained at; "
                f"choose up to {self.k}, or pass extrapolate=True to go on"
            )
        return k

    def checked_ks(self, ks: object, *, extrapolate: bool = False) -> list[int | None]:
        """Several values of k, in the order in which they come; see ``checked_k``.

        Raises:
            InvalidK: ``ks`` is empty or not a list, or holds an invalid k.
        """
        if not isinstance(ks, Iterable) or isinstance(ks, str):
            raise InvalidK(f"ks must be a list of values of k; got {described(ks)}")
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

    def _check_transcoder(self, check: FieldChecks) -> None:
        """Check the fields that an autoencoder, or a transcoder, does not have."""
        if self.is_transcoder:
            # Both would need the input's centre, or scale, at the output.
            check.that(
                self.token_norm == "none",
                f"token_norm must be 'none' for a transcoder; got {self.token_norm!r}",
            )
            check.that(
                not self.apply_b_dec_to_input or self.d_out == self.d_model,
                "apply_b_dec_to_input must be False for a transcoder that reads width "
                f"{self.d_model} and writes width {self.d_out}",
            )
            return
        for name in ("hook_name_out", "skip_connection"):
            value = getattr(self, name)
            check.that(
                not value,
                f"{name}={value!r} is for a transcoder; give its d_out too",
            )

    def _set_k_and_levels(self) -> None:
        """Check and complete k and levels, whose bounds are other fields."""
        if self.kind != "topk":
            if self.k is not None or self.levels:
                raise InvalidArgument(
                    f"k and levels belong to the kind topk; an SAE of kind {self.kind} "
                    f"takes any k when it is used; got k={self.k}, "
                    f"levels={tuple(self.levels)}"
                )
            object.__setattr__(self, "levels", ())
            return

        k = arguments.k(self.k, self.d_sae)
        object.__setattr__(self, "k", k)
        levels = tuple(self.levels) or (k,)
        is_rising = list(levels) == sorted(set(levels))
        if not is_rising or levels[0] < 1 or levels[-1] != k:
            raise InvalidArgument(
                f"levels must rise from at least 1 to k={k} without repeats; got "
                f"{levels}"
            )
        object.__setattr__(self, "levels", levels)


def _flag_or_token_ids(value: object, name: str) -> bool | tuple[int, ...]:
    if isinstance(value, bool):
        return value
    ids = arguments.as_integers(value)
    if ids is None:
        raise InvalidArgument(
            f"{name} must be True, False, or a list of token ids; "
            f"got {described(value)}"
        )
    return ids
