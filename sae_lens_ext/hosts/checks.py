"""What the modules in a model's blocks add to the stream, checked once per model."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.branches import BRANCH_POINTS, Branches, find_branches
from sae_lens_ext.hosts.devices import input_device
from sae_lens_ext.hosts.modules import called_if_there
from sae_lens_ext.hosts.names import Point
from sae_lens_ext.hosts.probe import harmless_ids, probed

# Families whose blocks the tests check, for models that cannot be run when their sites
# are looked up: those whose weights are on a server, or not loaded yet.
_KNOWN_FAMILIES = (
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
_ATTENTION = ("self_attn", "attn", "attention", "mixer")
_MIXES_HEADS = ("o_proj", "c_proj", "dense")


class _Seen:
    """The branches of models that were checked, as long as the models live."""

    def __init__(self) -> None:
        self._branches: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def get(self, module: nn.Module) -> list[Branches] | None:
        """The branches of the module as it is made up now, or None."""
        parts, branches = self._branches.get(module, (None, None))
        return branches if parts == _parts(module) else None

    def set(self, module: nn.Module, branches: list[Branches]) -> None:
        """Remember the branches of a module."""
        self._branches[module] = _parts(module), branches

    def __reduce__(self) -> tuple[type["_Seen"], tuple[()]]:
        """As it is sent to an nnsight server with a splice: without the models."""
        return _Seen, ()


_SEEN = _Seen()


class BranchChecks:
    """The branches of the blocks of one model.

    Attributes:
        obstacle: asked before the model is run; says why that cannot be done, if so.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Check nothing yet."""
        self._module = module
        self._blocks = blocks
        self.obstacle: Callable[[], str | None] = lambda: None

    def of_block(self, index: int) -> Branches:
        """The branches of a block, seen in a small run of the model."""
        branches = _SEEN.get(self._module)
        if branches is None:
            obstacle = self.obstacle() or _obstacle(self._module)
            if obstacle is not None:
                return self._by_names(index, obstacle)
            branches = self._check()
            _SEEN.set(self._module, branches)
        return branches[index]

    def _check(self) -> list[Branches]:
        module = self._module
        config = getattr(module, "config", None)
        embed = called_if_there(module, "get_input_embeddings")
        n_embeddings = getattr(embed, "num_embeddings", None)
        d_vocab = n_embeddings or getattr(config, "vocab_size", None) or 1
        ids = harmless_ids(d_vocab, config).to(input_device(module, embed))

        # A cache of a run that is not continued would only take memory.
        options = {"use_cache": False} if hasattr(config, "use_cache") else {}
        try:
            with probed(module, self._blocks, lambda: module(ids, **options)) as runs:
                return [find_branches(run) for run in runs]
        # Whatever a model raises that is called with nothing but token ids.
        except Exception as error:
            reason = (
                f"a run of this {type(module).__name__} on a few tokens, to check what "
                f"attention and MLP add to the stream, failed ({type(error).__name__}: "
                f"{error})"
            )
            reasons: dict[Point, str] = dict.fromkeys(BRANCH_POINTS, reason)
            return [Branches(reasons=reasons) for _ in self._blocks]

    def _by_names(self, index: int, obstacle: str) -> Branches:
        """The branches of a block that cannot be run, by names in known families."""
        block = self._blocks[index]
        family = getattr(getattr(self._module, "config", None), "model_type", None)
        attention = _first_of(block, _ATTENTION)
        if family not in _KNOWN_FAMILIES or attention is None:
            reason = (
                "what attention and MLP add to the residual stream is checked by a run "
                f"of the model, and {obstacle}"
            )
            return Branches(reasons=dict.fromkeys(BRANCH_POINTS, reason))

        # Where norms follow attention and MLP, the outputs of the norms are added.
        has_norms_behind = hasattr(block, "post_feedforward_layernorm")
        paths: dict[Point, str] = {
            "attn_out": "post_attention_layernorm" if has_norms_behind else attention,
            "mlp_out": "post_feedforward_layernorm" if has_norms_behind else "mlp",
            "mlp_in": "mlp",
        }
        mixing = _first_of(getattr(block, attention), _MIXES_HEADS)
        if mixing is None:
            return Branches(paths, {"z": f"{attention} of block {index} has no heads"})
        return Branches({**paths, "z": f"{attention}.{mixing}"})


def _parts(module: nn.Module) -> list[tuple[str, int]]:
    """What a module is made up of; adapters put parts in the place of others."""
    return [(path, id(part)) for path, part in module.named_modules()]


def _obstacle(module: nn.Module) -> str | None:
    """Why a module cannot be run by itself, on nothing but tokens."""
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder and a decoder, which read different tokens"
    try:
        input_device(module, None)
    except UnsupportedHost:
        return "its weights are not loaded"
    for parameter in module.parameters():
        if type(parameter.data).__name__ == "DTensor":
            return "its weights are spread over several processes"
    return None


def _first_of(module: nn.Module, names: Sequence[str]) -> str | None:
    """The first of several attribute names that a module has."""
    return next((name for name in names if hasattr(module, name)), None)
