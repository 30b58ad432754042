"""When a run of a torch module begins and ends, and which tokens it reads."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn

from sae_lens_ext.hosts.base import RunListener, Undo
from sae_lens_ext.hosts.calls import named_arguments, token_ids
from sae_lens_ext.hosts.recomputation import in_backward
from sae_lens_ext.hosts.skipping import is_partial_run


def watch_modules(
    chain: Sequence[nn.Module],
    embed: nn.Module | None,
    blocks: Iterable[nn.Module],
    listener: RunListener,
    *,
    calls_forward: bool = False,
) -> Undo:
    """``Host.watch`` for a model made of torch modules.

    A run begins when the outermost module of the chain is called that is called at all,
    so that a wrapper's runs, and those of the model inside it, are known alike.

    Args:
        chain: the modules from the outermost to the one that holds the blocks.
        embed: the module that is called with token ids, if it is known.
        blocks: the model's blocks.
        listener: gets the reports of every run.
        calls_forward: the model calls ``forward`` of the first module directly, past
            torch's hooks, so that ``forward`` itself is wrapped.
    """
    calls = _Calls(listener)
    undo = ExitStack()
    for index, module in enumerate(chain):
        if calls_forward and index == 0:
            calls.always_ends = module
            watcher = _Watcher(
                lambda arguments, keywords: calls.begin(chain[0], arguments, keywords),
                lambda keywords, output: calls.end(chain[0], keywords, output),
            )
            undo.callback(_around_forward(module, watcher))
            continue
        before = module.register_forward_pre_hook(calls.begin, with_kwargs=True)
        undo.callback(before.remove)
        # always_call, so that the end of a run that raises is reported as well.
        after = module.register_forward_hook(
            lambda module, _, keywords, output: calls.end(module, keywords, output),
            with_kwargs=True,
            always_call=True,
        )
        undo.callback(after.remove)

    if embed is not None:
        before_embed = embed.register_forward_pre_hook(
            lambda _, arguments, keywords: _report_tokens(
                listener, arguments, keywords
            ),
            with_kwargs=True,
        )
        undo.callback(before_embed.remove)
    undo.callback(watch_blocks(blocks, listener, calls.are_running))
    return undo.close


def before_calls(
    module: nn.Module,
    function: Callable[[Mapping[str, Any]], object],
    *,
    calls_forward: bool = False,
) -> Undo:
    """Call ``function`` with the arguments of a module, before all its other hooks.

    Args:
        module: the module.
        function: gets the arguments by name.
        calls_forward: as in ``watch_modules``.
    """

    def called(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        function(named_arguments(module, arguments, keywords))

    if calls_forward:
        watcher = _Watcher(called, lambda keywords, output: None)
        return _around_forward(module, watcher, is_first=True)
    handle = module.register_forward_pre_hook(
        lambda _, arguments, keywords: called(arguments, keywords),
        with_kwargs=True,
        prepend=True,
    )
    return handle.remove


def before_every_call(
    module: nn.Module, function: Callable[[Mapping[str, Any]], object]
) -> Undo:
    """``before_calls`` for a module whose ``forward`` is called directly at times.

    Args:
        module: the module.
        function: gets the arguments by name, once for a call of either kind.
    """
    n_running = 0

    def called(_: nn.Module, arguments: tuple[Any, ...], keywords: Any) -> None:
        nonlocal n_running
        # It may call the module itself, so that this call counts from here on.
        function(named_arguments(module, arguments, keywords))
        n_running += 1

    def ended(*_: object) -> None:
        nonlocal n_running
        n_running = max(n_running - 1, 0)

    def forwarded(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        if not n_running:
            function(named_arguments(module, arguments, keywords))

    undo = ExitStack()
    before = module.register_forward_pre_hook(called, with_kwargs=True, prepend=True)
    undo.callback(before.remove)
    after = module.register_forward_hook(ended, always_call=True)
    undo.callback(after.remove)
    watcher = _Watcher(forwarded, lambda keywords, output: None)
    undo.callback(_around_forward(module, watcher, is_first=True))
    return undo.close


def watch_blocks(
    blocks: Iterable[nn.Module],
    listener: RunListener,
    are_running: Callable[[], bool] = lambda: True,
) -> Undo:
    """Report what blocks read, by which a backward pass that repeats them is known.

    Args:
        blocks: the model's blocks.
        listener: gets the reports.
        are_running: whether a call of the whole model is in progress; asked during a
            backward pass only.
    """

    def entered(
        module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        for value in (*arguments, *keywords.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                is_running = not in_backward() or are_running()
                listener.enter(module, value, is_running=is_running)
                return

    undo = ExitStack()
    for module in _entries(blocks):
        before = module.register_forward_pre_hook(entered, with_kwargs=True)
        undo.callback(before.remove)
    return undo.close


def _entries(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules at which a checkpoint may begin to run a block again.

    A checkpoint around a block's ``forward`` does not call the block, only the modules
    in it.
    """
    entries: dict[int, nn.Module] = {}
    for block in blocks:
        modules = [block, *block.children()]
        # A bridge's block wraps the model's own.
        wrapped = block._modules.get("_original_component") or block._modules.get(
            "original_component"
        )
        if wrapped is not None:
            modules += wrapped.children()
        entries |= {id(module): module for module in modules}
    return list(entries.values())


