"""Plain PyTorch modules, above all Hugging Face language models, by forward hooks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts.base import Host, Points, Site, SiteFunction, Undo
from sae_lens_ext.hosts.eager import eager
from sae_lens_ext.hosts.modules import (
    called_if_there,
    config_token_ids,
    n_logits,
    replaced_input,
    replaced_output,
)
from sae_lens_ext.hosts.places import ModulePlaces, Place
from sae_lens_ext.hosts.watching import watch_modules


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
        self._tokenizer = tokenizer
        # Any module will do; a language model of Hugging Face has a config.
        self._config = getattr(self.module, "config", None)
        self._places = ModulePlaces(self.module)

        self.blocks: Sequence[nn.Module] = self._places.blocks
        self.embed = called_if_there(self.module, "get_input_embeddings")
        self.unembed = called_if_there(self.module, "get_output_embeddings")
        self.d_vocab: int | None = n_logits(self.unembed, self._config)

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
        undo.callback(handle.remove)
        return undo.close

    def points(self, site: Site, names: Sequence[str]) -> tuple[Points, Undo]:
        """See ``Host.points``; this host has none: read ``Splice.codes`` instead."""
        return Points(), lambda: None

    def watch(
        self,
        at_start: Callable[[int], object],
        at_tokens: Callable[[Tensor], object],
        at_end: Callable[[bool], object],
    ) -> Undo:
        """See ``Host.watch``."""
        return watch_modules(self.module, self.embed, at_start, at_tokens, at_end)

    def logits(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """See ``Host.logits``."""
        # A cache of a run that is not continued would only take memory.
        options = {}
        if hasattr(self._config, "use_cache"):
            options["use_cache"] = False
        output = self.model(tokens, **options)

        if isinstance(output, Tensor):
            return output
        if isinstance(output, tuple):
            return output[0]
        return output.logits

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``.

        Raises:
            InvalidArgument: no tokenizer is known.
        """
        if self._tokenizer is None:
            raise InvalidArgument(
                f"a {type(self.module).__name__} has no tokenizer; give token ids "
                "[batch, pos] in place of text"
            )
        # Texts of one length, so no padding: a padding token would be read as text.
        encoding = self._tokenizer(text, return_tensors="pt")
        return encoding.input_ids

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        if self._tokenizer is None:
            return config_token_ids(self._config)
        special_ids = self._tokenizer.all_special_ids
        return frozenset(special_ids)

    def plain(self) -> Host:
        """See ``Host.plain``."""
        return self
