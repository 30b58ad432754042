"""Plain PyTorch modules, above all Hugging Face language models, by forward hooks."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts.base import (
    Host,
    Points,
    RunListener,
    Site,
    SiteFunction,
    Undo,
)
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.calls import takes
from sae_lens_ext.hosts.modules import (
    called_if_there,
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
from sae_lens_ext.hosts.watching import watch_modules


class _Eager:
    """Switches torch.compile off while at least one user needs it off.

    Their times may overlap in any order.
    """

    def __init__(self) -> None:
        self._users = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        if not self._users:
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            self._stance.__exit__(None, None, None)


_EAGER = _Eager()


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
        self.d_vocab: int | None = _n_rows(self.unembed)

    def _part(self, getter: str) -> nn.Module | None:
        """What an accessor returns, of the outermost module that has it and knows."""
        parts = (called_if_there(module, getter) for module in self.chain)
        return next((part for part in parts if part is not None), None)

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        place, block, point = self._places.find(name)
        return Site(name, f"{place.path}.{place.side}", block, point)

    def place(self, site: Site) -> Place:
        """The module whose input or output the activation at a site is."""
        place, _, _ = self._places.find(site.name)
        return place

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
        # While dynamo is not imported, nothing can have been compiled. Once it is, a
        # module cannot tell whether it, or a part of it, was.
        if "torch._dynamo" in sys.modules:
            undo.enter_context(_EAGER)

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
        output = self.model(ids, **options)

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
        if self.tokenizer is None:
            raise InvalidArgument(
                f"a {type(self.module).__name__} has no tokenizer; give token ids "
                "[batch, pos] in place of text"
            )
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


def _move_library_hooks_behind(module: nn.Module) -> None:
    """Let the hooks that transformers keeps in a module run after all others.

    They collect ``output_hidden_states``, and are there from the first time on that
    these were asked for. They are to collect what the model goes on with.
    """
    for key, hook in list(module._forward_hooks.items()):
        if str(getattr(hook, "__module__", "")).startswith("transformers."):
            module._forward_hooks[key] = module._forward_hooks.pop(key)


def _n_rows(unembed: nn.Module | None) -> int | None:
    """The number of logits that a module makes per position; None if it is not known.

    Quantised layers have no weight of that shape, but say how wide they are.
    """
    weight = getattr(unembed, "weight", None)
    n_rows = getattr(unembed, "out_features", None)
    if n_rows is None and isinstance(weight, Tensor) and weight.ndim == 2:
        n_rows = weight.shape[0]
    return None if n_rows is None else int(n_rows)
