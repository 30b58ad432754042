"""Plain PyTorch modules, above all Hugging Face language models, by forward hooks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.hosts.base import (
    BeforeRun,
    Host,
    Points,
    RunListener,
    Site,
    SiteFunction,
    Undo,
)
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.calls import takes
from sae_lens_ext.hosts.eager import eager
from sae_lens_ext.hosts.modules import (
    called_if_there,
    n_logits,
    replaced_input,
    replaced_output,
)
from sae_lens_ext.hosts.padding import check_decoder_only, run_right_padded
from sae_lens_ext.hosts.places import ModulePlaces, Place
from sae_lens_ext.hosts.special import (
    config_holders,
    padding_id,
    special_token_ids,
)
from sae_lens_ext.hosts.watching import before_calls, watch_modules


class TorchHost:
    """A torch module, by hooks on its submodules."""

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        """Wrap a module without changing it.

        Args:
            model: the module, or what ``torch.compile`` made of one.
            tokenizer: the model's tokenizer, where one is known.
        """
        self.model: Any = model
        self.module: nn.Module = getattr(model, "_orig_mod", model)
        self.tokenizer = tokenizer
        self._places = ModulePlaces(self.module)
        # The model, and what it wraps down to the module that holds the blocks.
        parent, _, _ = self._places.blocks_path.rpartition(".")
        self.chain = config_holders(self.module, parent)
        # Any module will do; a language model of Hugging Face has a config.
        configs = (getattr(module, "config", None) for module in self.chain)
        self._config = next(filter(None, configs), None)

        self.blocks: Sequence[nn.Module] = self._places.blocks
        self.embed = self._part("get_input_embeddings")
        self.unembed = self._part("get_output_embeddings")
        self.d_vocab: int | None = n_logits(self.unembed, self._config)

    def _part(self, getter: str) -> nn.Module | None:
        """What an accessor returns, of the outermost module that has it and knows."""
        parts = (called_if_there(module, getter) for module in self.chain)
        return next((part for part in parts if part is not None), None)

    def run_only_if(self, obstacle: Callable[[], str | None]) -> None:
        """See ``ModulePlaces.run_only_if``."""
        self._places.run_only_if(obstacle)

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        place, block, point = self._places.find(name)
        return Site(name, f"{place.path}.{place.side}", block, point)

    def place(self, site: Site) -> Place:
        """The module whose input or output the activation at a site is."""
        path, _, side = site.key.rpartition(".")
        return Place(path, "input" if side == "input" else "output")

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        # Heads side by side are n_heads * d_head wide, which may be another number.
        hidden_size = getattr(self._config, "hidden_size", None)
        if hidden_size is None or site.point in (None, "z"):
            return None
        return int(hidden_size)

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """See ``Host.attach``.

        Nothing runs compiled until it is undone, because compiled code does not see new
        hooks.
        """
        place = self.place(site)
        module = self._places.modules[place.path]

        undo = ExitStack()
        undo.enter_context(eager())

        if place.side == "input":
            # With keywords, because a caller may pass the activation by its name.
            handle = module.register_forward_pre_hook(
                lambda _, arguments, keywords: replaced_input(
                    arguments, keywords, function
                ),
                with_kwargs=True,
            )
        else:
            handle = module.register_forward_hook(
                lambda _, arguments, output: replaced_output(output, function)
            )
            _move_library_hooks_behind(module)
        undo.callback(handle.remove)
        return undo.close

    def points(self, site: Site, names: Sequence[str]) -> tuple[Points, Undo]:
        """See ``Host.points``; this host has none: read ``Splice.codes`` instead."""
        return Points(), lambda: None

    def watch(self, listener: RunListener) -> Undo:
        """See ``Host.watch``."""
        return watch_modules(self.chain, self.embed, self.blocks, listener)

    def before_runs(self, function: BeforeRun) -> Undo:
        """See ``Host.before_runs``."""
        return before_calls(
            self.module, lambda arguments: function(self, lambda: arguments)
        )

    def step(
        self, ids: Int[Tensor, "batch pos"], cache: Any, **options: Any
    ) -> tuple[Float[Tensor, "rows d_vocab"], Any]:
        """See ``Host.step``."""
        check_decoder_only(self._config)
        if not takes(self.module, "attention_mask"):
            options.pop("attention_mask", None)
        if takes(self.module, "logits_to_keep"):
            options["logits_to_keep"] = 1
        if takes(self.module, "use_cache"):
            options["use_cache"] = True
        if cache is not None:
            options["past_key_values"] = cache
        output = self.model(ids, **options)

        logits = _logits_of(output)
        cache = getattr(output, "past_key_values", None)
        return logits[:, -1], cache if hasattr(cache, "reorder_cache") else None

    def logits(
        self, tokens: TokenBatch | Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """See ``Host.logits``."""
        check_decoder_only(self._config)
        takes_mask = takes(self.module, "attention_mask")
        return run_right_padded(self._run, tokens, takes_mask=takes_mask)

    def _run(self, ids: Tensor, **options: Any) -> Tensor:
        # A cache of a run that is not continued would only take memory.
        has_cache = hasattr(self._config, "use_cache")
        if has_cache and takes(self.module, "use_cache"):
            options["use_cache"] = False
        return _logits_of(self.model(ids, **options))

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``."""
        # Texts of one length, so no padding: a padding token would be read as text.
        encoding = self.tokenizer(text, return_tensors="pt")
        return encoding.input_ids

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        return special_token_ids(self.chain, self.tokenizer)

    def padding_id(self) -> int:
        """See ``Host.padding_id``."""
        return padding_id(self.chain, self.tokenizer, self.d_vocab)

    def plain(self) -> Host:
        """See ``Host.plain``."""
        return self


def _logits_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        return output[0]
    return output.logits


def _move_library_hooks_behind(module: nn.Module) -> None:
    """Let the hooks that transformers keeps in a module run after all others.

    They collect ``output_hidden_states``, and are there from the first time on that
    these were asked for. They are to collect what the model goes on with.
    """
    for key, hook in list(module._forward_hooks.items()):
        if str(getattr(hook, "__module__", "")).startswith("transformers."):
            module._forward_hooks[key] = module._forward_hooks.pop(key)
