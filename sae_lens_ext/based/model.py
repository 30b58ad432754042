"""The language model, a residual stream of blocks, as a ``transformers`` model."""

from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.based import inputs
from sae_lens_ext.based.blocks import Block
from sae_lens_ext.based.cache import BasedCache
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.initialization import initialize_weights
from sae_lens_ext.based.mixers.convolution import ShortConvolution
from sae_lens_ext.based.mixers.forms import Form
from sae_lens_ext.based.mixers.linear_attention import LinearAttention
from sae_lens_ext.based.mixers.softmax_attention import SoftmaxAttention
from sae_lens_ext.based.norms import Norm
from sae_lens_ext.errors import InvalidArgument


class BasedPreTrainedModel(PreTrainedModel):
    """Initial weights, the form of attention, and what ``transformers`` may do."""

    config: BasedConfig
    config_class = BasedConfig

    def __init__(self, config: BasedConfig) -> None:
        """An empty model of a config.

        Raises:
            InvalidArgument: ``config`` is not a ``BasedConfig``.
        """
        if not isinstance(config, BasedConfig):
            raise InvalidArgument(
                "config must be a BasedConfig; got an object of type "
                f"{type(config).__name__}"
            )
        super().__init__(config)

    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012 - not a ClassVar in transformers
    _is_stateful = True
    supports_gradient_checkpointing = False

    def set_attention_form(self, form: Form) -> None:
        """Choose the form in which linear attention is computed.

        This is for tools that read a module's output without torch's hooks, such as
        nnsight.

        Args:
            form: "auto" computes what hooked taps need. "dense" and "recurrent" always
                pass the taps of that form, beside those that hooks need. "dense" also
                computes the patterns of softmax attention and the taps of convolutions;
                the other two compute these only if they are hooked.

        Raises:
            InvalidArgument: any other form.
        """
        arguments.choice(form, "form", get_args(Form))
        for module in self.modules():
            if isinstance(module, LinearAttention):
                module.form = form
            if isinstance(module, ShortConvolution | SoftmaxAttention):
                module.shows_taps = form == "dense"

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _init_weights(self, module: nn.Module) -> None:
        initialize_weights(module, self.config)


class BasedModel(BasedPreTrainedModel):
    """Embedding, blocks and the last norm; see ``BasedForCausalLM``."""

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = None
        if config.max_position_embeddings:
            self.embed_positions = nn.Embedding(
                config.max_position_embeddings, config.hidden_size
            )
        self.dropout = nn.Dropout(config.embedding_dropout)

        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = Norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of tokens."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of tokens."""
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
            InvalidArgument: padding before or between tokens, more tokens than learned
                positions, no tokens, both or neither of ``input_ids`` and
                ``inputs_embeds``, a cache of another model or of other texts,
                ``position_ids`` that do not count the tokens (not checked in code that
                ``torch.compile`` made), or an unknown argument.
        """
        inputs.check_options(kwargs)
        tokens = inputs.check_tokens(input_ids, inputs_embeds)
        cache = past_key_values
        if cache is not None:
            inputs.check_cache(cache, len(self.layers), len(tokens))
        elif self._starts_cache(use_cache):
            cache = BasedCache(len(self.layers))
        seen = 0
        if cache is not None:
            seen = cache.seen

        hidden = tokens
        if inputs_embeds is None:
            hidden = self._embed(tokens)
        batch, pos = hidden.shape[:2]
        if attention_mask is not None:
            inputs.check_attention_mask(attention_mask, batch, pos, seen)
        positions = kwargs.get("position_ids")
        if positions is not None and not torch.compiler.is_compiling():
            inputs.check_position_ids(positions, attention_mask, hidden, seen)

        hidden = self._add_positions(hidden, seen)
        hidden = self.dropout(hidden)
        hidden, hidden_states = self._run_blocks(
            hidden, cache, bool(output_hidden_states)
        )

        # transformers accepts this class of cache, but its annotations do not.
        past: Any = cache
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past,
            hidden_states=hidden_states,
        )
        return output if _returns_dict(return_dict, self.config) else output.to_tuple()

    def _starts_cache(self, use_cache: bool | None) -> bool:
        if use_cache is None:
            return self.config.use_cache and not self.training
        return bool(use_cache)

    def _embed(self, tokens: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.embed_tokens(tokens)

        # Checked after the fact, because a check before it would wait for a GPU.
        try:
            return self.embed_tokens(tokens)
        except IndexError as error:
            rows = self.config.vocab_size
            is_outside = (tokens < 0) | (tokens >= rows)
            outside = tokens[is_outside]
            # A hook on the embedding can raise IndexError too.
            if not len(outside):
                raise
            raise InvalidArgument(
                f"input_ids must be from 0 to {rows - 1}, the last of the vocabulary; "
                f"got {int(outside[0])}"
            ) from error

    def _add_positions(self, hidden: Tensor, seen: int) -> Tensor:
        if self.embed_positions is None:
            return hidden
        batch, pos = hidden.shape[:2]
        stop = seen + pos
        n_learned = self.embed_positions.num_embeddings
        if stop > n_learned:
            raise InvalidArgument(
                f"this model has {n_learned} learned positions; got {stop} tokens"
            )

        # Expanded over the batch, so that hooks on the embedding of positions see the
        # shape of the stream.
        positions = torch.arange(seen, stop, device=hidden.device)
        positions = positions.expand(batch, pos)
        return hidden + self.embed_positions(positions)

    def _run_blocks(
        self, hidden: Tensor, cache: BasedCache | None, returns_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The normalised stream after the blocks; its states before and after them."""
        states = []
        # Blocks update copies, so that an error on the way leaves the caller's cache as
        # it was.
        layer_caches = None
        if cache is not None:
            layer_caches = [dict(layer_cache) for layer_cache in cache.layers]

        pos = hidden.shape[1]
        for layer, block in enumerate(self.layers):
            if returns_states:
                states.append(hidden)
            layer_cache = None
            if layer_caches is not None:
                layer_cache = layer_caches[layer]
            hidden = block(hidden, layer_cache)
        hidden = self.norm(hidden)

        if cache is not None and layer_caches is not None:
            cache.layers = layer_caches
            cache.seen += pos

        if not returns_states:
            return hidden, None
        # As in transformers, the last state is normalised.
        return hidden, (*states, hidden)


