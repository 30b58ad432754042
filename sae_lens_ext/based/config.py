"""The shape of a Based or ReBased model."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from transformers import PreTrainedConfig

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.based.config_keys import unknown_keys
from sae_lens_ext.errors import InvalidArgument, closest
from sae_lens_ext.kernels.quadratic_attention.features import Coefficients

FeatureMapName = Literal[
    "based",
    "rebased",
    "square",
    "norm_square",
    "scaled_square",
    "affine_square",
    "shifted_parabola",
]
"""A feature map of linear attention, which weighs values by queries and keys."""

LayerType = Literal["conv", "linear_attention", "sliding_attention", "full_attention"]
"""The mixer of a layer, which moves information between tokens."""

ATTENTION = "attention"
"""The name of softmax attention where it is compared with the feature maps."""

_TAYLOR: Coefficients = (1.0, 1.0, 0.5)
_SQUARE: Coefficients = (0.0, 0.0, 1.0)


class FeatureMapConfig(NamedTuple):
    """How linear attention weighs values by queries and keys."""

    coefficients: Coefficients
    """c0, c1, c2 of the weight c0 + c1 s + c2 s^2 of a score s."""
    normalizes: bool = False
    """Whether queries and keys pass a LayerNorm before they are multiplied."""
    has_gamma: bool = False
    """Whether each coordinate of queries and keys then has a learned factor."""
    has_beta: bool = False
    """Whether each coordinate of queries and keys then has a learned shift."""


FEATURE_MAPS: dict[str, FeatureMapConfig] = {
    "based": FeatureMapConfig(_TAYLOR),
    "rebased": FeatureMapConfig(
        _SQUARE, normalizes=True, has_gamma=True, has_beta=True
    ),
    "square": FeatureMapConfig(_SQUARE),
    "norm_square": FeatureMapConfig(_SQUARE, normalizes=True),
    "scaled_square": FeatureMapConfig(_SQUARE, has_gamma=True),
    "affine_square": FeatureMapConfig(_SQUARE, has_gamma=True, has_beta=True),
    "shifted_parabola": FeatureMapConfig((0.5, 1.0, 0.5)),
}
"""Based, ReBased, and the steps between them of Aksenov et al. 2024, Table 1.

