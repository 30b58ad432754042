"""The beginning, tokens and end of a torch module's run are reported."""

import pytest
import tiny
import torch
from torch import nn

from sae_lens_ext.hosts import host_for
from sae_lens_ext.hosts.watching import (
    before_calls,
    before_every_call,
    watch_modules,
)


class _Inner(torch.nn.Module):
    """Blocks behind an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(9, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))

    def forward(self, tokens, mask=None):
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Model(torch.nn.Module):
    """A model around another, with a forward that can be told to stop early."""

    def __init__(self):
        super().__init__()
        self.inner = _Inner()

    def forward(self, tokens, stop_at_layer=None):
        if stop_at_layer == "interrupted":
            raise KeyboardInterrupt
        return self.inner(tokens, mask=tokens > 0)


class _Events(list):
    """What a listener was told, in order; and what inner models returned."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def begin(self, tensors=()):
        self.append("begin")

    def read(self, arguments):
        self.append(("read", sorted(arguments)))

    def keep(self, tokens):
        self.append(("tokens", tokens.tolist()))

    def enter(self, module, tensor, *, is_running):
        self.append(("enter", is_running))

    def made(self, output):
        self.outputs.append(output)

    def end(self, whole, output=None):
        self.append(("end", whole))

    def of(self, *kinds):
        """Those of some kinds only."""
        return [event for event in self if event in kinds or event[0] in kinds]


def _watch(events, model, **options):
    return watch_modules(
        [model, model.inner], model.inner.embed, model.inner.layers, events, **options
    )


TOKENS = torch.tensor([[1, 2]])


def _run(model, calls_forward, *arguments, **keywords):
    call = model.forward if calls_forward else model
    return call(*arguments, **keywords)


@pytest.mark.parametrize("calls_forward", [False, True])
def test_reports_a_run_from_beginning_to_end(calls_forward):
    model = _Model()
    events = _Events()
    undo = _watch(events, model, calls_forward=calls_forward)
    output = _run(model, calls_forward, TOKENS)
    (inner_output,) = events.outputs
    assert inner_output is output
    assert events == [
        "begin",
        ("read", ["tokens"]),
        ("read", ["mask", "tokens"]),
        ("tokens", [[1, 2]]),
        ("enter", True),
        ("enter", True),
        ("end", True),
    ]

    undo()
    _run(model, calls_forward, TOKENS)
    assert len(events) == 7
    assert not any(any(hooks[1:]) for hooks in tiny.hooks_of(model))


@pytest.mark.parametrize("calls_forward", [False, True])
def test_a_call_of_an_inner_model_is_a_run(calls_forward):
    model = _Model()
    events = _Events()
    _watch(events, model, calls_forward=calls_forward)
    model.inner(TOKENS)
    assert events.of("begin", "read", "end") == [
        "begin",
        ("read", ["tokens"]),
        ("end", True),
    ]


@pytest.mark.parametrize("calls_forward", [False, True])
def test_a_run_cut_short_is_not_whole(calls_forward):
    model = _Model()
    events = _Events()
    _watch(events, model, calls_forward=calls_forward)
    _run(model, calls_forward, TOKENS, stop_at_layer=1)
    assert events.pop() == ("end", False)
    with pytest.raises(IndexError):
        _run(model, calls_forward, torch.tensor([[9]]))
    assert events.pop() == ("end", False)


@pytest.mark.parametrize("calls_forward", [False, True])
def test_a_run_after_an_interruption_is_a_new_one(calls_forward):
    model = _Model()
    events = _Events()
    _watch(events, model, calls_forward=calls_forward)
    with pytest.raises(KeyboardInterrupt):
        _run(model, calls_forward, TOKENS, stop_at_layer="interrupted")
    events.clear()
    model.inner(TOKENS)
    assert events.of("begin", "end") == ["begin", ("end", True)]


@pytest.mark.parametrize("calls_forward", [False, True])
def test_what_comes_before_a_run_may_run_the_model(calls_forward):
    model = _Model()
    events = _Events()
    _watch(events, model, calls_forward=calls_forward)
    seen = []

    def before(arguments):
        seen.append(sorted(arguments))
        assert len(events.of("begin")) == len(events.of("end")), "no run has begun"
        if len(seen) == 1:
            _run(model, calls_forward, TOKENS[:, :1])

    undo = before_calls(model, before, calls_forward=calls_forward)
    _run(model, calls_forward, TOKENS, stop_at_layer=None)
    assert seen == [["stop_at_layer", "tokens"], ["tokens"]]
    assert events.of("begin", "tokens", "end") == [
        "begin",
        ("tokens", [[1]]),
        ("end", True),
        "begin",
        ("tokens", [[1, 2]]),
        ("end", True),
    ]
    undo()
    _run(model, calls_forward, TOKENS)
    assert len(seen) == 2


@pytest.mark.parametrize("first_to_stop", [0, 1])
def test_watchers_of_forward_stop_in_any_order(first_to_stop):
    model = _Model()
    events = [_Events(), _Events()]
    undos = [_watch(watcher, model, calls_forward=True) for watcher in events]
    undos.pop(first_to_stop)()
    stopped = events.pop(first_to_stop)
    model.forward(TOKENS)
    assert stopped == []
    assert len(events.pop()) == 7
    undos.pop()()
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_every_host_reports_its_runs(name):
    model = tiny.hosted(name)
    tokens = tiny.tokens()
    events = _Events()
    undo = host_for(model).watch(events)
    tiny.logits(model, tokens)
    undo()
    tiny.logits(model, tokens)
    assert events.of("begin", "tokens", "end") == [
        "begin",
        ("tokens", tokens.tolist()),
        ("end", True),
    ]
    assert len(events.of("read")) >= 2


def test_a_call_of_either_kind_is_reported_once():
    module = nn.Linear(2, 2)
    x = torch.zeros(1, 2)
    reports = []

    def report(arguments):
        reports.append(sorted(arguments))
        # It calls the module itself, once.
        if len(reports) % 2:
            module(x)

    stop = before_every_call(module, report)
    module(x)
    assert reports == [["input"]] * 2
    module.forward(x)
    assert reports == [["input"]] * 4
    with pytest.raises(RuntimeError):
        module(torch.zeros(1, 3))
    module.forward(x)
    assert reports == [["input"]] * 8
    stop()
    module(x)
    module.forward(x)
    assert len(reports) == 8
    assert "forward" not in vars(module)
