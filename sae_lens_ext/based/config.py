"""What a Based or ReBased model is made of."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from transformers import PreTrainedConfig

from sae_lens_ext._arguments import as_integer, as_python, as_real
from sae_lens_ext.errors import InvalidArgument
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
"""The function of a query and a key that linear attention weighs values with. See ``FEATURE_MAPS``."""

# The least that whole numbers may be.
_LEAST = {
    "vocab_size": 1,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "feature_dim": 1,
    "conv_kernel_size": 1,
    "conv_expansion": 1,
    "sliding_window": 0,
    "intermediate_size": 1,
    "max_position_embeddings": 1,
}
_FROM_0 = (
    "norm_eps",
    "qk_norm_eps",
    "attention_eps",
    "initializer_range",
    "embedding_dropout",
)
_BOOLEANS = ("use_rope", "rescale_prenorm_residual", "tie_word_embeddings", "use_cache")
# As quadratic_attention asks of weights in float32.
_SMALLEST_EPS = torch.finfo(torch.float32).tiny

LayerType = Literal["conv", "linear_attention", "sliding_attention", "full_attention"]
"""What mixes tokens in a layer."""

_TAYLOR: Coefficients = (1.0, 1.0, 0.5)
_SQUARE: Coefficients = (0.0, 0.0, 1.0)


class FeatureMapConfig(NamedTuple):
    """How linear attention weighs values by queries and keys."""

    coefficients: Coefficients
    """c0, c1, c2 of the weight c0 + c1 s + c2 s^2 of a score s."""
    normalizes: bool = False
    """Whether queries and keys pass a LayerNorm before they are multiplied."""
    has_gamma: bool = False
    """Whether each of their coordinates then has a learned factor."""
    has_beta: bool = False
    """Whether it then has a learned shift."""


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
"""Based, ReBased, and the steps between them of Aksenov et al. 2024, Table 1; the last is Based's parabola lowered until it touches 0."""

ATTENTION = "attention"
"""Beside them, where kernels are compared: softmax attention."""


class BasedConfig(PreTrainedConfig):
    """The shape of a model; every field has a default, those of ReBased's language model.

    Fields that are not listed are those of every config of ``transformers``, which keeps what it does not know without a word.

    >>> BasedConfig(hidden_size=64, num_hidden_layers=2, layer_types=["conv", "linear_attention"]).intermediate_size
    128

    Attributes:
        kernel: of linear attention.
        norm_layout: of ReBased's LayerNorm of queries and keys: "wide" is over all heads of a token, with weights of its own for
            queries and for keys, as published; "shared" is over each head, with one set of weights for both, as in fla.
        feature_dim: width of a query and a key of one head, in linear attention.
        layer_types: of every layer; None means a short convolution and linear attention in turns.
        num_attention_heads: of linear, sliding and full attention. ``hidden_size // num_attention_heads`` is the width of a value.
        conv_form: "gated" is the short convolution of the language models, "base" the one of the synthetic tasks.
        conv_kernel_size: how many tokens the convolution sees, itself included.
        conv_expansion: width of the gated form's projection, as a multiple of ``hidden_size``; half of it is the gate.
        sliding_window: how many tokens before itself a token of sliding attention sees.
        use_rope: rotate queries and keys of sliding and full attention by their positions.
        rope_theta: base of that rotation.
        mlp: "swiglu", or "identity", which adds the normalised residual as the models of the synthetic tasks do.
        intermediate_size: of the MLP; None means twice ``hidden_size``.
        norm: "rms" or "layer", before every mixer and MLP and at the end.
        norm_eps: of them.
        qk_norm_eps: of ReBased's LayerNorm of queries and keys.
        max_position_embeddings: how many learned positions there are; None for none.
        embedding_dropout: in training.
        attention_eps: added to the sum of a token's weights before it divides.
        initializer_range: standard deviation of random weights.
        rescale_prenorm_residual: begin with weights that write into the stream smaller by the root of how many there are, twice
            ``num_hidden_layers``, as the language models did and those of the synthetic tasks did not.

    Raises:
        InvalidArgument: values that make no model.

    Source: Arora et al. 2024 (arXiv 2402.18668); Aksenov et al. 2024 (arXiv 2402.10644).
    """

    model_type = "sae_lens_ext_based"
    when_created: ClassVar[Callable[[], None]] = staticmethod(lambda: None)
    """Called after a config was made; for whoever keeps a table of architectures."""

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
        pair: tuple[LayerType, LayerType] = ("conv", "linear_attention")
        # Of any length until the number of layers is known to be one.
        self.layer_types: Any = layer_types
        self.conv_form = conv_form
        self.conv_kernel_size = conv_kernel_size
        self.conv_expansion = conv_expansion
        self.sliding_window = sliding_window
        self.use_rope = use_rope
        self.rope_theta = rope_theta
        self.mlp = mlp
        # None until hidden_size is known to be a number.
        self.intermediate_size: Any = intermediate_size
        self.norm = norm
        self.norm_eps = norm_eps
        self.qk_norm_eps = qk_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.embedding_dropout = embedding_dropout
        self.attention_eps = attention_eps
        self.initializer_range = initializer_range
        self.rescale_prenorm_residual = rescale_prenorm_residual
        self.use_cache = use_cache
        self.tie_word_embeddings = tie_word_embeddings
        _check_booleans(self)
        _check_numbers(self)
        _check_dtype(kwargs.get("dtype"))
        _check_dtype(kwargs.get("torch_dtype"))
        if layer_types is None:
            self.layer_types = [pair[i % 2] for i in range(num_hidden_layers)]
        _check_choices(self)
        self.layer_types = list(self.layer_types)
        super().__init__(**{"tie_word_embeddings": self.tie_word_embeddings, **kwargs})
        self.when_created()

    @property
    def head_dim(self) -> int:
        """Width of a value, and in sliding and full attention of a query and a key."""
        return self.hidden_size // self.num_attention_heads


