"""nnsight 0.8 models, by edits that are replayed in every trace.

The models are ``TransformersModel``, ``LanguageModel`` and ``NNsight``. nnsight hands a
module's values to a trace inside the module's forward, so a torch hook on the module
would be seen by later modules and not by the trace. An edit
(``model.edit(inplace=True)``) is nnsight's own way to change a value for good: it runs
before the user's block, so that the block sees what the edit put there, and it travels
with the model to a remote server.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.intervention.iterator import Iterations
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument, UnsupportedHost
from sae_lens_ext.hosts.base import (
    Arguments,
    BeforeRun,
    Host,
    Points,
    RunListener,
    Site,
    SiteFunction,
    Undo,
)
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.calls import named_arguments, token_ids
from sae_lens_ext.hosts.modules import replaced_input, replaced_output
from sae_lens_ext.hosts.places import Place
from sae_lens_ext.hosts.recomputation import in_backward
from sae_lens_ext.hosts.torch import TorchHost
from sae_lens_ext.hosts.watching import watch_blocks


class NNsightHost:
    """An nnsight model; names and shapes are those of the torch module it wraps."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model`` without changing it."""
        self.model = model
        self._torch = self._of_module()
        self.blocks = self._torch.blocks
        self.embed = self._torch.embed
        self.unembed = self._torch.unembed
        self.d_vocab = self._torch.d_vocab

        self.tokenizer: Any = self._torch.tokenizer

        # In a trace a module is reached by its path.
        paths = {id(module): path for path, module in model._module.named_modules()}
        self._embed_path: str | None = paths.get(id(self.embed))
        self._chain_paths = [paths[id(module)] for module in self._torch.chain]

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        return self._torch.site(name)

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        return self._torch.width(site)

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """See ``Host.attach``.

        The function takes part in traces of this model, not in calls of the module
        inside it.
        """
        place = self._torch.place(site)
        undo_edit = self._edit(lambda: self._replace(place, function))

        # A backward pass outside of a trace repeats blocks (activation checkpointing)
        # without the edits.
        def repeated(activation: Tensor) -> Tensor | None:
            is_tracing = self.model.interleaver.interleaving
            return None if is_tracing or not in_backward() else function(activation)

        undo_hook = self._torch.attach(site, repeated)

        def undo() -> None:
            undo_hook()
            undo_edit()

        return undo

    def attach_now(self, site: Site, function: SiteFunction) -> None:
        """See ``TracingHost.attach_now``."""
        self._check_tracing()
        self._replace(self._torch.place(site), function)

    def _check_tracing(self) -> None:
        if not self.model.interleaver.interleaving:
            raise InvalidArgument(
                "apply() works inside a trace of the model; around one, use the splice "
                "as a with block"
            )

    def _replace(self, place: Place, function: SiteFunction) -> None:
        envoy = self.model.get(place.path)
        if place.side == "output":
            envoy.output = replaced_output(envoy.output, function)
        else:
            arguments, keywords = envoy.inputs
            envoy.inputs = replaced_input(arguments, keywords, function)

    def points(self, site: Site, names: Sequence[str]) -> tuple[Points, Undo]:
        """See ``Host.points``; this host has none: read ``Splice.codes`` instead."""
        return Points(), lambda: None

    def watch(self, listener: RunListener) -> Undo:
        """See ``Host.watch``."""

        def watch_run() -> None:
            self._begin(listener)
            # Requesting the output waits until the model has computed it.
            output = self.model.output
            listener.end(True, output)

        edits = [self._edit(watch_run)]
        for path in self._chain_paths[1:]:
            edits.append(self._edit(partial(self._read_arguments, path, listener)))
        if self._embed_path is not None:
            edits.append(self._edit(lambda: self._read_tokens(listener)))
        edits.append(watch_blocks(self.blocks, listener))

        def undo_all() -> None:
            for undo in reversed(edits):
                undo()

        return undo_all

    def watch_now(self, listener: RunListener) -> None:
        """See ``TracingHost.watch_now``."""
        self._check_tracing()
        self._begin(listener)

        # In the order in which a run reaches them: a model that embeds its tokens
        # itself does so after it is called, and one that is called with embeddings
        # after the model around it embedded them.
        has_tokens = self._embed_path is None
        for path in self._chain_paths[1:]:
            is_inside = has_tokens or str(self._embed_path).startswith(f"{path}.")
            if not is_inside:
                self._read_tokens(listener)
                has_tokens = True
            self._read_arguments(path, listener)
        if not has_tokens:
            self._read_tokens(listener)

    def _begin(self, listener: RunListener) -> None:
        arguments, keywords = self.model.inputs
        values = (*arguments, *keywords.values())
        listener.begin([value for value in values if isinstance(value, Tensor)])
        listener.read(named_arguments(self.model._module, arguments, keywords))

    def _read_arguments(self, path: str, listener: RunListener) -> None:
        envoy = self.model.get(path)
        arguments, keywords = envoy.inputs
        listener.read(named_arguments(envoy._module, arguments, keywords))

    def _read_tokens(self, listener: RunListener) -> None:
        arguments, keywords = self.model.get(self._embed_path).inputs
        tokens = token_ids(arguments, keywords)
        if tokens is not None:
            listener.keep(tokens)

    def _edit(self, step: Callable[[], None]) -> Undo:
        """Take ``step`` in every trace from now on."""
        if self.model.interleaver.interleaving:
            raise InvalidArgument(
                "a trace is running already; open the splice around it, or call its "
                "apply() inside"
            )
        model = self.model
        with model.edit(inplace=True):
            _every_time(step)
        edit = model._edits[-1]

        def undo() -> None:
            # The user may have cleared all edits, this one among them.
            model._edits[:] = [active for active in model._edits if active is not edit]

        return undo

    def before_runs(self, function: BeforeRun) -> Undo:
        """See ``Host.before_runs``.

        The model runs as the torch module that it is, without the trace: what the trace
        does to activations takes no part.
        """
        interleaver = self.model.interleaver

        def beside_the_trace(host: Host, arguments: Arguments) -> None:
            if not interleaver.interleaving:
                return
            interleaver.interleaving = False
            try:
                function(host, arguments)
            finally:
                interleaver.interleaving = True

        return self._torch.before_runs(beside_the_trace)

    def step(
        self, ids: Int[Tensor, "batch pos"], cache: Any, **options: Any
    ) -> tuple[Float[Tensor, "rows d_vocab"], Any]:
        """See ``Host.step``."""
        return self._torch.step(ids, cache, **options)

    def logits(
        self, tokens: TokenBatch | Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """See ``Host.logits``."""
        return self.plain().logits(tokens)

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``."""
        return self._torch.to_tokens(text)

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        return self._torch.special_token_ids()

    def padding_id(self) -> int:
        """See ``Host.padding_id``."""
        return self._torch.padding_id()

    def plain(self) -> Host:
        """See ``Host.plain``."""
        if self.model._edits:
            raise UnsupportedHost(
                "this nnsight model has edits (a splice that is active, or "
                "model.edit), which runs of parts of it would leave out; leave the "
                "splice, or call model.clear_edits(), first"
            )
        # Until it is dispatched, a model has no weights.
        if getattr(self.model, "dispatched", True) is False:
            self.model.dispatch()
        return self._of_module()

    def _of_module(self) -> TorchHost:
        host = TorchHost(self.model._module, getattr(self.model, "tokenizer", None))
        host.run_only_if(self._obstacle)
        return host

    def _obstacle(self) -> str | None:
        """Why the module cannot be run by itself now."""
        if self.model.interleaver.interleaving:
            return "a trace is running; look the site up once before it"
        return None


def _every_time(step: Callable[[], None]) -> None:
    """Take a step each time the model computes the values that the step requests.

    During a generation that is once per token.
    """
    try:
        # This is what tracer.iter[:] returns. The tracer itself could not be sent to a
        # server with the edit.
        for _ in Iterations():
            step()
    except OutOfOrderError:
        # nnsight ends a loop that waits for one occurrence too many this way. Uncaught,
        # it would cause a warning at the end of every run.
        return


def boot(model: nn.Module, tokenizer: Any) -> Any:
    """A TransformersModel over a Hugging Face model, without a request to any hub."""
    from nnsight.modeling.transformers import TransformersModel

    return TransformersModel(model, tokenizer=tokenizer, task="text-generation")
