"""Plain PyTorch modules, and Hugging Face language models above all, by forward hooks."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument, UnknownSite, closest
from sae_lens_ext.hosts.base import Host, Points, Site, SiteFunction, Undo
from sae_lens_ext.hosts.modules import (
    called_if_there,
    config_token_ids,
    find_blocks,
    replaced_input,
    replaced_output,
    watch_modules,
)
from sae_lens_ext.hosts.names import RESIDUAL_POINTS, Point, block_and_point

_ATTENTION = ("self_attn", "attn", "attention", "mixer")
_MLP = ("mlp",)
_HEADS_MIXED_BY = ("o_proj", "c_proj", "dense")
# Where attention and MLP add to the residual stream differs between families (a norm behind them, a residual inside them). These
# were checked: before + attention + MLP == after.
_CHECKED_FAMILIES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "qwen2",
    "qwen3",
    "sae_lens_ext_based",
)


class _Eager:
    """Switches torch.compile off for as long as anybody needs it off, however their times overlap."""

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


class Place(NamedTuple):
    """One side of a module."""

    path: str
    side: Literal["input", "output"]


class TorchHost:
    """A torch module, by hooks on its submodules."""

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        """Wrap ``model``, or what ``torch.compile`` made of one, without changing it; ``tokenizer`` where one is known."""
        self.model: Any = model
        self._tokenizer = tokenizer
        self.module: nn.Module = getattr(model, "_orig_mod", model)
        self._config = getattr(self.module, "config", None)
        self._modules = dict(self.module.named_modules())
        self._blocks_path, self.blocks = find_blocks(self.module)
        self.embed: nn.Module | None = called_if_there(
            self.module, "get_input_embeddings"
        )
        self.unembed: nn.Module | None = called_if_there(
            self.module, "get_output_embeddings"
        )
        self.d_vocab: int | None = (
            None if self.unembed is None else int(self.unembed.weight.shape[0])
        )  # pyright: ignore[reportIndexIssue] - a linear layer

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        place, known = self.place(name)
        return Site(name, ".".join(place), *known)

    def place(self, name: str) -> tuple[Place, tuple[int, Point] | tuple[None, None]]:
        """The module and side that a name means, and the block and point where it is one that every block has."""
        known = block_and_point(name)
        if known is not None:
            return self._place_of_point(name, *known), known
        path, _, side = name.rpartition(".")
        if side not in ("input", "output"):
            path, side = name, "output"
        matches = (
            [path]
            if path in self._modules
            else [other for other in self._modules if other.endswith(f".{path}")]
        )
        if len(matches) != 1 or not matches[0]:
            points = [
                f"blocks.{i}.hook_resid_{end}"
                for i in range(len(self.blocks))
                for end in ("pre", "post")
            ]
            several = (
                f"; it ends {len(matches)} paths, so write one of them out"
                if len(matches) > 1
                else ""
            )
            raise UnknownSite(
                f"no site {name!r} in this model{several}; the closest: {closest(name, [*points, *self._modules])}"
            )
        place = Place(matches[0], "input" if side == "input" else "output")
        parent, _, index = place.path.rpartition(".")
        if self.blocks and parent == self._blocks_path:
            return place, (int(index), "resid_pre" if side == "input" else "resid_post")
        return place, (None, None)

    def _place_of_point(self, name: str, index: int, point: Point) -> Place:
        if index >= len(self.blocks):
            raise UnknownSite(
                f"no site {name!r} in this model, which has {len(self.blocks)} blocks"
            )
        path, block = f"{self._blocks_path}.{index}", self.blocks[index]
        if point in RESIDUAL_POINTS:
            return Place(path, "input" if point == "resid_pre" else "output")
        if point == "resid_mid" and hasattr(block, "hook_resid_mid"):
            return Place(f"{path}.hook_resid_mid", "output")
        if point == "resid_mid":
            raise UnknownSite(
                f"{name} cannot be edited here: between attention and MLP the stream is kept inside the block's own forward, and what "
                "a hook reaches is only the MLP's copy of it; use hook_attn_out or hook_resid_post of the same block"
            )
        family = getattr(self._config, "model_type", None)
        attention, mlp = _named(block, _ATTENTION), _named(block, _MLP)
        if family not in _CHECKED_FAMILIES or attention is None or mlp is None:
            raise UnknownSite(
                f"{name}: what attention and MLP add to the residual stream of a {family or type(self.module).__name__} was not checked; "
                f"give the path of a module instead, such as {closest(f'{path}.{point}', self._modules, n=3)}"
            )
        if point == "z":
            mixing = _named(getattr(block, attention), _HEADS_MIXED_BY)
            if mixing is None:
                raise UnknownSite(
                    f"{name}: the {type(getattr(block, attention)).__name__} of block {index} has no heads"
                )
            return Place(f"{path}.{attention}.{mixing}", "input")
        if hasattr(block, "post_feedforward_layernorm"):
            # Norms behind attention and MLP: what is added is what leaves them.
            return Place(
                f"{path}.post_{'attention' if point == 'attn_out' else 'feedforward'}_layernorm",
                "output",
            )
        return Place(f"{path}.{attention if point == 'attn_out' else mlp}", "output")

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        hidden = getattr(self._config, "hidden_size", None)
        return (
            int(hidden)
            if hidden is not None and site.point not in (None, "z")
            else None
        )

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """See ``Host.attach``. Meanwhile nothing runs compiled, because compiled code does not see new hooks."""
        place, _ = self.place(site.name)
        module = self._modules[place.path]
        undo = ExitStack()
        # Without it nothing can have been compiled; and a module cannot tell what was made of it, or of a part.
        if "torch._dynamo" in sys.modules:
            undo.enter_context(_EAGER)
        if place.side == "input":
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
        """See ``Host.points``; there are none here: read ``Splice.codes`` instead."""
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
        output = (
            self.model(tokens, use_cache=False)
            if hasattr(self._config, "use_cache")
            else self.model(tokens)
        )
        return (
            output
            if isinstance(output, Tensor)
            else output[0]
            if isinstance(output, tuple)
            else output.logits
        )

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``."""
        if self._tokenizer is not None:
            return self._tokenizer(text, return_tensors="pt").input_ids
        raise InvalidArgument(
            f"a {type(self.module).__name__} has no tokenizer; give token ids [batch, pos] in place of text"
        )

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        return (
            config_token_ids(self._config)
            if self._tokenizer is None
            else frozenset(self._tokenizer.all_special_ids)
        )

    def plain(self) -> Host:
        """See ``Host.plain``."""
        return self


def _named(module: nn.Module, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if hasattr(module, name)), None)
