"""The beginning, tokens and end of a torch module's run are reported."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import DynamicCache

from sae_lens_ext.hosts import host_for
from sae_lens_ext.hosts.watching import cached_positions, token_ids, watch_modules


class _Model(torch.nn.Module):
    """An embedding with a forward that can be told to stop early."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(9, 4)

    def forward(self, tokens, stop_at_layer=None):
        return self.embed(tokens)


class _Events(list):
    """What a watcher was told, in order."""

    def watch(self, model, **options):
        return watch_modules(
            model,
            model.embed,
            lambda start: self.append(("start", start)),
            lambda tokens: self.append(("tokens", tokens.tolist())),
            lambda whole: self.append(("end", whole)),
            **options,
        )


TOKENS = torch.tensor([[1, 2]])


def _run(model, calls_forward, *arguments, **keywords):
    call = model.forward if calls_forward else model
    return call(*arguments, **keywords)


@pytest.mark.parametrize("calls_forward", [False, True])
def test_reports_a_run_from_beginning_to_end(calls_forward):
    model = _Model()
    events = _Events()
    undo = events.watch(model, calls_forward=calls_forward)
    _run(model, calls_forward, TOKENS)
    assert events == [("start", 0), ("tokens", [[1, 2]]), ("end", True)]

    undo()
    _run(model, calls_forward, TOKENS)
    assert len(events) == 3
    assert not tiny.hooks_of(model)[0][-1], "forward should be the class's again"


@pytest.mark.parametrize("calls_forward", [False, True])
def test_a_run_cut_short_is_not_whole(calls_forward):
    model = _Model()
    events = _Events()
    events.watch(model, calls_forward=calls_forward)
    _run(model, calls_forward, TOKENS, stop_at_layer=1)
    assert events.pop() == ("end", False)
    with pytest.raises(IndexError):
        _run(model, calls_forward, torch.tensor([[9]]))
    assert events.pop() == ("end", False)


@pytest.mark.parametrize("first_to_stop", [0, 1])
def test_watchers_of_forward_stop_in_any_order(first_to_stop):
    model = _Model()
    events = [_Events(), _Events()]
    undos = [watcher.watch(model, calls_forward=True) for watcher in events]
    undos.pop(first_to_stop)()
    stopped = events.pop(first_to_stop)
    model.forward(TOKENS)
    assert stopped == []
    assert len(events.pop()) == 3
    undos.pop()()
    assert "forward" not in model.__dict__


def test_token_ids_are_the_first_tensor_of_integers():
    mask = torch.ones(1, 2, dtype=torch.bool)
    embeddings = torch.zeros(1, 2, 4)
    assert token_ids((embeddings, None, TOKENS), {}) is TOKENS
    assert token_ids((), {"inputs_embeds": embeddings, "input": TOKENS}) is TOKENS
    assert token_ids((embeddings,), {}) is None
    assert token_ids((), {"attention_mask": mask, "input": TOKENS}) is mask


def test_counts_the_positions_in_either_kind_of_cache():
    assert cached_positions({}) == 0
    assert cached_positions({"past_key_values": None}) == 0

    keys = torch.zeros(1, 2, 5, 4)
    cache = DynamicCache()
    cache.update(keys, keys, 0)
    assert cached_positions({"past_key_values": cache}) == 5

    # HookedTransformer's has an entry per layer, with keys [batch, pos, head, d_head].
    entry = SimpleNamespace(past_keys=torch.zeros(1, 6, 2, 4))
    assert cached_positions({"past_kv_cache": [entry]}) == 6


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_every_host_reports_its_runs(name):
    model = tiny.hosted(name)
    tokens = tiny.tokens()
    events = []
    undo = host_for(model).watch(
        lambda start: events.append(("start", start)),
        lambda ids: events.append(("tokens", ids.tolist())),
        lambda whole: events.append(("end", whole)),
    )
    tiny.logits(model, tokens)
    undo()
    tiny.logits(model, tokens)
    assert events == [("start", 0), ("tokens", tokens.tolist()), ("end", True)]
