"""Attention over long rows is that of the model, and holds nothing of [pos, pos]."""

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sae_lens_ext as sle
from sae_lens_ext.hosts import attention, host_for, long_rows, token_batch

METRIC = sle.circuits.logit_difference(7, 9)


@pytest.fixture(autouse=True)
def short_rows_are_long(monkeypatch):
    monkeypatch.setattr(attention, "LONG", 8)
    monkeypatch.setattr(attention, "_QUERIES", 5)


@pytest.fixture
def calls(monkeypatch):
    """The numbers of queries that were taken at a time, forward."""
    numbers = []
    original = attention._rows

    def counted(mask, start, stop):
        if not torch.is_grad_enabled():
            numbers.append(stop - start)
        return original(mask, start, stop)

    monkeypatch.setattr(attention, "_rows", counted)
    return numbers


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that is made, those of backward passes too."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        for part in parts:
            if isinstance(part, torch.Tensor):
                self.n = max(self.n, part.numel())
        return result


def gradient(model, batch):
    """The logits, and the gradient of one of them by the embeddings."""
    leaves = []

    def probe(module, arguments, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()

    handle = model.get_input_embeddings().register_forward_hook(probe)
    try:
        with long_rows(host_for(model), batch):
            logits = host_for(model).logits(batch)
        (result,) = torch.autograd.grad(logits[:, -1, 7].sum(), leaves)
    finally:
        handle.remove()
    return logits.detach(), result


# Soft caps and windows; sdpa with windows; sdpa whose mask is of padding alone.
@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt2"])
def test_logits_and_gradients_are_those_of_the_model(name, calls, monkeypatch):
    model = tiny.hf_model(name)
    rows = [tiny.tokens(1, 23)[0].tolist(), tiny.tokens(1, 17, seed=1)[0].tolist()]
    batch = token_batch(model, rows)
    logits, by_embeddings = gradient(model, batch)
    n_layers = model.config.num_hidden_layers
    assert calls == [5, 5, 5, 5, 3] * n_layers

    monkeypatch.setattr(attention, "LONG", 100)
    expected, expected_by_embeddings = gradient(model, batch)
    assert len(calls) == 5 * n_layers
    mask = batch.mask
    assert (logits - expected)[mask].abs().max() < 1e-5
    assert (by_embeddings - expected_by_embeddings)[mask].abs().max() < 1e-5


def test_a_mask_that_is_causal_alone_needs_no_tensor(calls):
    model = tiny.hf_model("gpt2")
    gradient(model, token_batch(model, tiny.tokens(2, 23)))
    assert not calls


@pytest.mark.parametrize("freeze", [(), ("attention", "norms")])
def test_effects_are_the_same(freeze, calls, monkeypatch):
    model = tiny.hf_model("gemma2")
    arguments = (model, tiny.sae(), tiny.tokens(2, 23), tiny.tokens(2, 23, seed=1))
    table = sle.circuits.effects(*arguments, metric=METRIC, freeze=freeze).at(4)
    assert calls
    n_calls = len(calls)

    monkeypatch.setattr(attention, "LONG", 100)
    expected = sle.circuits.effects(*arguments, metric=METRIC, freeze=freeze).at(4)
    assert len(calls) == n_calls
    assert (table.effect - expected.effect).abs().max() < 1e-5


def test_nothing_is_quadratic_in_tokens():
    model = tiny.hf_model("gemma2")
    sizes = []
    for length in (160, 320):
        with LargestTensor() as largest:
            sle.circuits.effects(
                model, tiny.sae(), tiny.tokens(1, length), metric=METRIC
            )
        sizes.append(largest.n)
    assert sizes[1] <= 2 * sizes[0]


def test_a_model_has_its_own_attention_afterwards():
    model = tiny.hf_model("gemma2")
    batch = token_batch(model, tiny.tokens(1, 23))
    names = []

    def fail(*_):
        names.append(model.config._attn_implementation)
        raise KeyError

    model.lm_head.register_forward_hook(fail)
    with pytest.raises(KeyError):
        sle.circuits.effects(model, tiny.sae(), batch, metric=METRIC)
    assert names == ["sae_lens_ext_eager"]
    assert model.config._attn_implementation == "eager"