class BasedForCausalLM(BasedPreTrainedModel, GenerationMixin):
    """A Based or ReBased language model.

    It generates from a state of constant size, a ``BasedCache``.
    """

    # A Trainer that accumulates gradients then divides the loss itself.
    accepts_loss_kwargs = False
    _tied_weights_keys = {  # noqa: RUF012 - not a ClassVar in transformers
        "lm_head.weight": "model.embed_tokens.weight"
    }

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__(config)
        self.model = BasedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The layer that makes logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the layer that makes logits."""
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
        """Logits of the next token, and with ``labels`` the loss of the shifted labels.

        Args:
            input_ids: [batch, pos]; or give ``inputs_embeds``, [batch, pos, d_model].
            attention_mask: 1 for text and 0 for padding, which must be on the right.
            past_key_values: the cache that an earlier call returned.
            inputs_embeds: see ``input_ids``.
            labels: [batch, pos] of the positions that get logits.
            use_cache: whether a cache is returned; None follows the config, in eval
                mode.
            output_hidden_states: whether the stream before every block is returned too.
            logits_to_keep: the number of last positions that get logits, 0 for all, or
                the positions themselves, [n].
            return_dict: False returns a tuple of loss, logits, cache and hidden states,
                without those that there are not.
            **kwargs: other arguments that ``transformers`` passes.

        Raises:
            InvalidArgument: invalid ``logits_to_keep``; labels of another shape than
                the logits; or the errors of ``BasedModel.forward``.
        """
        positions = inputs.positions_to_keep(logits_to_keep)
        options = {
            "use_cache": use_cache,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
            **kwargs,
        }
        outputs = self.model(
            input_ids,
            attention_mask,
            past_key_values,
            inputs_embeds,
            **options,
        )
        hidden = inputs.select_positions(outputs.last_hidden_state, positions)
        logits = self.lm_head(hidden)

        loss = None if labels is None else _next_token_loss(logits, labels)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )
        return output if _returns_dict(return_dict, self.config) else output.to_tuple()


def _next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    shape = list(logits.shape[:2])
    if list(labels.shape) != shape:
        raise InvalidArgument(
            f"labels must have the shape {shape} of the positions that get logits; got "
            f"{list(labels.shape)}"
        )

    # Every position predicts the next, so the last logits and the first label are not
    # used.
    wide = torch.promote_types(torch.float32, logits.dtype)
    predictions = logits[:, :-1].flatten(0, 1).to(wide)
    targets = labels[:, 1:].flatten()
    return F.cross_entropy(predictions, targets)


def _returns_dict(return_dict: bool | None, config: PreTrainedConfig) -> bool:
    return bool(config.return_dict if return_dict is None else return_dict)