def _check_booleans(config: BasedConfig) -> None:
    for name in _BOOLEANS:
        value = as_python(getattr(config, name))
        if not isinstance(value, bool):
            raise InvalidArgument(f"{name} must be True or False; got {value!r}")
        setattr(config, name, value)


def _check_dtype(dtype: object) -> None:
    if isinstance(dtype, str) and not isinstance(
        getattr(torch, dtype, None), torch.dtype
    ):
        raise InvalidArgument(
            f"dtype must be the name of one of torch, such as 'float32'; got {dtype!r}"
        )


def _check_numbers(config: BasedConfig) -> None:
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is None and name == "max_position_embeddings":
            continue
        if value is None and name == "intermediate_size":
            value = 2 * config.hidden_size
        if (number := as_integer(value)) is None or number < least:
            raise InvalidArgument(
                f"{name} must be a whole number from {least} on; got {value!r}"
            )
        # Python's, for numpy's do not fit into config.json.
        setattr(config, name, number)
    for name in _FROM_0:
        value = getattr(config, name)
        if not 0 <= as_real(value) < math.inf:
            raise InvalidArgument(f"{name} must be a number from 0 on; got {value!r}")
        setattr(config, name, as_real(value))
    if config.embedding_dropout >= 1:
        raise InvalidArgument(
            f"embedding_dropout must be below 1; got {config.embedding_dropout}"
        )
    if config.attention_eps < _SMALLEST_EPS:
        raise InvalidArgument(
            f"attention_eps must be above 0, and at least {_SMALLEST_EPS:.2g}, the smallest of float32; got {config.attention_eps}"
        )
    if not 0 < as_real(config.rope_theta) < math.inf:
        raise InvalidArgument(
            f"rope_theta must be a number above 0; got {config.rope_theta!r}"
        )
    config.rope_theta = as_real(config.rope_theta)
    if config.hidden_size < config.num_attention_heads:
        raise InvalidArgument(
            f"hidden_size={config.hidden_size} leaves nothing for each of num_attention_heads={config.num_attention_heads} heads"
        )


def _check_choices(config: BasedConfig) -> None:
    for name, choices in (
        ("kernel", tuple(FEATURE_MAPS)),
        ("norm_layout", ("wide", "shared")),
        ("conv_form", ("gated", "base")),
        ("mlp", ("swiglu", "identity")),
        ("norm", ("rms", "layer")),
    ):
        value = getattr(config, name)
        if value not in choices:
            raise InvalidArgument(
                f"{name} must be one of {', '.join(choices)}; got {value!r}"
            )
    kinds, given = get_args(LayerType), config.layer_types
    named = given if isinstance(given, Sequence) and not isinstance(given, str) else []
    if len(named) != config.num_hidden_layers or any(
        kind not in kinds for kind in named
    ):
        raise InvalidArgument(
            f"layer_types must name one of {', '.join(kinds)} for each of num_hidden_layers={config.num_hidden_layers} layers; "
            f"got {given!r}"
        )
    if (
        "conv" in named
        and config.conv_form == "gated"
        and config.conv_expansion * config.hidden_size < 2
    ):
        raise InvalidArgument(
            f"conv_expansion={config.conv_expansion} times hidden_size={config.hidden_size} leaves nothing for the convolution: half of "
            "it is the gate"
        )