``shifted_parabola`` is Based's parabola lowered until it touches 0.
"""

_CHOICES: dict[str, tuple[str, ...]] = {
    "kernel": tuple(FEATURE_MAPS),
    "norm_layout": ("wide", "shared"),
    "conv_form": ("gated", "base"),
    "mlp": ("swiglu", "identity"),
    "norm": ("rms", "layer"),
}

# quadratic_attention accepts no smaller eps for weights in float32.
_SMALLEST_EPS = torch.finfo(torch.float32).tiny


class BasedConfig(PreTrainedConfig):
    """The shape of a model; every field defaults to that of ReBased's language model.

    Other keyword arguments are those that every config of ``transformers`` has. Unknown
    ones are an error here, and a warning in a ``config.json`` that is read.

    >>> layers = ["conv", "linear_attention"]
    >>> config = BasedConfig(hidden_size=64, num_hidden_layers=2, layer_types=layers)
    >>> config.intermediate_size
    128

    Attributes:
        kernel: feature map of linear attention, a name of ``FEATURE_MAPS``.
        norm_layout: layout of ReBased's LayerNorm of queries and keys. "wide"
            normalises all heads of a token together, with separate weights for queries
            and for keys, as published; "shared" normalises each head, with one set of
            weights for both, as in fla.
        feature_dim: width of a query and a key of one head, in linear attention.
        layer_types: the mixer of every layer; None alternates short convolutions and
            linear attention.
        num_attention_heads: heads of linear, sliding and full attention. A value is
            ``hidden_size // num_attention_heads`` wide.
        conv_form: "gated" is the short convolution of the language models, "base" that
            of the synthetic tasks.
        conv_kernel_size: number of tokens that the convolution sees, itself included.
        conv_expansion: width of the gated form's projection, as a multiple of
            ``hidden_size``; half of it is the gate.
        sliding_window: number of tokens before itself that a token of sliding attention
            sees.
        use_rope: whether queries and keys of sliding and full attention are rotated by
            their positions.
        rope_theta: base of that rotation.
        mlp: "swiglu", or "identity", which adds the normalised residual stream, as the
            models of the synthetic tasks do.
        intermediate_size: width of the MLP; None means twice ``hidden_size``.
        norm: "rms" or "layer": the norm before every mixer and MLP and at the end.
        norm_eps: eps of these norms.
        qk_norm_eps: eps of ReBased's LayerNorm of queries and keys.
        max_position_embeddings: number of learned positions; None for a model without
            position embeddings.
        embedding_dropout: dropout of the embedding, in training.
        attention_eps: added to the sum of a token's weights before division; at least
            1.2e-38, the smallest normal number of float32.
        initializer_range: standard deviation of random weights.
        rescale_prenorm_residual: whether the weights that write into the residual
            stream begin smaller, divided by the root of their number, twice
            ``num_hidden_layers``. The language models did so; the models of the
            synthetic tasks did not.

    Raises:
        InvalidArgument: fields that do not describe a model (the error names all of
            them), or an unknown keyword argument.

    Source: Arora et al. 2024 (arXiv 2402.18668); Aksenov et al. 2024 (arXiv
    2402.10644).
    """

    model_type = "sae_lens_ext_based"
    creation_hooks: ClassVar[list[Callable[[], None]]] = []
    """Functions that are called after a config was made; see ``registration``."""

    def __init__(
        self,
        kernel: FeatureMapName = "rebased",
        vocab_size: int = 50280,
        hidden_size: int = 768,
        num_hidden_layers: int = 18,
        num_attention_heads: int = 12,
        feature_dim: int = 16,
        norm_layout: Literal["wide", "shared"] = "wide",
        layer_types: Sequence[LayerType] | None = None,
        conv_form: Literal["gated", "base"] = "gated",
        conv_kernel_size: int = 3,
        conv_expansion: int = 4,
        sliding_window: int = 64,
        use_rope: bool = True,
        rope_theta: float = 10000.0,
        mlp: Literal["swiglu", "identity"] = "swiglu",
        intermediate_size: int | None = None,
        norm: Literal["rms", "layer"] = "rms",
        norm_eps: float = 1e-5,
        qk_norm_eps: float = 1e-5,
        max_position_embeddings: int | None = None,
        embedding_dropout: float = 0.0,
        attention_eps: float = 1e-12,
        initializer_range: float = 0.02,
        rescale_prenorm_residual: bool = True,
        tie_word_embeddings: bool = True,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        self.kernel = kernel
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.feature_dim = feature_dim
        self.norm_layout = norm_layout
        # This field and intermediate_size are None until those that they follow from
        # have been checked.
        self.layer_types: Any = layer_types
        self.conv_form = conv_form
        self.conv_kernel_size = conv_kernel_size
        self.conv_expansion = conv_expansion
        self.sliding_window = sliding_window
        self.use_rope = use_rope
        self.rope_theta = rope_theta
        self.mlp = mlp
        self.intermediate_size: Any = intermediate_size
        self.norm = norm
        self.norm_eps = norm_eps
        self.qk_norm_eps = qk_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.embedding_dropout = embedding_dropout
        self.attention_eps = attention_eps
        self.initializer_range = initializer_range
        self.rescale_prenorm_residual = rescale_prenorm_residual
        self.tie_word_embeddings = tie_word_embeddings
        self.use_cache = use_cache

        _check_known(kwargs)
        self._check_fields(kwargs.get("dtype"), kwargs.get("torch_dtype"))
        self._fill_defaults()
        self._check_relations()

        super().__init__(**{"tie_word_embeddings": self.tie_word_embeddings, **kwargs})
        for hook in self.creation_hooks:
            hook()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a config from the content of a ``config.json``; see ``transformers``.

        Unknown keys are stored with a warning: tools may have added them.
        """
        unknown = _unknown_fields(config_dict)
        known = {key: value for key, value in config_dict.items() if key not in unknown}
        read = super().from_dict(known, **kwargs)
        config = read[0] if isinstance(read, tuple) else read
        for key in unknown:
            setattr(config, key, config_dict[key])
        if unknown:
            warnings.warn(
                f"BasedConfig has no field {', '.join(unknown)}, of this config.json; "
                "it has no effect on the model",
                stacklevel=2,
            )
        return read

    @property
    def head_dim(self) -> int:
        """Width of a value, and in softmax attention of a query and a key."""
        return self.hidden_size // self.num_attention_heads

    def _check_fields(self, *dtypes: object) -> None:
        """Check each field, and convert numbers of numpy, which JSON cannot hold."""
        with FieldChecks(self) as check:
            check(
                arguments.positive_int,
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "feature_dim",
                "conv_kernel_size",
                "conv_expansion",
            )
            check(
                arguments.positive_int,
                "intermediate_size",
                "max_position_embeddings",
                optional=True,
            )
            check(arguments.integer, "sliding_window", at_least=0)
            check(
                arguments.finite,
                "norm_eps",
                "qk_norm_eps",
                "initializer_range",
                at_least=0.0,
            )
            check(arguments.finite, "rope_theta", above=0.0)
            check(arguments.finite, "embedding_dropout", at_least=0.0, below=1.0)
            check(arguments.finite, "attention_eps", at_least=_SMALLEST_EPS)
            check(
                arguments.flag,
                "use_rope",
                "rescale_prenorm_residual",
                "tie_word_embeddings",
                "use_cache",
            )
            for name, choices in _CHOICES.items():
                check(arguments.choice, name, choices=choices)
            check(_layer_types, "layer_types", optional=True)
            for dtype in dtypes:
                check.that(
                    not isinstance(dtype, str) or _is_torch_dtype(dtype),
                    "dtype must be the name of a dtype of torch, such as 'float32'; "
                    f"got {described(dtype)}",
                )

    def _fill_defaults(self) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 2 * self.hidden_size
        if self.layer_types is None:
            pair: list[LayerType] = ["conv", "linear_attention"]
            self.layer_types = [pair[i % 2] for i in range(self.num_hidden_layers)]

    def _check_relations(self) -> None:
        has_gated_conv = "conv" in self.layer_types and self.conv_form == "gated"
        with FieldChecks(self) as check:
            check.that(
                self.hidden_size >= self.num_attention_heads,
                f"hidden_size={self.hidden_size} must be at least num_attention_heads="
                f"{self.num_attention_heads}, so that each head has a dimension",
            )
            check.that(
                len(self.layer_types) == self.num_hidden_layers,
                "layer_types must have an entry for each of num_hidden_layers="
                f"{self.num_hidden_layers} layers; got {self.layer_types!r}",
            )
            check.that(
                not has_gated_conv or self.conv_expansion * self.hidden_size >= 2,
                f"conv_expansion={self.conv_expansion} times hidden_size="
                f"{self.hidden_size} must be at least 2: half of it is the gate of the "
                "convolution",
            )


def _unknown_fields(keys: Iterable[str]) -> list[str]:
    return unknown_keys(keys, inspect.signature(BasedConfig.__init__).parameters)


def _check_known(kwargs: Iterable[str]) -> None:
    unknown = _unknown_fields(kwargs)
    if unknown:
        fields = list(inspect.signature(BasedConfig.__init__).parameters)
        raise InvalidArgument(
            f"BasedConfig has no field {', '.join(unknown)}; the closest are "
            f"{closest(unknown[0], fields[1:-1])}"
        )


def _layer_types(value: Any, name: str) -> list[str]:
    known = get_args(LayerType)
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or any(layer_type not in known for layer_type in value):
        raise InvalidArgument(
            f"{name} must be a list of {', '.join(known)}; got {described(value)}"
        )
    return list(value)


def _is_torch_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)
