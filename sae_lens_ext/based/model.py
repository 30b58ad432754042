"""The language model: a residual stream, a mixer and an MLP in every block, as a ``transformers`` model."""

from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.based.cache import BasedCache, Kept
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.mixers.linear_attention import Form, LinearAttention
from sae_lens_ext.based.mixers.softmax_attention import (
    ShortConvolution,
    SoftmaxAttention,
)
from sae_lens_ext.based.norms import Norm, QueryKeyNorm
from sae_lens_ext.based.taps import Tap
from sae_lens_ext.based.writer import Writer
from sae_lens_ext.errors import InvalidArgument

# What transformers and TransformerLens pass along: this model counts tokens itself, and returns no attentions.
_NOT_FOR_US = (
    "cache_position",
    "num_items_in_batch",
    "output_attentions",
    "position_ids",
)


class SwiGLU(nn.Module):
    """An MLP with a gate: ``down(silu(gate(x)) * up(x))``, without biases."""

    def __init__(self, config: BasedConfig) -> None:
        """Of the config's ``intermediate_size``."""
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
            for _ in range(2)
        )
        self.down_proj = Writer(
            config.intermediate_size, config.hidden_size, bias=False
        )
        self.hook_pre = Tap()  # [batch, pos, d_mlp], the gate before its function
        self.hook_pre_linear = Tap()  # [batch, pos, d_mlp], what is gated
        self.hook_post = Tap()  # [batch, pos, d_mlp], the product

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        """What makes the gate; the next two make what is gated, and write."""
        return self.gate_proj.weight.T

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """See ``W_gate``."""
        return self.up_proj.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """See ``W_gate``."""
        return self.down_proj.weight.T

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model]."""
        return self.down_proj(
            self.hook_post(
                F.silu(self.hook_pre(self.gate_proj(x)))
                * self.hook_pre_linear(self.up_proj(x))
            )
        )


class Block(nn.Module):
    """``x + mixer(norm1(x))``, and the same with the MLP."""

    def __init__(self, config: BasedConfig, layer: int) -> None:
        """The block of one layer."""
        super().__init__()
        kind = config.layer_types[layer]
        self.norm1, self.norm2 = Norm(config), Norm(config)
        if kind == "conv":
            self.mixer: nn.Module = ShortConvolution(config)
        elif kind == "linear_attention":
            self.mixer = LinearAttention(config)
        else:
            self.mixer = SoftmaxAttention(
                config, config.sliding_window if kind == "sliding_attention" else None
            )
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else nn.Identity()
        self.hook_resid_mid = (
            Tap()
        )  # [batch, pos, d_model]; the MLP and what passes it by both see an edit

    def forward(self, hidden_states: Tensor, kept: Kept | None = None) -> Tensor:
        """[batch, pos, d_model]; ``kept`` is what the cache holds for this layer, and is brought up to date."""
        hidden_states = self.hook_resid_mid(
            hidden_states + self.mixer(self.norm1(hidden_states), kept)
        )
        return hidden_states + self.mlp(self.norm2(hidden_states))


class BasedPreTrainedModel(PreTrainedModel):
    """How weights are initialised, and what ``transformers`` may do with the model."""

    config_class = BasedConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _is_stateful = True
    supports_gradient_checkpointing = False

    def set_attention_form(self, form: Form) -> None:
        """How linear attention is computed: "auto", as hooked taps need it, or always by way of the taps of "dense" or "recurrent".

        For tools that read a module's output without torch's hooks, such as nnsight: with "dense" the patterns of softmax attention
        and the taps of convolutions are computed too; "auto" and "recurrent" leave them to who watches.

        Raises:
            InvalidArgument: there is no such form.
        """
        if form not in get_args(Form):
            raise InvalidArgument(
                f"form must be one of {', '.join(get_args(Form))}; got {form!r}"
            )
        for module in self.modules():
            if isinstance(module, LinearAttention):
                module.form = form
            if isinstance(module, ShortConvolution | SoftmaxAttention):
                module.shows_taps = form == "dense"

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            # Chosen at once, because transformers lets nobody initialise a weight twice.
            is_less = (
                isinstance(module, Writer) and self.config.rescale_prenorm_residual
            )
            nn.init.normal_(
                module.weight,
                std=std / (2 * self.config.num_hidden_layers) ** 0.5
                if is_less
                else std,
            )
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, Norm | QueryKeyNorm):
            for parameter, value in ((module.weight, 1.0), (module.bias, 0.0)):
                if parameter is not None:
                    nn.init.constant_(parameter, value)


class BasedModel(BasedPreTrainedModel):
    """Embedding, blocks and the last norm; see ``BasedForCausalLM``."""

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        positions = config.max_position_embeddings
        self.embed_positions = (
            nn.Embedding(positions, config.hidden_size) if positions else None
        )
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = Norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Of tokens."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace them."""
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: BasedCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Hidden states of tokens, or of embeddings, that follow those in the cache.

        Raises:
            InvalidArgument: padding before or between tokens, more tokens than there are learned positions, no tokens, not one of
                ``input_ids`` and ``inputs_embeds``, a cache of another model or of other texts, ``position_ids`` that are not those of
                tokens in their order (which code that ``torch.compile`` made does not check), or an argument that is not known.
        """
        _refuse_unknown(kwargs)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InvalidArgument("give either input_ids or inputs_embeds")
        if not isinstance(given, Tensor) or (
            inputs_embeds is None and given.dtype not in (torch.int64, torch.int32)
        ):
            kind = (
                given.dtype
                if isinstance(given, Tensor)
                else f"a {type(given).__name__}"
            )
            raise InvalidArgument(
                f"input_ids must be a tensor of whole numbers, of int64 or int32, and inputs_embeds a tensor; got {kind}"
            )
        if given.ndim != (2 if inputs_embeds is None else 3) or not given.shape[1]:
            raise InvalidArgument(
                "input_ids must be [batch, pos] (inputs_embeds [batch, pos, d_model]), with at least one token each; "
                f"got {list(given.shape)}; for one text give text[None]"
            )
        if past_key_values is not None:
            _refuse_foreign(past_key_values, len(self.layers), len(given))
        hidden = self._embedded(given) if inputs_embeds is None else inputs_embeds
        use_cache = (
            (self.config.use_cache and not self.training)
            if use_cache is None
            else use_cache
        )
        cache = (
            BasedCache(len(self.layers))
            if use_cache and past_key_values is None
            else past_key_values
        )
        seen = 0 if cache is None else cache.seen
        if attention_mask is not None:
            _refuse_mask(attention_mask, hidden, seen)
        if kwargs.get("position_ids") is not None and not torch.compiler.is_compiling():
            _refuse_positions(kwargs["position_ids"], attention_mask, hidden, seen)
        if self.embed_positions is not None:
            stop, room = seen + hidden.shape[1], self.config.max_position_embeddings
            if stop > room:
                raise InvalidArgument(
                    f"this model has learned {room} positions; {stop} tokens do not fit"
                )
            # One row for each of the batch, so that whoever reads them finds the stream's shape.
            hidden = hidden + self.embed_positions(
                torch.arange(seen, stop, device=hidden.device).expand(hidden.shape[:2])
            )
        hidden = self.dropout(hidden)
        states = []
        # Copies, for what raises on the way must leave the caller's cache as it was.
        kept = None if cache is None else [dict(layer) for layer in cache.layers]
        for layer, block in enumerate(self.layers):
            if output_hidden_states:
                states.append(hidden)
            hidden = block(hidden, None if kept is None else kept[layer])
        last = self.norm(hidden)
        if cache is not None and kept is not None:
            cache.layers, cache.seen = kept, cache.seen + hidden.shape[1]
        hidden_states = (*states, last) if output_hidden_states else None
        # A cache of our own, which transformers takes as it is.
        past: Any = cache
        found = BaseModelOutputWithPast(
            last_hidden_state=last, past_key_values=past, hidden_states=hidden_states
        )
        return found if _wants_dict(return_dict, self.config) else found.to_tuple()

    def _embedded(self, tokens: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.embed_tokens(tokens)
        try:
            return self.embed_tokens(tokens)
        except IndexError as error:
            rows = self.config.vocab_size
            outside = tokens[(tokens < 0) | (tokens >= rows)]
            if not len(outside):
                raise
            raise InvalidArgument(
                f"input_ids must be from 0 to {rows - 1}, by the vocabulary; got {int(outside[0])}"
            ) from error


class BasedForCausalLM(BasedPreTrainedModel, GenerationMixin):
    """A Based or ReBased language model.

    Generation keeps a state of constant size: ``BasedCache``.
    """

    # So that a Trainer that accumulates gradients divides the loss itself.
    accepts_loss_kwargs = False
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__(config)
        self.model = BasedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """What makes logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace it."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: BasedCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next token at every position, or at the last ``logits_to_keep``; with ``labels``, the loss of the shifted labels.

        ``logits_to_keep`` can be the positions themselves, [n]. With ``return_dict=False`` what there is of loss, logits, cache and hidden
        states comes in a tuple. Errors are those of ``BasedModel``, and InvalidArgument for a ``logits_to_keep`` that is neither and labels
        of other positions than there are logits.
        """
        kept = _kept_positions(logits_to_keep)
        options = {
            "use_cache": use_cache,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
            **kwargs,
        }
        found = self.model(
            input_ids, attention_mask, past_key_values, inputs_embeds, **options
        )
        logits = self.lm_head(_chosen(found.last_hidden_state, kept))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:2]:
                raise InvalidArgument(
                    f"labels must be those of the tokens that get logits, {list(logits.shape[:2])}; got {list(labels.shape)}"
                )
            wide = (
                logits[:, :-1]
                .flatten(0, 1)
                .to(torch.promote_types(torch.float32, logits.dtype))
            )
            loss = F.cross_entropy(wide, labels[:, 1:].flatten())
        rest = {
            "past_key_values": found.past_key_values,
            "hidden_states": found.hidden_states,
        }
        out = CausalLMOutputWithPast(loss=loss, logits=logits, **rest)
        return out if _wants_dict(return_dict, self.config) else out.to_tuple()


def _wants_dict(return_dict: bool | None, config: PreTrainedConfig) -> bool:
    return bool(config.return_dict if return_dict is None else return_dict)


def _kept_positions(logits_to_keep: object) -> slice | Tensor:
    """Which positions get logits: the last few, all, or those that a tensor names."""
    if (
        isinstance(logits_to_keep, Tensor)
        and logits_to_keep.ndim == 1
        and not logits_to_keep.is_floating_point()
    ):
        return logits_to_keep
    number = as_integer(logits_to_keep)
    if number is None or number < 0:
        raise InvalidArgument(
            f"logits_to_keep is how many of the last positions get logits, 0 for all, or a tensor [n] of positions; got {logits_to_keep!r}"
        )
    return slice(-number, None)


def _chosen(hidden: Tensor, kept: slice | Tensor) -> Tensor:
    try:
        return hidden[:, kept]
    except IndexError as error:
        raise InvalidArgument(
            f"logits_to_keep names positions that are not there: {error}; there are {hidden.shape[1]}"
        ) from error


def _refuse_unknown(options: dict[str, Any]) -> None:
    unknown = [
        name
        for name, value in options.items()
        if value is not None and name not in _NOT_FOR_US
    ]
    if unknown:
        raise InvalidArgument(
            f"this model takes no {', '.join(unknown)}; see BasedForCausalLM.forward for what it takes"
        )
    if options.get("output_attentions"):
        raise InvalidArgument(
            "this model returns no attentions; read them with hooks on the mixers' hook_pattern"
        )


def _refuse_foreign(cache: object, n_layers: int, n_texts: int) -> None:
    if not isinstance(cache, BasedCache) or len(cache.layers) != n_layers:
        raise InvalidArgument(
            f"past_key_values must be the BasedCache that this model returned; got a {type(cache).__name__} of another"
        )
    if cache.n_texts() not in (None, n_texts):
        raise InvalidArgument(
            f"the cache remembers {cache.n_texts()} texts, and tokens of {n_texts} were given"
        )


def _refuse_positions(
    positions: Any, mask: Tensor | None, hidden: Tensor, seen: int
) -> None:
    """Tokens are where they come; what positions are given to padding behind them does not matter."""
    pos = hidden.shape[1]
    own = torch.arange(seen, seen + pos, device=hidden.device).expand(hidden.shape[:2])
    is_text = True if mask is None else mask[:, -pos:].to(own.device) != 0
    fits = isinstance(positions, Tensor) and positions.shape in (
        own.shape,
        (1, pos),
        (pos,),
    )
    if not fits or bool(((positions.to(own.device) != own) & is_text).any()):
        raise InvalidArgument(
            f"this model counts positions itself, here from {seen} to {seen + pos - 1} for every text, and takes no other position_ids; "
            "leave them out"
        )


def _refuse_mask(mask: Tensor, hidden: Tensor, seen: int) -> None:
    """Padding at the end changes nothing before it; anywhere else it would be remembered as if it were text."""
    batch, pos = hidden.shape[:2]
    if not isinstance(mask, Tensor):
        raise InvalidArgument(
            f"attention_mask must be a tensor; got a {type(mask).__name__}"
        )
    if mask.shape not in ((batch, pos), (batch, seen + pos)):
        raise InvalidArgument(
            f"attention_mask must be [batch, pos], {[batch, pos]}"
            + (f" or {[batch, seen + pos]}" if seen else "")
            + f"; got {list(mask.shape)}"
        )
    # One answer for both, for on a GPU each is waited for.
    is_other, is_padded = torch.stack(
        [((mask != 0) & (mask != 1)).any(), (mask.long().diff(dim=1) > 0).any()]
    ).tolist()
    if is_other:
        raise InvalidArgument(
            "attention_mask must be 1 for text and 0 for padding; it holds other numbers"
        )
    if is_padded:
        raise InvalidArgument(
            "a recurrent model cannot skip padding before a token: pad on the right for one forward pass, "
            "or give prompts of one length to generate"
        )