class _Calls:
    """The calls of modules of the chain that are in progress, from the outermost.

    Attributes:
        always_ends: a module the ends of whose calls are always reported.
    """

    def __init__(self, listener: RunListener) -> None:
        self._listener = listener
        self._modules: list[nn.Module] = []
        self.always_ends: nn.Module | None = None

    def begin(
        self,
        module: nn.Module,
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
    ) -> None:
        """A module of the chain is called."""
        # No module of the chain calls itself, so one that is called twice was left over
        # from a run that was interrupted, as the rest then is.
        if module in self._modules or not self.are_running():
            self._modules.clear()
            tensors = [
                value
                for value in (*arguments, *keywords.values())
                if isinstance(value, Tensor)
            ]
            self._listener.begin(tensors)
        self._modules.append(module)
        self._listener.read(named_arguments(module, arguments, keywords))

    def end(self, module: nn.Module, keywords: Mapping[str, Any], output: Any) -> None:
        """A call is over; without an output it raised."""
        if module not in self._modules:
            return
        while self._modules.pop() is not module:
            pass
        if self._modules:
            # A bridge returns logits, and the model inside it a cache as well.
            self._listener.made(output)
            return
        # TransformerLens stops early by returning.
        is_cut_short = output is None or keywords.get("stop_at_layer") is not None
        self._listener.end(not is_cut_short and not is_partial_run(), output)

    def are_running(self) -> bool:
        """Whether the outermost call is really in progress.

        An interruption (Ctrl-C in a notebook) goes past the hooks that would have
        reported its end.
        """
        if not self._modules:
            return False
        outermost = self._modules[0]
        return outermost is self.always_ends or _is_on_stack(outermost)


def _is_on_stack(module: nn.Module) -> bool:
    """Whether a call of a module is in progress in this thread."""
    code = nn.Module._call_impl.__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is module:
            return True
        frame = frame.f_back
    return False


def _report_tokens(
    listener: RunListener, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    tokens = token_ids(arguments, keywords)
    if tokens is not None:
        listener.keep(tokens)


class _Watcher(NamedTuple):
    """Callbacks before and after a call of ``forward``."""

    started: Callable[[tuple[Any, ...], Mapping[str, Any]], None]
    ended: Callable[[Mapping[str, Any], Any], None]


class _WatchedForward:
    """A module's ``forward``, which reports to watchers before and after each call."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.watchers: list[_Watcher] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        for watcher in self.watchers:
            watcher.started(arguments, keywords)
        output = None
        try:
            output = self.forward(*arguments, **keywords)
        finally:
            for watcher in self.watchers:
                watcher.ended(keywords, output)
        return output


def _around_forward(
    module: nn.Module, watcher: _Watcher, *, is_first: bool = False
) -> Undo:
    """Report calls of ``module.forward`` to a watcher, first of all where asked for.

    There is one wrapper for all watchers, so that they can stop in any order; the last
    one removes it.
    """
    watched = module.__dict__.get("forward")
    if not isinstance(watched, _WatchedForward):
        watched = _WatchedForward(module.forward)
        module.__dict__["forward"] = watched
    watched.watchers.insert(0 if is_first else len(watched.watchers), watcher)

    def undo() -> None:
        watched.watchers.remove(watcher)
        if not watched.watchers:
            del module.__dict__["forward"]

    return undo
